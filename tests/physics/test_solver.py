"""The array solver against the circuit simulator, against another solver, and against itself at finer steps."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cosim.arithmetic.patterns import pattern_bits
from cosim.config import Config
from cosim.currents.programming import ProgrammedCell, program
from cosim.device import load_card
from cosim.errors import CardError, ConfigError
from cosim.mapping import Group
from cosim.netlist import ArrayDecks
from cosim.solver import ArraySolver, Order
from cosim.solver.coupled import Bitlines, coupled_currents
from cosim.solver.crossbar import crossbar_currents
from cosim.solver.source_lines import SourceLines
from cosim.solver.stage import Stage
from cosim.spice import Simulator
from tests.physics.arrays import group_of
from tests.physics.test_corners import BSIM3, LEVEL_1

DC = "run.fidelity=dc"
# Of a unit current; a code of the default converter is one unit.
BOUND = 1e-3


def random_tile(inputs: int = 256, lines: int = 6, seed: int = 0, units: tuple[int, int] = (8, 24)) -> np.ndarray:
    """A tile of random units, those that the default cells hold."""
    return np.random.default_rng(seed).integers(*units, (inputs, lines)).astype(np.uint8)


def programmed(config: Config, simulator: Simulator) -> tuple[ArraySolver, ArrayDecks, ProgrammedCell]:
    cell = program(config, simulator)
    return (
        ArraySolver(cell.card, config, cell.shifts, cell.closed, simulator),
        ArrayDecks(cell.card, cell.shifts, config, cell.closed),
        cell,
    )


def largest_error(
    settings: list[str],
    group: Group,
    drive: np.ndarray,
    simulator: Simulator,
    shifts: np.ndarray | None = None,
) -> float:
    """Largest distance of solved currents from ngspice `dc`, in unit currents."""
    config = Config.load(None, [DC, *settings])
    solver, decks, _ = programmed(config, simulator)
    solved = solver.reads([group], [drive], [shifts])[0].double().numpy()
    (reading,) = simulator.simulate([decks.deck(group, drive, shifts=shifts)])
    return float(np.abs(solved - reading.currents).max() / config.cell.unit_a)


SETTINGS = {
    "default": [],
    "no wires": ["array.bitline_res_ohm=0"],
    "5 ohm a cell": ["array.bitline_res_ohm=5"],
    "20 ohm a cell": ["array.bitline_res_ohm=20"],
    "hot and fast": ["corner.process=ff", "corner.temperature_c=125", "corner.supply=1.1"],
    "cold and slow": ["corner.process=ss", "corner.temperature_c=-40", "corner.supply=0.9"],
    "hot, low supply": ["corner.temperature_c=125", "corner.supply=0.9"],
    "cold, high supply": ["corner.temperature_c=-40", "corner.supply=1.1", "array.bitline_res_ohm=5"],
    "closed cells left out": ["array.closed_wordlines=omitted"],
    "resistive stage": ["sense.stage=resistive", "array.bitline_res_ohm=5"],
    "stage of transistors": ["sense.stage=transistor", "array.bitlines=8"],
    "another card": ["cell.card=sonos65"],
}


@pytest.mark.parametrize("first", [0, 123, 247])
@pytest.mark.parametrize("name", SETTINGS)
def test_reads_are_those_of_the_simulator(name: str, first: int, simulator: Simulator) -> None:
    group = group_of(random_tile(), first, 9)
    numbers = np.random.default_rng(first).choice(512, 24, replace=False)
    drive = pattern_bits(np.append(numbers, [0, 511]), 9)
    assert largest_error(SETTINGS[name], group, drive, simulator) < BOUND


def test_every_pattern_is_what_single_reads_are(simulator: Simulator) -> None:
    """The binary tree of shared far ends, several groups of unequal size in one batch, single precision."""
    config = Config.load(None, [DC, "array.bitline_res_ohm=5"])
    solver, _, _ = programmed(config, simulator)
    tile = random_tile(lines=40)
    groups = [group_of(tile, first, inputs) for first, inputs in ((0, 9), (9, 9), (240, 9), (249, 7))]
    found = list(solver.every_pattern(groups, [None] * len(groups)))
    for group, currents in zip(groups, found, strict=True):
        every = pattern_bits(np.arange(2**group.inputs), group.inputs)
        (single,) = solver.reads([group], [every], [None])
        assert torch.allclose(currents, single, rtol=0, atol=1e-4 * config.cell.unit_a)


def test_a_chip_s_own_thresholds(simulator: Simulator) -> None:
    group, settings = group_of(random_tile(), 200, 9), ["array.bitline_res_ohm=5"]
    _, _, cell = programmed(Config.load(None, [DC, *settings]), simulator)
    drawn = np.random.default_rng(0).normal(0, 0.06, group.units.shape)
    drive = pattern_bits(np.array([0, 511, 300, 85, 170]), 9)
    assert largest_error(settings, group, drive, simulator, cell.shifts[group.units] + drawn) < BOUND


@pytest.mark.parametrize("count", [16, 64])
def test_more_open_wordlines_than_can_be_listed(count: int, simulator: Simulator) -> None:
    group = group_of(random_tile(lines=4), 256 - count, count)
    drive = (np.random.default_rng(0).random((12, count)) < 0.3).astype(int)
    settings = [f"array.open_wordlines={count}", "array.bitline_res_ohm=2"]
    assert largest_error(settings, group, drive, simulator) < BOUND


@pytest.mark.parametrize(
    "settings",
    [
        ["array.source_res_ohm=5"],
        ["array.source_res_ohm=5", "array.bitline_res_ohm=5", "array.source_line_wordlines=1"],
        ["array.source_res_ohm=20", "array.source_strap_cells=9", "sense.stage=resistive"],
        ["array.source_res_ohm=5", "array.bitline_res_ohm=20", "sense.stage=transistor"],
        ["array.source_res_ohm=20", "array.bitlines=24"],  # the second section ends open at the array's edge
        ["array.source_res_ohm=2", "array.source_strap_cells=100"],
    ],
)
def test_source_lines_with_resistance(settings: list[str], simulator: Simulator) -> None:
    group = group_of(random_tile(lines=21), 101, 9)
    drive = pattern_bits(np.array([0, 511, 300, 85, 170, 1]), 9)
    assert largest_error(settings, group, drive, simulator) < BOUND


@pytest.mark.parametrize("settings", [[], ["read.mode=amplitude", "array.source_line_wordlines=1"]])
def test_groups_that_are_solved_together_are_what_each_is_alone(settings: list[str], simulator: Simulator) -> None:
    """Unlike positions, numbers of reads, widths and thresholds; source lines that begin within a group."""
    config = Config.load(None, [DC, "array.source_res_ohm=5", "sense.stage=resistive", *settings])
    solver, _, cell = programmed(config, simulator)
    rng, tiles = np.random.default_rng(0), (random_tile(lines=21), random_tile(lines=21, seed=1), random_tile(lines=2))
    groups = [group_of(tile, first, 9) for tile, first in itertools.product(tiles, (0, 9, 101))]
    drives = [rng.integers(0, 2, (reads, 9)) for reads in rng.permutation(np.arange(1, 28, 3))]
    shifts = [cell.shifts[group.units] + rng.normal(0, 0.03, group.units.shape) for group in groups]
    found = solver.reads(groups, drives, shifts)
    for group, drive, shift, currents in zip(groups, drives, shifts, found, strict=True):
        (alone,) = solver.reads([group], [drive], [shift])
        assert torch.allclose(currents, alone, rtol=0, atol=2e-4 * config.cell.unit_a)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["array.source_res_ohm=5"],
        ["sense.stage=resistive"],  # cells of inputs at 0 V conduct backwards
        ["sense.stage=resistive", "sense.clamp_ohm=300", "corner.temperature_c=-40", "corner.supply=1.1"],
        ["sense.stage=resistive", "array.source_res_ohm=5", "cell.card=sonos65"],
    ],
)
def test_amplitudes_of_any_mixture(settings: list[str], simulator: Simulator) -> None:
    group = group_of(random_tile(inputs=64, lines=12), 9, 9)
    drive = np.random.default_rng(0).integers(0, 16, (12, 9)) / 15
    drive[:2], drive[2, 1:] = [[0], [1]], 0
    given = ["read.mode=amplitude", "array.source_line_wordlines=1", *settings]
    assert largest_error(given, group, drive, simulator) < BOUND


@pytest.mark.parametrize("text", [LEVEL_1, BSIM3])
def test_a_user_s_own_subcircuit(text: str, simulator: Simulator, tmp_path: Path) -> None:
    path = tmp_path / "mine.lib"
    path.write_text(text)
    settings = [f"cell.card={path}", "cell.full_scale_a=3e-6", "array.bitline_res_ohm=5"]
    group = group_of(random_tile(), 100, 9)
    drive = pattern_bits(np.array([511, 300, 85]), 9)
    assert largest_error(settings, group, drive, simulator) < BOUND


def test_the_error_falls_with_points_and_degree(simulator: Simulator) -> None:
    """By orders of magnitude with each, on long wires, until single precision and the simulator's tolerance are met."""
    config = Config.load(None, [DC, "array.bitline_res_ohm=20"])
    cell = program(config, simulator)
    group, drive = group_of(random_tile(), 247, 9), pattern_bits(np.arange(512), 9)
    (reading,) = simulator.simulate([ArrayDecks(cell.card, cell.shifts, config, cell.closed).deck(group, drive)])

    def error(order: Order) -> float:
        solver = ArraySolver(cell.card, config, cell.shifts, cell.closed, simulator, order)
        (found,) = solver.every_pattern([group], [None])
        return float(np.abs(found.double().numpy() - reading.currents).max() / config.cell.unit_a)

    by_points = [error(Order(points=points)) for points in (2, 3, 4, 5)]
    assert by_points[0] > 0.1
    assert all(coarse > 6 * fine for coarse, fine in itertools.pairwise(by_points[:3]))
    assert by_points[-1] < 3e-4
    assert error(Order(drain=5)) < 3e-4


