"""Runs, records and comparisons, through the public face."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import cosim
from cosim.errors import ConfigError, DatasetError, NetworkError
from cosim.evaluate import Accuracy, RunRecord, compare_record
from cosim.network import Network, SoftwareStep
from tests.conftest import make_layer, make_network, random_images

WIRED = ["array.open_wordlines=4", "array.bitline_res_ohm=40", "run.fidelity=dc"]


@pytest.fixture(scope="module")
def dataset() -> cosim.Dataset:
    images = (random_images(40) * 255).to(torch.uint8)
    return cosim.Dataset("random", images, 255, torch.arange(40) % 3, "md5:0")


@pytest.fixture(scope="module")
def record(dataset: cosim.Dataset, shared_store: Path) -> RunRecord:
    circuit = cosim.CircuitNetwork(
        make_network(float_weights=True),
        cosim.Config.load(None, [*WIRED, "run.fidelity=tran", "run.keep_reads=true"]),
        store=shared_store,
    )
    return cosim.infer(circuit, dataset)


def test_counts_are_those_of_the_geometry(record: RunRecord) -> None:
    first, second = compare_record(record).layers
    # 4x4 outputs, 4 bit planes, 40 images; 9 rows in 3 groups of at most 4 wordlines, 12 rows in 3.
    assert first.reads == 16 * 4 * 40 * 3
    assert second.reads == 1 * 4 * 40 * 3
    assert first.conversions == first.reads * (3 + 1)
    assert first.patterns <= 16 + 16 + 2


def test_audit_agrees_with_the_tables(record: RunRecord) -> None:
    assert record.audit is not None
    assert record.audit.decks == 6
    assert record.audit.max_error_lsb < 0.01
    assert record.audit.differing_codes == 0


def test_error_statistics_equal_a_count_over_every_read(record: RunRecord) -> None:
    kept = record.layers[0].kept
    assert kept is not None
    every = np.concatenate([np.repeat(g.lsb - g.ideal, g.uses, axis=0).ravel() for g in kept]).astype(float)
    ideal = np.concatenate([np.repeat(g.ideal, g.uses, axis=0).ravel() for g in kept]).astype(float)
    codes = np.concatenate([np.repeat(g.codes - np.rint(g.ideal), g.uses, axis=0).ravel() for g in kept])
    found = compare_record(record).layers[0]
    assert found.error_mean_lsb == pytest.approx(every.mean())
    assert found.error_rms_lsb == pytest.approx(np.sqrt((every**2).mean()))
    assert found.error_max_lsb == pytest.approx(np.abs(every).max())
    assert found.differing_codes == np.count_nonzero(codes)
    assert found.error_max_lsb > 0.1, "40 ohm a cell must show"
    assert found.correlation == pytest.approx(np.corrcoef(ideal + every, ideal)[0, 1])
    densities = record.layers[0].summary.densities
    currents, errors = densities.current_edges_lsb, densities.error_edges_lsb
    counted, _, _ = np.histogram2d(ideal, ideal + every, bins=(currents, currents))
    assert np.array_equal(densities.circuit, counted)
    # An error on an edge between two bins may fall to either.
    assert np.abs(densities.error.sum(axis=0) - np.histogram(every, errors)[0]).sum() <= 1e-3 * every.size
    assert densities.error.sum() == found.conversions


def test_reads_are_kept_on_request_and_nothing_else_changes(
    record: RunRecord, dataset: cosim.Dataset, shared_store: Path, tmp_path: Path
) -> None:
    config = record.provenance.config.with_values({"run.keep_reads": False})
    lean = cosim.infer(cosim.CircuitNetwork(make_network(float_weights=True), config, store=shared_store), dataset)
    lean.save(tmp_path / "lean.h5")
    record.save(tmp_path / "kept.h5")
    loaded, kept = RunRecord.load(tmp_path / "lean.h5"), RunRecord.load(tmp_path / "kept.h5")
    assert [layer.kept for layer in loaded.layers] == [None, None]
    assert kept.layers[0].kept is not None
    assert record.layers[0].kept is not None
    assert np.array_equal(kept.layers[0].kept[1].lsb, record.layers[0].kept[1].lsb)
    assert compare_record(loaded).layers == compare_record(record).layers
    assert (tmp_path / "lean.h5").stat().st_size < (tmp_path / "kept.h5").stat().st_size


def test_reads_of_many_inputs_are_kept(tmp_path: Path) -> None:
    """Beyond 62 inputs a pattern is a hash, which may be negative."""
    network = Network("wide", (8, 4, 4), [make_layer(inputs=8), SoftwareStep("flatten")])
    images = cosim.Dataset("noise", random_images(9, (8, 4, 4)), 1, torch.zeros(9, dtype=torch.int64), digest="")
    wide = cosim.Config.load(None, ["run.fidelity=ideal", "run.keep_reads=true", "array.open_wordlines=72"])
    record = cosim.infer(cosim.CircuitNetwork(network, wide), images)
    record.save(tmp_path / "run.h5")
    again = RunRecord.load(tmp_path / "run.h5")
    assert record.layers[0].kept is not None
    assert again.layers[0].kept is not None
    assert record.layers[0].kept[0].patterns.min() < 0
    assert np.array_equal(again.layers[0].kept[0].patterns, record.layers[0].kept[0].patterns)


def test_every_dataset_says_its_unit_and_what_it_is(record: RunRecord, tmp_path: Path) -> None:
    record.save(tmp_path / "run.h5")
    told = []
    with h5py.File(tmp_path / "run.h5") as file:

        def look(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                told.append(item.attrs["description"] != "" and item.attrs["unit"] in ("", "V", "A", "s", "LSB"))

        file.visititems(look)
        layer = dict(file["layers/1"].attrs)
    assert len(told) > 30
    assert all(told)
    assert layer["name"] == "conv2"
    assert layer["kernel"].tolist() == [2, 2]
    assert (layer["in_channels"], layer["out_channels"], layer["weight_bits"], layer["tiles"]) == (3, 4, 4, 1)
    assert RunRecord.load(tmp_path / "run.h5").layers[1].geometry == record.layers[1].geometry


def test_round_trip_through_hdf5(record: RunRecord, tmp_path: Path) -> None:
    record.save(tmp_path / "run.h5")
    again = RunRecord.load(tmp_path / "run.h5")
    assert compare_record(again) == compare_record(record)
    assert again.waveform is not None
    assert record.waveform is not None
    assert np.array_equal(again.waveform.currents_a, record.waveform.currents_a)


def test_circuit_is_a_torch_module_and_compare_is_one_call(dataset: cosim.Dataset, shared_store: Path) -> None:
    circuit = cosim.CircuitNetwork(make_network(), cosim.Config.load(None, WIRED), store=shared_store)
    assert isinstance(circuit, torch.nn.Module)
    images = dataset.real(0, 40)
    logits = circuit(images)
    assert logits.shape == (40, 3)
    comparison = cosim.compare(circuit, images, dataset.labels)
    assert comparison.accuracy_float is None
    assert comparison.accuracy_circuit.correct == int((logits.argmax(1) == dataset.labels).sum())


def test_a_second_run_on_one_circuit_counts_its_own_reads(dataset: cosim.Dataset, shared_store: Path) -> None:
    circuit = cosim.CircuitNetwork(make_network(), cosim.Config.load(None, WIRED), store=shared_store)
    circuit(dataset.real(0, 10))
    first, second = cosim.infer(circuit, dataset), cosim.infer(circuit, dataset)
    assert compare_record(first).layers == compare_record(second).layers
    assert first.provenance.usage is not None
    assert second.provenance.usage is not None
    assert first.provenance.usage.decks_reused > 0
    assert second.provenance.usage.patterns_simulated == 0


@pytest.mark.parametrize("fidelity", ["ideal", "dc"])
def test_images_that_come_one_by_one_say_the_same(fidelity: str, dataset: cosim.Dataset, shared_store: Path) -> None:
    """Each image brings new patterns for some groups and none for others."""
    config = cosim.Config.load(None, [*WIRED, f"run.fidelity={fidelity}"])
    whole, single = (cosim.CircuitNetwork(make_network(), config, store=shared_store) for _ in range(2))
    images = dataset.real(0, 12)
    assert torch.equal(whole(images), torch.cat([single(image[None]) for image in images]))


def test_audits_do_not_settle_for_closed_wordlines(record: RunRecord) -> None:
    assert record.audit is not None
    assert record.audit.patterns >= 6 * 6


def test_activations_that_were_not_seen_are_not_answered_with_zeros(shared_store: Path) -> None:
    circuit = cosim.CircuitNetwork(
        make_network(), cosim.Config.load(None, [*WIRED, "trim.method=none"]), store=shared_store
    )
    with pytest.raises(RuntimeError, match="has not seen these activations"):
        circuit.audit(random_images(3))


def test_clipping_is_counted_and_is_no_difference_to_an_ideal_array(dataset: cosim.Dataset) -> None:
    settings = ["run.fidelity=ideal", "adc.bits=4", "adc.full_scale_units=15"]
    circuit = cosim.CircuitNetwork(make_network(), cosim.Config.load(None, settings))
    (first, _) = compare_record(cosim.infer(circuit, dataset)).layers
    assert first.clipped_codes > 0
    assert first.differing_codes == 0


def test_wires_change_what_the_circuit_says(dataset: cosim.Dataset, shared_store: Path) -> None:
    network, images = make_network(), dataset.real(0, 40)
    circuit = cosim.CircuitNetwork(
        network, cosim.Config.load(None, [*WIRED, "array.bitline_res_ohm=40"]), store=shared_store
    )
    with torch.no_grad():
        assert not torch.equal(circuit(images), network(images))


def test_fidelities_agree_within_a_hundredth_of_a_code(dataset: cosim.Dataset, shared_store: Path) -> None:
    currents = []
    for fidelity in ("dc", "tran"):
        config = cosim.Config.load(None, [*WIRED, f"run.fidelity={fidelity}"])
        circuit = cosim.CircuitNetwork(make_network(), config, store=shared_store)
        circuit(dataset.real(0, 40))
        currents.append(circuit.arrays["conv1"].table.reads(0).lsb)
    assert np.abs(currents[0] - currents[1]).max() < 0.01


def test_a_circuit_with_memory_is_caught_by_the_audit(dataset: cosim.Dataset, shared_store: Path) -> None:
    """Bitlines so slow that a read sees the one before: tables in Gray order differ from reads in image order."""
    slow = ["array.open_wordlines=4", "array.bitline_res_ohm=40", "array.bitline_cap_f=2e-14", "read.pulse_s=1e-9",
            "read.rise_s=0.2e-9"]  # fmt: skip
    circuit = cosim.CircuitNetwork(make_network(), cosim.Config.load(None, slow), store=shared_store)
    found = cosim.infer(circuit, dataset)
    assert found.audit is not None
    assert found.audit.max_error_lsb > 1
    assert found.layers[0].unsettled_lsb > 1


def test_confidence_interval_is_wilsons() -> None:
    p, n, z = 0.9935, 10000, 1.959964
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    assert Accuracy(9935, 10000).interval == pytest.approx(expected, abs=1e-8)


def test_layers_and_shapes_that_do_not_fit(dataset: cosim.Dataset) -> None:
    with pytest.raises(ConfigError, match="has no layer 'conv3': did you mean 'conv"):
        cosim.CircuitNetwork(make_network(), cosim.Config.load(None, ["run.layers=conv1,conv3"]))
    circuit = cosim.CircuitNetwork(make_network(), cosim.Config.load(None, ["run.fidelity=ideal"]))
    with pytest.raises(NetworkError, match="takes images of shape"):
        circuit(torch.zeros(1, 1, 28, 28))
    with pytest.raises(DatasetError, match="at least one image"):
        cosim.compare(circuit, torch.zeros(0, 1, 6, 6), torch.zeros(0, dtype=torch.int64))
