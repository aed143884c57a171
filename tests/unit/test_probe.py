"""One output value taken apart: the parts add up to the very number that the circuit computed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cosim
from cosim.cli import main
from cosim.errors import ConfigError, DatasetError, NetworkError
from cosim.experiments.probe import Probe, probe
from cosim.report.probe_report import probe_tables, write_probe
from cosim.spice.raw import read_raw
from tests.conftest import make_layer, make_network, random_images

WRONG = ["variation.program_sigma_v=0.05", "corner.temperature_c=85", "array.bitline_res_ohm=40", "adc.offset_lsb=0.5"]

AMPLITUDES = ["read.mode=amplitude", "array.source_line_wordlines=1"]


@pytest.fixture(scope="module")
def dataset() -> cosim.Dataset:
    images = (random_images(4) * 255).to(torch.uint8)
    return cosim.Dataset("random", images, 255, torch.arange(4) % 3, "md5:0", training=random_images(4))


def run_layer(circuit: cosim.CircuitNetwork, images: torch.Tensor, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums and outputs of a layer in a run of all images at once."""
    circuit.calibrate(images)
    circuit(images)
    activations = circuit.activations(images, layer)
    array = circuit.arrays[layer]
    sums = array.recall(activations)
    return sums, circuit.rescaling[layer].scale_output(sums)


@pytest.mark.parametrize(
    ("settings", "layer", "at", "channel"),
    [
        (["run.fidelity=dc"], "conv1", (1, 2), 2),
        (["run.fidelity=dc", *WRONG], "conv2", (0, 0), 3),
        (["run.fidelity=dc", *WRONG, "adc.noise_lsb=1", "variation.read_sigma_rel=0.05"], "conv1", (3, 0), 1),
        (
            ["run.fidelity=dc", "cell.bits=2", "adc.range=calibrated-column", "adc.calibration_images=4", "adc.bits=5"],
            "conv1",
            (2, 2),
            1,
        ),
        (["run.layers=all", "array.open_wordlines=14"], "conv2", (0, 0), 0),
        (["run.fidelity=dc", "run.layers=all", "trim.method=calibration"], "linear3", (0, 0), 2),
        (["run.fidelity=dc", *AMPLITUDES, "adc.noise_lsb=1"], "conv1", (1, 2), 2),
        (["run.fidelity=dc", *AMPLITUDES, *WRONG, "array.open_wordlines=5"], "conv2", (0, 0), 3),
    ],
)
def test_the_parts_are_the_whole(
    settings: list[str], layer: str, at: tuple[int, int], channel: int, dataset: cosim.Dataset, shared_store: Path
) -> None:
    config, network = cosim.Config.load(None, settings), make_network()
    circuit = cosim.CircuitNetwork(network, config, store=shared_store)
    sums, outputs = run_layer(circuit, dataset.real(0, 4), layer)
    found = probe(network, dataset, config, image=2, layer=layer, at=at, channel=channel, store=shared_store)
    assert found.layer_sum == float(sums[2, channel, at[0], at[1]])
    output = outputs[2, channel] if layer == "linear3" else outputs[2, channel, at[0], at[1]]
    assert found.output == pytest.approx(float(output), rel=1e-6)
    added = sum(2**read.bit * read.partial_sum for read in found.reads)
    assert added == pytest.approx(found.layer_sum, abs=1e-3)
    assert found.exact_sum == (found.activations * found.weights).sum()


@pytest.fixture(scope="module")
def found(dataset: cosim.Dataset, shared_store: Path) -> Probe:
    config = cosim.Config.load(None, ["run.fidelity=dc", "array.open_wordlines=4"])
    return probe(make_network(), dataset, config, image=0, layer="conv1", at=(1, 1), channel=1, store=shared_store)


def test_currents_are_those_of_the_patterns(found: Probe, dataset: cosim.Dataset) -> None:
    unit = found.provenance.config.cell.unit_a
    assert found.image_patch is not None
    assert np.array_equal(found.activations, np.rint(found.image_patch * 15))
    zero_point, offset = 8, cosim.Config().cell.offset_units
    for read in found.reads:
        rows = slice(*read.rows)
        bits = found.activations.ravel()[rows] >> read.bit & 1
        assert read.pattern == int((bits << np.arange(len(bits))).sum())
        levels = found.weights.ravel()[rows] + zero_point + offset
        assert read.currents_a[0] == pytest.approx(unit * (levels @ bits), rel=0.01, abs=0.01 * unit)
        assert read.currents_a[1] == pytest.approx(unit * (zero_point + offset) * bits.sum(), rel=0.01, abs=0.01 * unit)
        assert read.transient_a == pytest.approx(read.currents_a, rel=1e-3, abs=1e-3 * unit)
        assert read.codes.tolist() == read.ideal_codes.tolist()
        assert read.deck is not None
        assert re.fullmatch(r"conv1_g\d_0", read.deck)