def linear_bitlines(siemens: Tensor, volts: float, ohm: float) -> Bitlines:
    """Crossbar cells (cells, columns) that are resistors."""
    none = torch.zeros(1, siemens.shape[1], dtype=torch.float64)
    siemens = siemens[:, None]
    return Bitlines(
        torch.stack([volts * siemens, -siemens])[:, None],
        2,
        torch.zeros_like(siemens),
        ohm,
        torch.full((1,), ohm, dtype=torch.float64),
        none,
        none,
        none,
        volts,
        1,
    )


def test_resistive_crossbars_equal_badcrossbar() -> None:
    """Its wordlines are the driven lines here, and its bitlines the sensed ones: bitlines and source lines."""
    with warnings.catch_warnings(record=True):  # it misses pycairo, which its plots need
        badcrossbar = pytest.importorskip("badcrossbar", reason="badcrossbar is not installed: script/prepare --dev")
    size, rng = 24, np.random.default_rng(0)
    siemens, shares = rng.uniform(1e-6, 100e-6, (size, size)), rng.uniform(0, 1, (3, size))
    expected = badcrossbar.compute(0.1 * shares.T[::-1], 1 / siemens[::-1], r_i=1).currents.output
    settings = ["read.mode=amplitude", "array.source_line_wordlines=1", "array.source_res_ohm=1",
                "array.bitline_res_ohm=1", f"array.source_strap_cells={size + 1}", f"array.wordlines={size}",
                f"array.bitlines={size}", "array.closed_wordlines=omitted"]  # fmt: skip
    config = Config.load(None, settings)
    group = group_of(np.zeros((size, size), np.uint8), 0, size)
    found = coupled_currents(
        linear_bitlines(torch.from_numpy(siemens.T.copy()), 0.1, 1.0),
        torch.ones(1, 3, size, dtype=torch.float64),
        torch.from_numpy(0.1 * shares)[None],
        SourceLines.of(config, group, None),
        Stage(0.1),
    )
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-6)
    direct = crossbar_currents(torch.from_numpy(siemens.T.copy()), torch.from_numpy(0.1 * shares), 1.0)
    np.testing.assert_allclose(direct.numpy(), expected, rtol=1e-9)


