"""Groups of random levels, their decks, and the curve of their cell: what the tests of arrays share."""

from __future__ import annotations

import numpy as np
from PySpice.Spice.Netlist import Circuit
from scipy.interpolate import RectBivariateSpline

from cosim.arithmetic.patterns import pattern_bits
from cosim.config import Config
from cosim.currents.programming import close_cells, program_cell
from cosim.device import Card, load_card
from cosim.mapping import Group
from cosim.netlist import ArrayDecks, Deck
from cosim.netlist.elements import element_lines
from cosim.netlist.sense import SenseStage, periphery_files
from cosim.reference import CellCurve
from cosim.spice import Simulator

CARD = load_card("nor65")
_DRAIN_POINTS, _SOURCE_POINTS = 11, 7


def random_group(first_wordline: int = 20, wordlines: int = 6, bitlines: int = 5, seed: int = 3) -> Group:
    """A group alone on its tile."""
    units = np.random.default_rng(seed).integers(0, 16, (wordlines, bitlines)).astype(np.uint8)
    return Group(0, first_wordline, 0, (0, wordlines), (0, bitlines - 1), units)


def group_of(tile: np.ndarray, first_wordline: int, wordlines: int) -> Group:
    """A group of a tile whose other cells conduct, too."""
    units = tile[first_wordline : first_wordline + wordlines]
    return Group(0, first_wordline, 0, (0, wordlines), (0, tile.shape[1] - 1), units, tile)


def drive_of(group: Group, patterns: np.ndarray) -> np.ndarray:
    """Patterns (reads,), bit i the state of input i, as what a deck is asked: (reads, inputs) of 0 and 1."""
    return pattern_bits(patterns, group.inputs)


def decks_for(settings: list[str], simulator: Simulator) -> ArrayDecks:
    """Decks of programmed cells."""
    config = Config.load(None, settings)
    shifts = program_cell(CARD, config, simulator)
    return ArrayDecks(CARD, shifts, config, close_cells(CARD, shifts, config, simulator))


def stage_response(settings: list[str], loads: np.ndarray, simulator: Simulator) -> tuple[np.ndarray, np.ndarray]:
    """Measured current [A] and bitline voltage [V] of a sense stage whose bitline draws evenly spaced currents [A]."""
    config, circuit = Config.load(None, settings), Circuit("stage")
    stage = SenseStage.of(config)
    stage.add(circuit, 0, "b0")
    stage.add_shared(circuit)
    # The voltage is measured as a current, the only kind of answer that decks have.
    probe = "iload b0 0 0\ngprobe p 0 b0 0 1\nvprobe p 0 0"
    options = {"reltol": 1e-6, "temp": config.corner.temperature_c}
    sweep = f".dc iload {loads[0]:.10g} {loads[-1]:.10g} {loads[1] - loads[0]:.10g}"
    text = element_lines(circuit) + probe
    deck = Deck("dc", sweep, text, options, periphery_files(config), ("vbl0", "vprobe"), loads)
    found = simulator.simulate([deck])[0].currents
    return found[:, 0], found[:, 1]


def read(simulator: Simulator, deck: Deck) -> np.ndarray:
    """Currents (reads, bitlines) [A] of a deck."""
    return simulator.simulate([deck])[0].currents


def nested_currents(decks: ArrayDecks, group: Group, mixed: np.ndarray, simulator: Simulator) -> np.ndarray:
    """Currents (reads, outputs) [A] of mixed reads (reads, inputs) of 4-bit amplitudes, put together of nested patterns
    of one amplitude each."""
    amplitudes = np.arange(1, 17)[:, None]
    at_least = (np.rint(15 * mixed)[:, None] >= amplitudes).astype(int)  # (reads, 16, inputs): the patterns, nested
    terms = np.concatenate([at_least[:, :-1], at_least[:, 1:]], axis=1) * np.tile(amplitudes[:-1], (2, 1)) / 15
    found = read(simulator, decks.deck(group, terms.reshape(-1, mixed.shape[1]))).reshape(len(mixed), 2, 15, -1)
    return (found[:, 0] - found[:, 1]).sum(axis=1)


def cell_curve(
    card: Card, shifts: np.ndarray, config: Config, simulator: Simulator, *, highest_source_v: float = 0.03
) -> CellCurve:
    """Current of open cells, and its slopes, against units, drain and source voltage; the body is at 0 V.

    The deck is written here by hand, so that it shares nothing with the decks of arrays but the card.
    """
    drains, sources = (
        np.linspace(0, config.read.bitline_v, _DRAIN_POINTS),
        np.linspace(0, highest_source_v, _SOURCE_POINTS),
    )
    grid = [(shift, drain, source) for shift in shifts for drain in drains for source in sources]
    model, cell = card.at("tt").cell().spice_name, config.cell
    lines = [f"vw w 0 {config.read.wordline_v}"]
    for index, (shift, drain, source) in enumerate(grid):
        lines += [
            f"vd{index} d{index} 0 {drain:.10g}",
            f"vs{index} s{index} 0 {source:.10g}",
            f"m{index} d{index} w s{index} 0 {model} l={cell.length_m} w={cell.width_m} delvto={shift:.10g}",
        ]
    options = {"reltol": 1e-7, "abstol": 1e-16, "vntol": 1e-9, "gmin": 1e-14}
    ammeters = tuple(f"vd{index}" for index in range(len(grid)))
    deck = Deck("op", ".op", "\n".join(lines), options, {"cell.card": card.at("tt").text()}, ammeters, np.zeros(1))
    currents = simulator.simulate([deck])[0].currents.reshape(len(shifts), _DRAIN_POINTS, _SOURCE_POINTS)
    splines = [RectBivariateSpline(drains, sources, surface) for surface in currents]

    def curve(units: np.ndarray, drain: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = np.zeros((3, len(units)))
        for number in np.unique(units):
            here = units == number
            found[:, here] = [
                splines[number](drain[here], source[here], dx=dx, dy=dy, grid=False)
                for dx, dy in ((0, 0), (1, 0), (0, 1))
            ]
        return found[0], found[1], found[2]

    return curve
