"""Programs the cell: simulates its curve, and finds the threshold shift of each level."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from cosim.config import Config
from cosim.currents.sense import SenseMismatch, sense_mismatch
from cosim.device import (
    CURVE_SHIFTS,
    Card,
    CellCurve,
    CellCurves,
    CellProgramming,
    CellVariation,
    NormalProgramming,
    Population,
    PulseProgramming,
    StuckCells,
    load_card,
    program_levels,
    program_population,
)
from cosim.device.pulses import CELLS
from cosim.errors import CardError
from cosim.files import source_digest
from cosim.mapping import Group
from cosim.netlist import ClosedCells, closed_deck, curve_deck, ramp_v_per_s
from cosim.spice import Simulator

# How many unit currents all cells of a bitline may draw together when they are closed.
_LARGEST_LEAK = 0.1
_FORMAT = "cosim-programmed-1"
# The packages whose code decides how a cell is programmed.
_DECIDING = ("config", "device", "netlist", "currents")


@dataclass(frozen=True, eq=False)
class ProgrammedCell:
    """The programmed cell of an array.

    Attributes:
        card: the cell's card.
        shifts: (units,) threshold shift for each number of unit currents that a cell conducts [V].
        closed: conductance and capacitance of cells that are not read, at the corner.
        variation: how the cells of the configured chip differ, or None if they do not.
        slopes: (units,) change of a cell's current with its threshold at the corner [A/V]; None unless there are traps.
        sense: what mismatch of their sense stages does at the corner, or None if there is none.
        stuck: the cells of the configured chip that are stuck, or None if none are.
    """

    card: Card
    shifts: np.ndarray
    closed: ClosedCells
    variation: CellVariation | None
    slopes: np.ndarray | None = None
    sense: SenseMismatch | None = None
    stuck: StuckCells | None = None

    def cell_shifts(self, layer: int, group: Group) -> np.ndarray | None:
        """Threshold shifts (inputs, output lines) of the cells of a group of layer number `layer` [V].

        Returns None if they are those of the cells' units.
        """
        shifts = None if self.variation is None else self.variation.cell_shifts(layer, group)
        if self.stuck is None:
            return shifts
        return self.stuck.cell_shifts(layer, group, self.shifts[group.units] if shifts is None else shifts)


def program(config: Config, simulator: Simulator) -> ProgrammedCell:
    """Program the configured card's cell.

    Raises:
        CardError: the card does not describe a cell, or the cell cannot hold the levels.
        ConfigError: no two levels can be told apart on the configured chip.
    """
    card, variation = load_card(config.cell.card), None
    shifts, closed = _programmed(card, config, simulator)
    slopes = None
    if config.threshold_error:
        curves = cell_curves(card, config, simulator)
        variation = CellVariation(config, _programming(config, shifts, curves.verify, simulator), curves)
    if config.variation.telegraph_traps > 0:
        curve = cell_curves(card, config, simulator).read
        slopes = curve.currents(shifts) * curve.log_slopes(shifts)
    sense = sense_mismatch(card, shifts, config, simulator)
    return ProgrammedCell(card, shifts, closed, variation, slopes, sense, StuckCells.of(config, shifts))


def _programming(config: Config, shifts: np.ndarray, curve: CellCurve, simulator: Simulator) -> CellProgramming:
    """The configured way of programming cells. A population is kept in the simulator's store."""
    if config.programming.method == "normal":
        return NormalProgramming(config, shifts, curve)
    return PulseProgramming(config, kept_population(config, shifts, curve, simulator))


def kept_population(config: Config, shifts: np.ndarray, curve: CellCurve, simulator: Simulator) -> Population:
    """Cells that were programmed by pulses to each level, from the simulator's store if they were before.

    Args:
        config: the configuration.
        shifts: (units,) threshold shift for each number of unit currents, falling [V].
        curve: current of a cell over its shift where cells are verified.
        simulator: for its store.

    Raises:
        ConfigError: the ramp has too many pulses, or levels lie below erased cells.
    """
    levels = shifts[config.cell.offset_units :]
    read_noise = (config.variation.read_sigma_rel, config.variation.read_saturation_a)
    parts = (
        _FORMAT,
        config.programming.model_dump_json(),
        repr((config.cell.unit_a, *read_noise)),
        source_digest(_DECIDING),
    )
    arrays = (levels, curve.shifts, curve.logs)
    identity = hashlib.sha256("\0".join(parts).encode() + b"".join(map(np.ndarray.tobytes, arrays))).hexdigest()
    kept = simulator.store.load_answer(identity, (2, len(levels), CELLS))
    if kept is not None:
        return Population(kept[0], kept[1].astype(np.int64))
    found = program_population(config, levels, curve)
    simulator.store.save_answer(identity, np.stack([found.shifts, found.pulses]))
    return found