def test_amplitudes_are_the_activations(dataset: cosim.Dataset, shared_store: Path, tmp_path: Path) -> None:
    config = cosim.Config.load(None, [*AMPLITUDES, "run.fidelity=dc", "array.open_wordlines=4", "adc.bits=11"])
    found = probe(make_network(), dataset, config, image=0, layer="conv1", at=(1, 1), channel=1, store=shared_store)
    assert [read.rows for read in found.reads] == [(0, 4), (4, 8), (8, 9)]
    for read in found.reads:
        rows = slice(*read.rows)
        assert read.amplitudes is not None
        assert read.amplitudes.tolist() == found.activations.ravel()[rows].tolist()
        reference = 8 + config.cell.offset_units
        levels = found.weights.ravel()[rows] + reference
        assert read.ideal_codes.tolist() == [levels @ read.amplitudes, reference * read.amplitudes.sum()]
        # Low amplitudes carry more than their share: V_D^2 / 2 is missing, and goes with the reference.
        assert read.codes == pytest.approx(read.ideal_codes, rel=0.25, abs=1)
        assert read.transient_a == pytest.approx(
            read.currents_a, rel=1e-3, abs=1e-3 * found.provenance.config.cell.unit_a
        )
    write_probe(found, tmp_path)
    text = (tmp_path / "waveform.vcd").read_text()
    assert re.search(r"\$var real 64 \S+ b3 \$end", text)
    assert "sl1_a" in text
    assert [table.row_count for table in probe_tables(found)] == [1, 3, 4]


def test_decks_are_those_of_the_network(found: Probe, shared_store: Path, tmp_path: Path) -> None:
    config = cosim.Config.load(None, ["run.fidelity=dc", "array.open_wordlines=4"])
    manifest = cosim.CircuitNetwork(make_network(), config, store=shared_store).write_netlists(tmp_path / "build")
    decks = {entry["file"]: entry["identity"] for entry in json.loads(manifest.read_text())["decks"]}
    for read in found.reads:
        assert decks[f"{read.deck}.cir"] == read.identity


def test_files_hold_the_waveform(found: Probe, tmp_path: Path) -> None:
    write_probe(found, tmp_path)
    plain = json.loads((tmp_path / "probe.json").read_text())
    assert plain["layer_sum"] == found.layer_sum
    assert len(plain["reads"]) == 3 * 4
    values, at, now = {}, {}, 0
    for line in (tmp_path / "waveform.vcd").read_text().splitlines():
        variable = re.fullmatch(r"\$var (?:real|wire|integer) \d+ (\S+) (\S+) \$end", line)
        if variable:
            at[variable[1]] = variable[2]
        elif line.startswith("#"):
            assert int(line[1:]) >= now, "time only rises"
            now = int(line[1:])
        elif line.startswith("r"):
            value, name = line[1:].split()
            values.setdefault(name, []).append((now, float(value)))
    assert sorted(at.values())[:2] == ["bl1_a", "bl1_a"]
    wave, read = found.waves[0], found.reads_of(found.waves[0])[0]
    column = next(name for name, label in at.items() if label == "bl1_a")
    times, currents = np.array(values[column]).T
    assert np.interp(wave.sample_s[0] * 1e15, times, currents) == pytest.approx(read.transient_a[0], rel=1e-3, abs=1e-9)
    subprocess.run(["ngspice", "-b", f"{wave.name}.cir"], cwd=tmp_path, capture_output=True, check=True)
    assert f"i(vbl{wave.bitlines[0]})" in read_raw(tmp_path / f"{wave.name}.raw").variables
    assert [table.row_count for table in probe_tables(found)] == [1, 12, 4]


