"""Whole tiles: every wire, closed wordlines, and the time step, against what is solved or resolved apart from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cosim.mapping import gray_order
from cosim.reference import solve_group
from cosim.spice import Simulator
from tests.physics.arrays import CARD, cell_curve, decks_for, drive_of, group_of, random_group, read

# Every wire there is, at the upper end of what arrays have.
EVERY_WIRE = [
    "array.bitline_res_ohm=5",
    "array.coupling_cap_f=0.1e-15",
    "array.wordline_res_ohm=20",
    "array.wordline_cap_f=0.2e-15",
    "array.source_res_ohm=5",
    "array.source_cap_f=0.2e-15",
    "array.source_strap_cells=8",
]


def random_tile(wordlines: int, bitlines: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 16, (wordlines, bitlines)).astype(np.uint8)


@pytest.mark.parametrize(
    ("wordlines", "bitlines", "first", "opened", "reads", "fidelity"),
    [
        (32, 16, 0, 32, 6, "tran"),
        (32, 16, 0, 32, 6, "dc"),
        (32, 13, 11, 9, 6, "dc"),  # a group between closed wordlines, bitlines that end between straps
        (128, 32, 40, 48, 2, "dc"),
    ],
)
def test_tiles_with_every_wire_equal_the_nodal_solution(
    wordlines: int, bitlines: int, first: int, opened: int, reads: int, fidelity: str, simulator: Simulator
) -> None:
    """Every cell of the tile is in the deck. Asked for: 0.05 % of full scale."""
    shape = [f"array.wordlines={wordlines}", f"array.bitlines={(bitlines + 7) // 8 * 8}"]
    settings = [*EVERY_WIRE, *shape, "array.closed_wordlines=cells", f"run.fidelity={fidelity}"]
    decks = decks_for(settings, simulator)
    config = decks.config
    group = group_of(random_tile(wordlines, bitlines), first, opened)
    patterns = np.append(2**opened - 1, np.random.default_rng(4).integers(0, 2**opened, reads - 1))
    curve = cell_curve(CARD, decks.shifts, config, simulator)
    solved = solve_group(group, patterns, config.array, config.read.bitline_v, curve)
    error = np.abs(read(simulator, decks.deck(group, drive_of(group, patterns))) - solved).max()
    assert error < 5e-6 * opened * config.cell.full_scale_a
    # A solver that knew of bitlines only would be far off.
    bitlines_only = config.array.model_copy(update={"source_res_ohm": 0.0})
    unaware = solve_group(group, patterns, bitlines_only, config.read.bitline_v, curve)
    assert np.abs(unaware - solved).max() > 100 * error


def test_source_lines_make_bitlines_see_each_other(simulator: Simulator) -> None:
    """A bitline loses current to its neighbours' cells, and less of it the closer the straps stand."""
    tile = np.full((2, 16), 15, np.uint8)
    alone = np.where(np.arange(16) == 7, tile, 0).astype(np.uint8)
    lost = {}
    for strap in (4, 8, 100):
        settings = ["run.fidelity=dc", "array.source_res_ohm=20", f"array.source_strap_cells={strap}"]
        decks = decks_for([*settings, "array.wordlines=9", "array.bitlines=16"], simulator)
        among, by_itself = (
            read(simulator, decks.deck(group_of(t, 0, 2), np.ones((1, 2))))[0, 7] for t in (tile, alone)
        )
        lost[strap] = 1 - among / by_itself
    assert 0 < lost[4] < lost[8] < lost[100]


@pytest.mark.parametrize("first", [0, 1])
def test_wordlines_share_source_lines_by_their_place_on_the_tile(first: int, simulator: Simulator) -> None:
    """Wordlines 0 and 1 have a line between them, 1 and 2 a line each."""
    settings = ["run.fidelity=dc", "array.source_res_ohm=50", "array.source_strap_cells=100", "array.wordlines=9"]
    decks = decks_for([*settings, "array.bitline_res_ohm=0"], simulator)
    group = group_of(np.full((9, 8), 15, np.uint8), first, 2)
    lower, upper, both = read(simulator, decks.deck(group, drive_of(group, np.array([1, 2, 3]))))
    assert np.allclose(lower + upper, both, rtol=1e-6) is (first == 1)


def test_wordline_wires_delay_far_bitlines_and_leave_settled_currents(simulator: Simulator) -> None:
    """The delay of a distributed line, of the order of cells squared times RC a cell, and proportional to R."""
    group, patterns = group_of(np.full((9, 16), 8, np.uint8), 0, 9), np.array([511, 511])
    reached, settled = [], []
    for ohm in (0, 15e3, 30e3):
        wires = [f"array.wordline_res_ohm={ohm}", "array.wordline_cap_f=0.5e-15"]
        decks = decks_for(["array.wordlines=9", "array.bitlines=16", *wires], simulator)
        (reading,) = simulator.simulate([decks.deck(group, drive_of(group, patterns), careful=True)])
        half = [np.interp(current[-1] / 2, current, reading.wave_time) for current in rising(reading.wave_currents)]
        reached.append(np.array(half))
        settled.append(reading.currents[1])
    np.testing.assert_allclose(settled[1:], [settled[0]] * 2, rtol=1e-5)
    slow, slower = reached[1] - reached[0], reached[2] - reached[0]
    assert np.all(np.diff(slower[::5]) > 0)
    assert slower[-1] / slow[-1] == pytest.approx(2, rel=0.1)
    assert 0.5 < slower[-1] / (16**2 * 30e3 * 0.5e-15) < 1.2