def _programmed(card: Card, config: Config, simulator: Simulator) -> tuple[np.ndarray, ClosedCells]:
    """Threshold shifts and closed cells of a design, from the simulator's store if it was programmed before."""
    sections = (config.array, config.cell, config.read, config.corner)
    parts = (
        _FORMAT,
        *(card.at(at.corner.process).text() for at in (config.at_verify, config)),
        *(section.model_dump_json() for section in sections),
        simulator.engine,
        source_digest(_DECIDING),
    )
    identity = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    kept = simulator.store.load_answer(identity, (3, config.cell.most_units + 1))
    if kept is not None:
        shifts, conductance_s, capacitance_f = kept
        return shifts, ClosedCells(conductance_s, capacitance_f)
    shifts = program_cell(card, config, simulator)
    closed = close_cells(card, shifts, config, simulator)
    simulator.store.save_answer(identity, np.stack([shifts, closed.conductance_s, closed.capacitance_f]))
    return shifts, closed


def program_cell(card: Card, config: Config, simulator: Simulator) -> np.ndarray:
    """Threshold shift for every number of unit currents up to that of the highest level [V].

    It is found from the card itself where cells are verified. The simulated curve is inverted, then simulated
    again around each shift and inverted once more, so that the currents are within 1e-6 of their targets.

    Raises:
        CardError: the card cannot hold the levels.
    """
    shifts, verified = CURVE_SHIFTS, config.at_verify
    for _ in range(2):
        deck = curve_deck(card, shifts, np.full(len(shifts), config.read.bitline_v), verified)
        (reading,) = simulator.simulate([deck], "programming")
        programmed = program_levels(shifts, reading.currents[0], config.cell)
        shifts = np.sort((programmed[:, None] + np.linspace(-0.02, 0.02, 9)).ravel())
        shifts = shifts[np.concatenate([[True], np.diff(shifts) > 1e-6])]
    return programmed


def cell_curves(card: Card, config: Config, simulator: Simulator) -> CellCurves:
    """Currents of the card's cell over its threshold shift, where cells are verified and where they are read."""
    conditions = [config.at_verify, config]
    volts = [np.full(len(CURVE_SHIFTS), each.read_at_corner.bitline_v) for each in conditions]
    decks = [curve_deck(card, CURVE_SHIFTS, *each) for each in zip(volts, conditions, strict=True)]
    verify, read = (
        CellCurve.of(CURVE_SHIFTS, reading.currents[0]) for reading in simulator.simulate(decks, "programming")
    )
    return CellCurves(verify, read)


def close_cells(card: Card, shifts: np.ndarray, config: Config, simulator: Simulator) -> ClosedCells:
    """Conductance and capacitance at the corner of cells on closed wordlines, or bitlines, by their unit currents.

    Raises:
        CardError: the cells of one bitline conduct so much that they would swamp a read.
    """
    if config.read.mode == "amplitude":
        deck = closed_deck(card, shifts, config)
        before, after = simulator.simulate([deck], "closed bitlines")[0].currents
        moved_v = ramp_v_per_s(config) * (deck.samples[1] - deck.samples[0])
        return ClosedCells((after - before) / moved_v, np.maximum((after + before) / 2 / ramp_v_per_s(config), 0))
    volts = np.full(len(shifts), config.read_at_corner.bitline_v)
    still = curve_deck(card, shifts, volts, config, wordline_v=0.0)
    (leaking, ramped) = simulator.simulate([still, closed_deck(card, shifts, config)], "closed wordlines")
    currents = leaking.currents[0]
    leak = config.array.wordlines * float(np.abs(currents).max()) / config.cell.unit_a
    if leak > _LARGEST_LEAK:
        raise CardError(
            f"the {config.array.wordlines} cells of a bitline may draw {leak:.3g} unit currents with every wordline "
            f"closed, at most {_LARGEST_LEAK} is allowed: lower cell.full_scale_a (its level has a threshold shift of "
            f"{shifts[-1]:.2f} V), or raise read.wordline_v"
        )
    capacitance = (ramped.currents[0] - currents) / ramp_v_per_s(config)
    return ClosedCells(np.abs(currents) / config.read_at_corner.bitline_v, np.maximum(capacitance, 0))
