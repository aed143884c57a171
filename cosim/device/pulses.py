"""Programming by incremental pulses: how cells get their thresholds.

Every pulse on the wordline is higher than the one before it by a step, and injects electrons into the floating gates of
the cells that are not done. After each pulse, every cell is verified: its current is measured, with the noise of the
measurement. A cell whose current has fallen into its band gets no further pulses. Pulses only add electrons, so a cell
that falls through its band stays below it.

The threshold V of a cell moves by

    dV = v0 ln(1 + (exp(s / v0) - 1) exp((r - u - V) / v0)) + noise,   noise ~ N(0, (q v0 / 2 C) (1 - exp(-2 dV / v0)))

where s is the step, r the threshold that a typical cell has before this pulse if it follows the ramp, u the voltage
that this cell needs in addition, v0 the voltage that changes the injected current by a factor of e, and C the
capacitance between control gate and floating gate. docs/programming.md derives the equation.

Source: each injected electron weakens the field for the next, so that the threshold follows the ramp and the spread of
the number of electrons is less than Poissonian. Monzio Compagnoni et al., "Ultimate accuracy for the NAND Flash program
algorithm due to the electron injection statistics", IEEE TED 55(10), 2008. For hot electrons in NOR cells: the same,
"Fundamental limitations to the width of the programmed VT distribution of NOR Flash memories", IEEE TED 57(8), 2010.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy

from cosim.config import Config, Programming
from cosim.device.curve import CellCurve
from cosim.device.draws import cell_normals
from cosim.device.sigmas import current_sigma
from cosim.errors import ConfigError
from cosim.mapping import Group

# Number of cells that are programmed to each level to learn the distribution.
CELLS = 4096
_ELECTRON_C = 1.602176634e-19
# The ramp begins this many sigmas of the cells' speed below erased cells, where it hardly changes most of them.
_SIGMAS = 4.0
_MOST_PULSES = 2000


@dataclass(frozen=True, eq=False)
class Population:
    """Cells after their last pulse, with the cells of a level in the order of their thresholds.

    Attributes:
        shifts: (levels, cells) threshold shifts, rising along the cells [V].
        pulses: (levels, cells) number of pulses that each cell was given.
    """

    shifts: np.ndarray
    pulses: np.ndarray


def transfer(programming: Programming, ahead_v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The effect of one pulse on the thresholds of cells.

    Args:
        programming: the section of the configuration.
        ahead_v: distance of the ramp ahead of each cell, r - u - V [V].

    Returns:
        the mean rise of each threshold, and the standard deviation about it [V].
    """
    efold = programming.efold_v
    risen = efold * np.log1p(math.expm1(programming.step_v / efold) * np.exp(ahead_v / efold))
    electron_v = _ELECTRON_C / programming.capacitance_f
    return risen, np.sqrt(electron_v * efold / 2 * -np.expm1(-2 * risen / efold))


def program_population(config: Config, shifts: np.ndarray, curve: CellCurve) -> Population:
    """Program CELLS cells to each level. They belong to no chip, and are the same for every chip and seed.

    Args:
        config: the configuration, for its programming, cell and read noise.
        shifts: (levels,) threshold shift of each level, falling [V].
        curve: current of a cell over its shift, in the conditions of verify.

    Raises:
        ConfigError: the ramp has too many pulses, or levels lie below erased cells.
    """
    programming, variation = config.programming, config.variation
    _check_ramp(programming, shifts)
    generator = np.random.Generator(np.random.SFC64(0))
    levels, cells = len(shifts), len(shifts) * CELLS

    def verify_sigma(currents: np.ndarray) -> np.ndarray:
        cell = current_sigma(currents, variation.read_sigma_rel, variation.read_saturation_a)
        return np.hypot(programming.verify_noise_a, cell)

    limits_a = np.repeat(curve.currents(shifts) + programming.band_units * config.cell.unit_a, CELLS)
    held = programming.erased_shift_v + programming.erased_sigma_v * generator.standard_normal(cells)
    speed = programming.speed_sigma_v * generator.standard_normal(cells)
    ramp = programming.erased_shift_v - _SIGMAS * programming.speed_sigma_v
    given, left = np.zeros(cells, np.int64), np.arange(cells)
    while True:
        currents = curve.currents(held[left])
        measured = currents + verify_sigma(currents) * generator.standard_normal(len(left))
        left = left[measured > limits_a[left]]
        if not len(left):
            break
        risen, sigma = transfer(programming, ramp - speed[left] - held[left])
        held[left] += np.maximum(risen + sigma * generator.standard_normal(len(left)), 0)
        given[left] += 1
        ramp += programming.step_v
    order = np.argsort(held.reshape(levels, CELLS), axis=1)
    return Population(*(np.take_along_axis(each.reshape(levels, CELLS), order, axis=1) for each in (held, given)))


def _check_ramp(programming: Programming, shifts: np.ndarray) -> None:
    """Refuse levels below erased cells, and ramps that reach the slowest cell of the highest threshold too late."""
    if shifts.min() <= programming.erased_shift_v:
        raise ConfigError(
            f"programming.erased_shift_v = {programming.erased_shift_v:g} V must be below the lowest level, at "
            f"{shifts.min():.3g} V, since pulses only raise thresholds: lower it, or lower cell.full_scale_a"
        )
    span_v = float(shifts.max()) - programming.erased_shift_v + 2 * _SIGMAS * programming.speed_sigma_v
    pulses = math.ceil(span_v / programming.step_v)
    if pulses > _MOST_PULSES:
        raise ConfigError(
            f"programming.step_v = {programming.step_v:g} V makes a ramp of {pulses} pulses from erased cells to the "
            f"highest threshold, expected at most {_MOST_PULSES}: enlarge the step"
        )


class PulseProgramming:
    """Draws the thresholds of cells that were programmed by incremental pulses.

    The cells of a wordline get their pulses together, but the effect on a cell depends on that cell alone. A chip's
    cells are therefore drawn from a population that was programmed to their levels.

    Args:
        config: the configuration, for its cell, seed and chip.
        population: cells that were programmed to each level.

    Attributes:
        centre_v: (levels,) mean shift of programmed cells [V].
        sigma_v: (levels,) standard deviation of their shifts [V].
    """

    def __init__(self, config: Config, population: Population) -> None:
        self._config = config
        self._population = population
        self.centre_v, self.sigma_v = population.shifts.mean(axis=1), population.shifts.std(axis=1)

    def verified(self, layer: int, group: Group) -> np.ndarray:
        """Threshold shifts of the cells of a group of layer number `layer`, (wordlines, bitlines) [V]."""
        sorted_v, levels = self._population.shifts, group.units.astype(np.int64) - self._config.cell.offset_units
        place = scipy.special.ndtr(cell_normals(self._config, "program error", layer, group)) * sorted_v.shape[1] - 0.5
        place = np.clip(place, 0, sorted_v.shape[1] - 1)
        lower = np.minimum(place.astype(np.int64), sorted_v.shape[1] - 2)
        low, high = sorted_v[levels, lower], sorted_v[levels, lower + 1]
        return low + (place - lower) * (high - low)