def test_depthwise_and_strided_kernels_see_their_own_channels(shared_store: Path) -> None:
    layer = make_layer(outputs=4, inputs=4, groups=4, stride=(2, 1), padding=(1, 1), asymmetric=True)
    linear = make_layer(outputs=3, inputs=4 * 3 * 6, kernel=(1, 1), kind="linear", name="linear2")
    network = cosim.Network("depthwise", (4, 6, 6), [layer, cosim.SoftwareStep("flatten"), linear])
    images = (random_images(1, (4, 6, 6)) * 255).to(torch.uint8)
    dataset = cosim.Dataset("random", images, 255, torch.zeros(1, dtype=torch.int64), "")
    config = cosim.Config.load(None, ["run.fidelity=dc"])
    found = probe(network, dataset, config, image=0, layer="conv1", at=(1, 5), channel=2, store=shared_store)
    assert found.activations.shape == (1, 3, 3)
    assert found.exact_sum == (found.activations * found.weights).sum()
    assert found.layer_sum == pytest.approx(found.exact_sum, abs=30)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"image": 4}, DatasetError, r"images 0\.\.3 here, found 4"),
        ({"layer": "conv3"}, ConfigError, r"no layer 'conv3' is on arrays: did you mean"),
        ({"layer": "linear3"}, ConfigError, r"no layer 'linear3' is on arrays"),
        ({"channel": 3}, NetworkError, r"output channels 0\.\.2, found 3"),
        ({"at": (4, 0)}, NetworkError, r"rows 0\.\.3 and columns 0\.\.3, found 4,0"),
    ],
)
def test_places_that_are_not_there(
    asked: dict[str, object], error: type[Exception], message: str, dataset: cosim.Dataset, shared_store: Path
) -> None:
    place = {"image": 0, "layer": "conv1", "at": (0, 0), "channel": 0, **asked}
    with pytest.raises(error, match=message):
        probe(make_network(), dataset, cosim.Config.load(None, ["run.fidelity=dc"]), store=shared_store, **place)


def test_ideal_currents_have_no_waveform(dataset: cosim.Dataset) -> None:
    ideal = cosim.Config.load(None, ["run.fidelity=ideal"])
    with pytest.raises(ConfigError, match='no waveforms to probe: choose "solved", "dc" or "tran"'):
        probe(make_network(), dataset, ideal, image=0, layer="conv1", at=(0, 0), channel=0)


@pytest.mark.parametrize("setting", ["array.encoding=differential", "read.mode=pulse-width"])
def test_other_ways_of_reading_are_not_probed(setting: str, dataset: cosim.Dataset) -> None:
    config = cosim.Config.load(None, [setting])
    with pytest.raises(ConfigError, match=f"a probe shows .* only, found {setting.partition('=')[0]}"):
        probe(make_network(), dataset, config, image=0, layer="conv1", at=(0, 0), channel=0)


def command(arguments: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """The command's exit status."""
    monkeypatch.setattr(sys, "argv", ["cosim", *arguments.split()])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_a_finished_run_is_probed_with_its_own_settings(
    tmp_path: Path, shared_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COSIM_STORE", str(shared_store))
    settings = "--set run.fidelity=dc --set array.open_wordlines=4 --set adc.noise_lsb=1"
    assert not command(f"infer digits-w4a4 --images 5 {settings} --out run.h5", monkeypatch)
    capsys.readouterr()
    place = "--image 3 --layer conv1 --at 1,2 --channel 5"
    assert not command(f"probe run.h5 {place} --out value", monkeypatch)
    shown = capsys.readouterr().out
    assert "layer conv1, row 1, column 2, channel 5" in shown
    assert "caution" not in shown, "the very logits of the run, noise and all"
    files = {path.name for path in (tmp_path / "value").iterdir()}
    assert {"probe.json", "waveform.png", "waveform.vcd", "conv1_g0_probe.cir", "nor65.card"} <= files
    for arguments, message in (
        (f"probe run.h5 {place} --set adc.bits=4", "a finished run has its own configuration"),
        ("probe run.h5 --image 3 --layer conv1 --at 1 --channel 5", "expected a row and a column after --at"),
        ("probe run.h5 --image 5 --layer conv1 --at 1,2 --channel 5", "images 0..4 here, found 5"),
        (f"probe none.h5 {place}", "no run at none.h5"),
    ):
        assert command(arguments, monkeypatch) == 2
        assert message in capsys.readouterr().err