def rising(currents: np.ndarray) -> np.ndarray:
    """(bitlines, points) currents of a first read, made monotonic so that they can be inverted."""
    return np.maximum.accumulate(currents, axis=0).T


def test_a_bitline_disturbs_its_neighbour_through_their_coupling(simulator: Simulator) -> None:
    """A bitline without conducting cells draws current while its neighbour moves, and none once that has settled."""
    units = np.zeros((9, 2), np.uint8)
    units[:, 0] = 15
    moved = {}
    for farad in (0.0, 1e-15):
        decks = decks_for([f"array.coupling_cap_f={farad}", "array.bitline_res_ohm=20"], simulator)
        deck = decks.deck(group_of(np.vstack([np.zeros((60, 2), np.uint8), units]), 60, 9), np.ones((2, 9)))
        (reading,) = simulator.simulate([replace(deck, wave_reads=1)])
        moved[farad] = np.abs(reading.wave_currents[:, 1]).max()
        assert abs(reading.currents[1, 1]) < 2e-2 * decks.config.cell.unit_a
    assert moved[1e-15] > 1.5 * moved[0.0]


# A tile of 48 wordlines as cells, against lumps. The bitlines differ, so the lumps do.
CLOSED = {
    "default wires": [],
    "5 ohm a cell, dc": ["array.bitline_res_ohm=5", "run.fidelity=dc"],
    "every wire": EVERY_WIRE,
    "leaky": ["array.bitline_res_ohm=20", "cell.full_scale_a=1.47e-5", "cell.offset_units=0", "run.fidelity=dc"],
}
# Bitlines that only the cells' capacitance slows, read long before they have settled.
SLOW = [
    "array.bitline_res_ohm=8e3",
    "array.bitline_cap_f=0",
    "cell.full_scale_a=1.5e-8",
    "read.pulse_s=0.7e-9",
    "read.rise_s=0.05e-9",
]


def errors_of_closed_wordlines(settings: list[str], simulator: Simulator, **changes: object) -> tuple[float, float]:
    """How far lumped and omitted cells are from a deck of every cell of a tile of 48 wordlines [LSB]."""
    tile = random_tile(48, 3)
    tile[:, 1] = 15
    found = []
    for way in ("cells", "lumped", "omitted"):
        decks = decks_for([*settings, "array.wordlines=48", f"array.closed_wordlines={way}"], simulator)
        group = group_of(tile, 27, 9)
        deck = decks.deck(group, drive_of(group, gray_order(4) << 3))
        found.append(read(simulator, replace(deck, **changes)) / decks.config.cell.unit_a)
    cells, lumped, omitted = found
    return np.abs(lumped - cells).max(), np.abs(omitted - cells).max()


@pytest.mark.parametrize("case", CLOSED)
def test_closed_wordlines_lumped_equal_every_cell(case: str, simulator: Simulator) -> None:
    lumped, omitted = errors_of_closed_wordlines(CLOSED[case], simulator)
    assert lumped < 1e-3  # asked for: 0.01 LSB
    if case == "leaky":
        assert omitted > 10 * lumped


def test_lumped_closed_wordlines_slow_a_bitline_as_every_cell_does(simulator: Simulator) -> None:
    """Some LSB from settled, where the two ends of a distributed line cannot be all of it."""
    resolved = {"method": "gear", "reltol": 1e-5, "chgtol": 1e-19}
    lumped, omitted = errors_of_closed_wordlines(SLOW, simulator, options=resolved, command=".tran 5p 2.85n")
    assert omitted > 3
    assert lumped < omitted / 10


@pytest.mark.parametrize("wires", [[], ["array.bitline_res_ohm=5"], EVERY_WIRE], ids=["default", "5 ohm", "every wire"])
def test_default_decks_equal_decks_ten_times_finer(wires: list[str], simulator: Simulator) -> None:
    """Step and tolerances, each and both, of the decks behind tables and of audits. Asked for: 0.05 LSB."""
    decks = decks_for(wires, simulator)
    group, patterns = random_group(wordlines=9), gray_order(32)
    fast, resolved = (
        decks.deck(group, drive_of(group, patterns)),
        decks.deck(group, drive_of(group, patterns), careful=True),
    )
    step, stop = decks.config.read.pulse_s / 10, fast.samples[-1]
    fine_step = f".tran {step:.10g} {stop:.10g} 0 {step:.10g}"
    fine = {"method": "gear", "reltol": 1e-4, "abstol": 1e-13, "vntol": 1e-7, "bypass": 0}
    unit = decks.config.cell.unit_a
    exact = read(simulator, replace(resolved, command=fine_step, options={**fine, "reltol": 1e-6, "trtol": 1}))
    for deck in (fast, resolved):
        found = read(simulator, deck)
        for finer in (replace(deck, command=fine_step), replace(deck, command=fine_step, options=fine)):
            assert np.abs(found - read(simulator, finer)).max() < 0.01 * unit
        assert np.abs(found - exact).max() < 0.01 * unit
