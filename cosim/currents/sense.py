"""Mismatch of the sense stages' transistors: its effect on the current that a bitline's stage measures.

Thresholds and current factors of equal transistors differ by area (Pelgrom's law). In the amplifier of a clamp they
make an offset voltage: the bitline is held elsewhere, and its cells draw more or less in proportion. In the mirror they
make a current that is copied with another gain. The sensitivity to each transistor is simulated at the corner, on the
stage alone. Its effect is then taken as a straight line over the current, a gain and an offset of the bitline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.config import Config
from cosim.device import Card, chip_generator
from cosim.netlist import TRANSISTORS, Misfit, SenseStage, curve_deck, misfit_deck
from cosim.spice import Simulator

# By how much thresholds [V] and widths are changed to find sensitivities.
_THRESHOLD_V, _WIDTH = 1e-3, 0.01
# Points of current at which they are found, between none and the largest of a read.
_POINTS = 65
# Share by which the bitline's voltage is changed to find what cells make of it.
_NUDGE = 0.01


@dataclass(frozen=True, eq=False)
class SenseMismatch:
    """What mismatch of one standard deviation of each of the stage's parameters does to the measured current.

    Parameters are the thresholds of all transistors, then their current factors.

    Attributes:
        gain: (parameters,) relative change of the measured current.
        offset_a: (parameters,) and what is added to it [A].
        rest_a: (parameters, points) what a straight line leaves of the effect, at evenly spaced currents [A].
    """

    gain: np.ndarray
    offset_a: np.ndarray
    rest_a: np.ndarray

    def drawn(self, config: Config, layer: int, tile: int, bitlines: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw the relative gains, and the offsets [A], of the sense stages of a tile: (bitlines,) each."""
        generator = chip_generator(config, "sense transistors", layer, tile)
        normals = generator.standard_normal((bitlines, len(self.gain)))
        return normals @ self.gain, normals @ self.offset_a


def sense_mismatch(card: Card, shifts: np.ndarray, config: Config, simulator: Simulator) -> SenseMismatch | None:
    """Find what mismatch does at the configured corner; None if there is none.

    Args:
        card: the cell's card.
        shifts: (units,) threshold shift for each number of unit currents [V].
        config: the configuration, for its sense stage, the coefficients of mismatch, and the corner.
        simulator: simulates stage and cell.
    """
    variation = config.variation
    if not variation.sense_mismatch:
        return None
    stage = SenseStage.of(config)
    areas = np.array([width * length for width, length in map(stage.size, TRANSISTORS)])
    # The difference of two transistors has sigma A / sqrt(w l), and each of the two 1 / sqrt(2) of it.
    sigmas = np.concatenate(
        [variation.sense_avt_v_m / np.sqrt(2 * areas), variation.sense_abeta_m / np.sqrt(2 * areas)]
    )
    steps = np.repeat([_THRESHOLD_V, _WIDTH], len(areas))
    misfits: list[tuple[Misfit, ...]] = [(), *((Misfit(name, threshold_v=_THRESHOLD_V),) for name in TRANSISTORS)]
    misfits += [(Misfit(name, width=1 + _WIDTH),) for name in TRANSISTORS]
    step_a = config.array.open_wordlines * config.cell.full_scale_a / (_POINTS - 1)
    (reading,) = simulator.simulate([misfit_deck(config, step_a, _POINTS, misfits)], "mismatch of the sense stage")
    measured, held = np.hsplit(reading.currents, 2)
    drawn = step_a * np.arange(_POINTS)
    of_voltage = _sensitivity(card, shifts, config, simulator) * drawn / held[:, 0]
    # A bitline that is held higher draws more, and is then held a little lower.
    stiffness = 1 - np.gradient(held[:, 0], drawn) * of_voltage
    moved_v = (held[:, 1:] - held[:, :1]) / stiffness[:, None]
    copied = np.gradient(measured[:, 0], drawn)[:, None]
    effects = (copied * of_voltage[:, None] * moved_v + measured[:, 1:] - measured[:, :1]) * sigmas / steps
    line = np.stack([measured[:, 0], np.ones(_POINTS)], axis=1)
    found = np.linalg.lstsq(line, effects, rcond=None)[0]
    return SenseMismatch(found[0], found[1], (effects - line @ found).T)


def _sensitivity(card: Card, shifts: np.ndarray, config: Config, simulator: Simulator) -> float:
    """Relative change of a cell's current for that of its bitline's voltage, d ln(I) / d ln(V), the mean of levels."""
    levels, volts = shifts[config.cell.offset_units :], config.read_at_corner.bitline_v
    every = np.repeat([1 - _NUDGE, 1 + _NUDGE], len(levels)) * volts
    (reading,) = simulator.simulate(
        [curve_deck(card, np.tile(levels, 2), every, config)], "mismatch of the sense stage"
    )
    lower, higher = np.maximum(reading.currents[0], 1e-300).reshape(2, -1)
    held = lower > 0.5 * config.cell.unit_a  # a level that is off says nothing
    return float(np.log(higher[held] / lower[held]).mean() / np.log((1 + _NUDGE) / (1 - _NUDGE)))
