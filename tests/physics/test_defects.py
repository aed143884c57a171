"""Stuck cells, dead bitlines and their spares: by their place, in every source, told and survived."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cosim.config import Config
from cosim.datasets import Dataset
from cosim.device import RepairedBitlines, StuckCells
from cosim.errors import ConfigError
from cosim.evaluate import CircuitNetwork, compare_record, infer
from cosim.mapping import Group
from cosim.network import Network
from cosim.report import find_cautions, layer_table
from cosim.report.page import render_page
from tests.conftest import LEVEL_0_OFF, make_layer, make_network, random_images
from tests.physics.test_converter import columns

LEVELS_V = np.linspace(2.4, 0.3, 16)
NO_WIRES = ["array.bitline_res_ohm=0", "array.bitline_cap_f=0"]


def group_of(wordlines: int = 40, bitlines: int = 60, first_input: int = 0) -> Group:
    return Group(0, first_input, 0, (0, wordlines), (0, bitlines - 1), np.full((wordlines, bitlines), 8, np.uint8))


def random_dataset(count: int = 20) -> Dataset:
    images = (random_images(count) * 255).to(torch.uint8)
    return Dataset("random", images, 255, torch.arange(count) % 3, "")


def circuit_of(store: Path, *settings: str) -> CircuitNetwork:
    config = Config.load(None, ["run.fidelity=solved", "array.open_wordlines=4", *settings])
    return CircuitNetwork(make_network(), config, store=store)


def test_cells_are_stuck_by_their_place() -> None:
    config = Config.load(None, ["defects.off_share=0.2", "defects.on_share=0.1", "defects.on_below_v=0.5"])
    cells = StuckCells.of(config, LEVELS_V)
    assert cells is not None
    group = group_of()
    off, on = cells.stuck(0, group)
    assert off.mean() == pytest.approx(0.2, abs=0.03)
    assert on.mean() == pytest.approx(0.1, abs=0.02)
    assert not (off & on).any()
    shifts = cells.cell_shifts(0, group, np.full(group.units.shape, 1.0))
    assert np.all(shifts[off] == 2.4 + 2)
    assert shifts[on] == pytest.approx(0.3 - 0.5)
    assert np.all(shifts[~off & ~on] == 1.0)
    part = cells.stuck(0, group_of(5, 20, first_input=11))
    assert np.array_equal(part[0], off[11:16, :20])
    more = StuckCells.of(config.with_values({"defects.off_share": 0.4}), LEVELS_V)
    assert more is not None
    assert np.all(more.stuck(0, group)[0] >= off), "a worse chip of the same number has these, too"
    assert StuckCells.of(Config(), LEVELS_V) is None


@pytest.mark.parametrize("fidelity", ["solved", "dc", "tran"])
@pytest.mark.parametrize("corner", [[], ["corner.temperature_c=125", "corner.supply=1.2"]])
def test_stuck_cells_conduct_nothing_or_the_most(fidelity: str, corner: list[str], shared_store: Path) -> None:
    """Each cell read alone: nothing, the full scale, or what its level conducts, on a chip that else has no error."""
    settings = [*NO_WIRES, *LEVEL_0_OFF, *corner, f"run.fidelity={fidelity}", "defects.off_share=0.2"]
    config = Config.load(None, [*settings, "defects.on_share=0.2"])
    layer = columns([[level, (level + 5) % 15, 9] for level in range(1, 13)])
    circuit = CircuitNetwork(Network("one", (1, 1, 1), [layer]), config, store=shared_store)
    (array,) = circuit.arrays.values()
    (group,) = array.plan.groups
    cell = circuit.source.cell
    assert cell is not None
    assert cell.stuck is not None
    off, on = cell.stuck.stuck(0, group)
    assert off.any()
    assert on.any()
    ideal = np.full((3, 2, group.units.shape[1]), 15.0)

    def read(units: np.ndarray) -> np.ndarray:
        requests = [replace(array.reader.request(0, np.eye(3)), group=replace(group, units=units))]
        (found,) = circuit.source.currents(requests, "stuck")
        return found.currents / config.cell.unit_a

    found = read(group.units)
    assert np.abs(found[off]).max() < 2e-3
    healthy = Config.load(None, [each for each in settings if "off_share" not in each])
    design = CircuitNetwork(Network("one", (1, 1, 1), [layer]), healthy, store=shared_store)
    (nominal,) = design.source.currents([design.arrays["conv1"].reader.request(0, np.eye(3))], "healthy")
    np.testing.assert_allclose(found[~off & ~on], nominal.currents[~off & ~on] / config.cell.unit_a, atol=2e-3)
    assert found[on].min() > 0.98 * found.max()
    if not corner:
        np.testing.assert_allclose(found[on], ideal[0, 0, 0], atol=2e-3)


def test_a_stuck_cell_adds_to_program_error_last(shared_store: Path) -> None:
    """Whatever is programmed, a stuck cell keeps its threshold."""
    stuck = "defects.off_share=0.3"
    errors = ["variation.program_sigma_v=0.03", "variation.retention_s=1e6"]
    circuits = [circuit_of(shared_store, stuck), circuit_of(shared_store, stuck, *errors)]
    groups = [circuit.arrays["conv1"].plan.groups[0] for circuit in circuits]
    plain, erring = (
        circuit.arrays["conv1"].reader.request_of(group, np.ones((1, group.inputs)), 0).cells
        for circuit, group in zip(circuits, groups, strict=True)
    )
    assert plain is not None
    assert erring is not None
    same = plain == erring
    off = plain == plain.max()
    assert np.array_equal(same, off)
    assert 0 < off.sum() < off.size


def bitlines_of(*settings: str, used: int = 64, tile: int = 0) -> RepairedBitlines:
    return RepairedBitlines.drawn(Config.load(None, list(settings)), 0, tile, used)


def test_dead_bitlines_are_drawn_by_their_place() -> None:
    dead = np.concatenate([bitlines_of("defects.bitline_share=0.1", tile=tile).dead for tile in range(60)])
    assert dead.mean() == pytest.approx(0.1, abs=0.015)
    share = "defects.bitline_share=0.3"
    assert np.array_equal(bitlines_of(share, used=20).dead, bitlines_of(share).dead[:20])
    assert not np.array_equal(bitlines_of(share).dead, bitlines_of(share, "variation.chip=1").dead)


def test_spares_replace_the_reference_column_first_and_then_in_order() -> None:
    share = "defects.bitline_share=0.3"
    # A chip of which the last bitline is dead, so that a spare is worth most there.
    chip = next(chip for chip in range(50) if bitlines_of(share, f"variation.chip={chip}").dead[-1])
    settings = [share, f"variation.chip={chip}"]
    before = np.flatnonzero(bitlines_of(*settings).dead)
    spares = [bitlines_of(*settings, f"defects.spare_bitlines={count}") for count in range(40)]
    for count, found in enumerate(spares):
        left = [*before[found.replaced - 1 :]][:-1] if found.replaced else [*before]
        assert np.flatnonzero(found.dead).tolist() == left
        assert found.replaced <= count, "spares may be dead, too"
        assert found.replaced + found.dead.sum() == len(before)
    assert [found.replaced for found in spares] == sorted(found.replaced for found in spares)
    assert spares[-1].dead.sum() == 0
    pairs = bitlines_of(*settings, "array.encoding=differential", "defects.spare_bitlines=3")
    assert np.flatnonzero(pairs.dead).tolist() == [*before[pairs.replaced :]]


DEAD = ["defects.bitline_share=0.4", "variation.chip=8"]


@pytest.mark.parametrize("fidelity", ["ideal", "solved", "dc", "tran"])
def test_a_dead_bitline_reads_nothing(fidelity: str, shared_store: Path) -> None:
    circuit = circuit_of(shared_store, *DEAD, f"run.fidelity={fidelity}", "adc.noise_lsb=0.0")
    healthy = circuit_of(shared_store, "variation.chip=8", f"run.fidelity={fidelity}")
    images = random_images(4)
    circuit(images)
    healthy(images)
    table, other = circuit.arrays["conv1"].table, healthy.arrays["conv1"].table
    dead = RepairedBitlines.drawn(circuit.config, 0, 0, 4).dead
    assert 0 < dead.sum() < 4
    found, expected = table.reads(0), other.reads(0)
    assert np.abs(found.lsb[:, dead]).max() < 0.05
    assert np.array_equal(found.lsb[:, ~dead], expected.lsb[:, ~dead])
    currents = table.converter(0).currents(found.lsb)
    assert np.all(currents[:, dead] == 0)
    assert np.isfinite(currents).all()


def test_enough_spares_make_the_chip_that_has_no_dead_bitline(shared_store: Path) -> None:
    images = random_images(6)
    repaired = circuit_of(shared_store, *DEAD, "defects.spare_bitlines=64")
    assert torch.equal(repaired(images), circuit_of(shared_store, "variation.chip=8")(images))
    assert sum(array.converters.replaced_bitlines for array in repaired.arrays.values()) > 0
    assert not torch.equal(circuit_of(shared_store, *DEAD)(images), repaired(images))


def test_noise_of_cells_and_traps_does_not_reach_a_dead_bitline(shared_store: Path) -> None:
    settings = [*DEAD, "variation.read_sigma_rel=0.2", "variation.telegraph_traps=2", "trim.method=none"]
    circuit = circuit_of(shared_store, *settings)
    circuit(random_images(2))
    dead = RepairedBitlines.drawn(circuit.config, 0, 0, 4).dead
    variance = circuit.arrays["conv1"].table.noise_variance(0)
    assert np.all(variance[:, dead] == 0)
    assert variance[:, ~dead].max() > 0


@pytest.mark.parametrize(
    "settings",
    [
        ["trim.method=calibration"],
        ["trim.per=layer"],
        ["trim.method=reference"],
        ["trim.through=codes", "trim.registers=both", "adc.gain_error=0.02", "adc.offset_lsb=0.5"],
        ["read.mode=amplitude", "array.source_line_wordlines=1", "run.fidelity=dc"],
        ["read.mode=pulse-width", "array.encoding=differential"],
    ],
)
def test_a_run_with_defects_is_counted_and_told(settings: list[str], shared_store: Path, tmp_path: Path) -> None:
    """A whole run: certified or audited, calibrated all the same; what cannot be repaired is in tables and cautions."""
    defects = [*DEAD, "defects.off_share=0.02", "defects.on_share=0.02", "defects.spare_bitlines=1"]
    circuit = circuit_of(shared_store, *defects, *settings)
    record = infer(circuit, random_dataset())
    comparison = compare_record(record)
    if circuit.config.run.fidelity == "solved":
        assert record.certificate is not None
        assert record.certificate.max_error_lsb < 0.01
    first, second = comparison.layers
    dead, replaced = first.dead_bitlines + second.dead_bitlines, first.replaced_bitlines + second.replaced_bitlines
    assert dead > 0
    assert replaced > 0
    assert first.stuck_cells + second.stuck_cells > 0
    told = [each for each in find_cautions(comparison) if "are dead and have no spare" in each]
    assert len(told) == sum(layer.dead_bitlines > 0 for layer in comparison.layers)
    assert "Raise defects.spare_bitlines." in told[0]
    rows = layer_table(comparison).values
    assert rows["bitlines dead"] == [str(layer.dead_bitlines) for layer in comparison.layers]
    assert rows["bitlines replaced by spares"] == [str(layer.replaced_bitlines) for layer in comparison.layers]
    assert rows["cells stuck"] == [str(layer.stuck_cells) for layer in comparison.layers]
    figures = json.loads(json.dumps(comparison.to_json()))["layers"]
    assert [layer["dead_bitlines"] for layer in figures] == [layer.dead_bitlines for layer in comparison.layers]
    page = render_page(record)
    assert "bitlines dead" in page
    assert "are dead and have no spare" in page
    record.save(tmp_path / "run.h5")
    assert compare_record(type(record).load(tmp_path / "run.h5")) == comparison


def test_a_design_without_defects_says_nothing_of_them(shared_store: Path) -> None:
    comparison = compare_record(infer(circuit_of(shared_store, "run.fidelity=ideal"), random_dataset()))
    assert not any(any(layer.defects.values()) for layer in comparison.layers)
    assert not {"cells stuck", "bitlines dead"} & layer_table(comparison).values.keys()


def test_a_bitline_whose_gain_has_no_meaning_stays_untrimmed(shared_store: Path) -> None:
    """Three cells a bitline, half of them stuck off: a few fits find next to no gain. Nearly all: nothing answers."""
    layer = make_layer(outputs=30, inputs=3, kernel=(1, 1))

    def circuit(share: float) -> CircuitNetwork:
        config = Config.load(None, ["run.fidelity=solved", f"defects.off_share={share}", *NO_WIRES])
        return CircuitNetwork(Network("one", (1, 1, 1), [layer]), config, store=shared_store)

    array = circuit(0.5).arrays["conv1"]
    assert torch.isfinite(array(torch.arange(12.0).reshape(1, 3, 2, 2))).all()
    gain, offset = array.converters.gain, array.converters.offset_lsb
    untrimmed = gain == 1
    assert 0 < untrimmed.sum() < 5
    assert np.all(offset[untrimmed] == 0)
    assert np.all((gain[~untrimmed] > 0.05) & (gain[~untrimmed] < 0.95)), "the others are trimmed"
    silent = circuit(0.999).arrays["conv1"]
    assert torch.isfinite(silent(torch.arange(12.0).reshape(1, 3, 2, 2))).all()
    assert np.all(silent.converters.gain == 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["run.fidelity=ideal", "defects.off_share=0.1"], r"has no thresholds.*choose \"solved\", \"dc\" or"),
        (["run.fidelity=ideal", "defects.on_share=0.1"], r"defects\.off_share and on_share.*or set them to 0"),
        (
            ["defects.off_share=0.7", "defects.on_share=0.6"],
            r"off_share = 0\.7 and defects\.on_share = 0\.6.*at most 1",
        ),
        (["defects.bitline_share=1.5"], r"defects\.bitline_share.*found 1\.5"),
        (["defects.spare_bitline=2"], r"unknown key defects\.spare_bitline: did you mean 'spare_bitlines'"),
    ],
)
def test_defects_that_cannot_be(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.load(None, settings)
