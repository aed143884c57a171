"""Measures one cell as a device: its curves and levels, and how temperature, process and supply change them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cosim.config import Config, Corner
from cosim.currents.programming import program_cell
from cosim.device import load_card
from cosim.netlist import Deck, curve_deck, sweep_deck
from cosim.spice import Simulator

TEMPERATURES_C = (-40.0, 27.0, 85.0, 125.0)
SUPPLIES = (0.9, 1.1)
# The current that defines the threshold on a transfer curve [A], and the two currents that define the swing.
THRESHOLD_A = 1e-7
_SWING_A = (1e-10, 1e-8)
# Transfer curves end at the read voltage times this factor; output curves end at this voltage or higher [V].
_GATE_BEYOND = 1.25
_DRAIN_TO_V = 1.0
_POINTS = 100
# Half the difference of threshold shift over which a sensitivity is measured [V].
_NUDGE_V = 1e-3


@dataclass(frozen=True, eq=False)
class Characterization:
    """The measurements of a card's cell, which is programmed at the nominal corner.

    Attributes:
        config: the configuration; curves, currents and slopes are measured at its corner.
        shifts: (levels,) programmed threshold shift [V].
        currents: (levels,) read current [A].
        off_a: read current of a cell that is off [A].
        slopes: (levels,) sensitivity -dI/dVt of the read current to the threshold [A/V].
        equal_steps: (levels,) read current [A] that the levels would have if their shifts lay at equal steps. The steps
            go from level 0 to the highest level. If level 0 is off, they go from level 1, and level 0 lies one step
            beyond it.
        gate_v: (points,) control-gate voltages [V] of the transfer curves.
        transfer: (points, levels) transfer curves [A], at the read's bitline voltage.
        drain_v: (points,) drain voltages [V] of the output curves.
        output: (points, levels) output curves [A], at the read's wordline voltage.
        corners: corners at which the levels are read.
        corner_currents: (corners, levels) read currents at these corners [A].
    """

    config: Config
    shifts: np.ndarray
    currents: np.ndarray
    off_a: float
    slopes: np.ndarray
    equal_steps: np.ndarray
    gate_v: np.ndarray
    transfer: np.ndarray
    drain_v: np.ndarray
    output: np.ndarray
    corners: tuple[Corner, ...]
    corner_currents: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """(levels,) currents that the levels stand for [A]."""
        cell = self.config.cell
        return cell.unit_a * (cell.offset_units + np.arange(cell.levels))

    @property
    def on_off(self) -> float:
        """Ratio of the current of the highest level to the current of a cell that is off."""
        return float(self.currents[-1] / max(self.off_a, 1e-300))

    @property
    def thresholds(self) -> np.ndarray:
        """(levels,) control-gate voltage at which each transfer curve reaches THRESHOLD_A [V], nan if it does not."""
        return np.array([_crossing(self.gate_v, curve, THRESHOLD_A) for curve in self.transfer.T])

    @property
    def swing(self) -> float:
        """Subthreshold swing of the highest level [V/decade], nan if its curve does not show it."""
        low, high = (_crossing(self.gate_v, self.transfer[:, -1], current) for current in _SWING_A)
        return (high - low) / float(np.log10(_SWING_A[1] / _SWING_A[0]))

    def nonlinearity(self, currents: np.ndarray) -> np.ndarray:
        """Deviation of level currents (..., levels) from their best straight line, as a share of the levels' span.

        The line stands for what trimming of gain and offset can correct. The integral non-linearity is the largest
        deviation from it.
        """
        levels = np.arange(currents.shape[-1], dtype=float)
        basis = np.stack([np.ones_like(levels), levels], axis=1)
        fitted = currents @ np.linalg.pinv(basis).T @ basis.T
        return (currents - fitted) / (self.targets[-1] - self.targets[0])

    def inl(self, currents: np.ndarray) -> np.ndarray:
        """(...) integral non-linearity of level currents (..., levels), as a share of the levels' span."""
        return np.abs(self.nonlinearity(currents)).max(axis=-1)

    @property
    def middle(self) -> int:
        """The level that the reference column holds if weights are centred about zero."""
        return min(len(self.shifts) // 2, len(self.shifts) - 2)

    @property
    def span_changes(self) -> np.ndarray:
        """(corners,) relative change of highest less middle level, a drift that a reference column does not correct."""
        nominal = self.targets[-1] - self.targets[self.middle]
        return (self.corner_currents[:, -1] - self.corner_currents[:, self.middle]) / nominal - 1

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values, without the curves."""
        config = self.config
        levels = zip(self.shifts, self.thresholds, self.currents, self.slopes, strict=True)
        corners = zip(
            self.corners, self.corner_currents, self.inl(self.corner_currents), self.span_changes, strict=True
        )
        return {
            "config": config.to_record(),
            "on_off": self.on_off,
            "swing_v_per_decade": _finite(self.swing),
            "inl": float(self.inl(self.currents)),
            "inl_equal_threshold_steps": float(self.inl(self.equal_steps)),
            "levels": [
                {
                    "level": level,
                    "shift_v": float(shift),
                    "threshold_v": _finite(threshold),
                    "current_a": float(current),
                    "slope_a_per_v": float(slope),
                }
                for level, (shift, threshold, current, slope) in enumerate(levels)
            ],
            "corners": [
                {
                    **corner.model_dump(),
                    "currents_a": currents.tolist(),
                    "inl": float(inl),
                    "span_change": float(change),
                }
                for corner, currents, inl, change in corners
            ],
        }


def characterize(config: Config, simulator: Simulator) -> Characterization:
    """Measure the configured card's cell.

    Raises:
        CardError: the card does not describe a cell, or the cell cannot hold the levels.
        SimulationError: ngspice failed.
    """
    card = load_card(config.cell.card)
    programmed, first = program_cell(card, config, simulator), config.cell.offset_units
    shifts = programmed[first:]
    read = config.read_at_corner

    def point(shifts: np.ndarray, config: Config) -> Deck:
        return curve_deck(card, shifts, np.full(len(shifts), config.read_at_corner.bitline_v), config)

    corners = _corners(list(card.sections))
    decks = [
        sweep_deck(card, shifts, config, bitline_v=read.bitline_v, stop_v=_GATE_BEYOND * read.wordline_v,
                   step_v=_GATE_BEYOND * read.wordline_v / _POINTS),
        sweep_deck(card, shifts, config, wordline_v=read.wordline_v, stop_v=max(_DRAIN_TO_V, 2 * read.bitline_v),
                   step_v=max(_DRAIN_TO_V, 2 * read.bitline_v) / _POINTS),
        point(np.concatenate([programmed[:1], shifts, shifts - _NUDGE_V, shifts + _NUDGE_V]), config),
        point(_equal_steps(shifts, level_0_is_off=first == 0), config),
        *(point(shifts, config.at_corner(corner)) for corner in corners),
    ]  # fmt: skip
    transfer, output, points, equal, *at_corners = (
        reading.currents for reading in simulator.simulate(decks, "characterizing")
    )
    currents, lower, higher = points[0, 1:].reshape(3, -1)
    return Characterization(
        config,
        shifts,
        currents,
        float(points[0, 0]),
        (lower - higher) / (2 * _NUDGE_V),
        equal[0],
        decks[0].samples,
        transfer,
        decks[1].samples,
        output,
        tuple(corners),
        np.concatenate(at_corners),
    )


def _equal_steps(shifts: np.ndarray, *, level_0_is_off: bool) -> np.ndarray:
    """Shifts with the same ends, but at equal steps. A level 0 that is off lies one step beyond level 1."""
    first = 1 if level_0_is_off else 0
    step = (shifts[first] - shifts[-1]) / max(1, len(shifts) - 1 - first)
    return shifts[first] - step * (np.arange(len(shifts)) - first)


def _corners(processes: list[str]) -> list[Corner]:
    """Every process corner of a card at every temperature, and the typical corner at every supply."""
    known = [name for name in ("tt", "ff", "ss", "fs", "sf") if name in processes]
    grid = [Corner.model_validate({"process": name, "temperature_c": t}) for name in known for t in TEMPERATURES_C]
    return [*grid, *(Corner(supply=supply) for supply in SUPPLIES)]


def _crossing(volts: np.ndarray, currents: np.ndarray, current: float) -> float:
    """Voltage at which a rising curve reaches a current, by interpolation of its logarithm; nan if it does not."""
    if not currents[0] < current <= currents[-1]:
        return float("nan")
    return float(np.interp(np.log(current), np.log(np.maximum(currents, 1e-300)), volts))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