KINKED = """
* A cell whose current has a corner in the middle of the drain's range.
.subckt kinked drain gate source body shift=0
b1 drain source i=1e-5*exp(-shift)*(v(drain)-v(source)+3*max(v(drain)-v(source)-0.05,0))*v(gate)
.ends
"""
FALLING = """
* A cell whose current falls where its drain rises beyond 60 mV.
.subckt falling drain gate source body shift=0
b1 drain source i=1e-5*exp(-shift)*(v(drain)-v(source))*(0.12-v(drain)+v(source))*v(gate)
.ends
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [(KINKED, r"off a polynomial of degree 5 .*choose \"dc\" or \"tran\""),
     (FALLING, r"falls while its drain rises.*choose \"dc\" or \"tran\"")],
)  # fmt: skip
def test_cards_that_polynomials_do_not_follow_are_refused(
    text: str, message: str, simulator: Simulator, tmp_path: Path
) -> None:
    path = tmp_path / "odd.card"
    path.write_text(text)
    config = Config.load(None, [f"cell.card={path}", "run.fidelity=solved"])
    shifts = np.linspace(2, 0, config.cell.most_units + 1)
    with pytest.raises(CardError, match=message):
        ArraySolver(load_card(path), config, shifts, None, simulator)


def test_source_lines_that_rise_too_far_are_refused(simulator: Simulator) -> None:
    settings = [DC, "array.source_res_ohm=20", "array.source_strap_cells=64"]
    solver, _, _ = programmed(Config.load(None, settings), simulator)
    group = group_of(random_tile(lines=48), 0, 9)
    with pytest.raises(ConfigError, match=r"source lines rise to .*lower array\.source_res_ohm"):
        solver.reads([group], [np.ones((1, 9))], [None])
