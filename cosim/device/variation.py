"""Variation: what makes the cells of one chip differ, which is program error, mismatch and loss of charge."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr, ndtri

from cosim.config import Config
from cosim.device.curve import CellCurves
from cosim.device.draws import cell_normals
from cosim.device.mismatch import CellMismatch
from cosim.device.retention import charge_loss, lost_shares
from cosim.errors import ConfigError
from cosim.mapping import Group

# At this distance of two levels in sigmas, 2.3 % of the cells of either level lie beyond the middle between them.
_TOLD_APART = 4.0


def current_sigma(currents: np.ndarray, rel: float, saturation_a: float | None) -> np.ndarray:
    """Standard deviation of cell currents [A]: proportional to currents below `saturation_a`, and constant above it.

        sigma(I) = rel * I_sat * (1 - exp(-I / I_sat)), or rel * I without saturation

    Source: the form fitted to SONOS arrays by CrossSim's SONOS device model.
    """
    if saturation_a is None:
        return rel * currents
    return -rel * saturation_a * np.expm1(-currents / saturation_a)


def verified_sigma(sigma: np.ndarray, band_v: float | None) -> np.ndarray:
    """Standard deviation of thresholds after program-verify.

    Programming is repeated until the threshold is within plus or minus `band_v` of the target, so the result is that of
    a truncated normal distribution.

    Source: Johnson, Kotz, Balakrishnan, "Continuous univariate distributions", volume 1, 1994.
    """
    if band_v is None:
        return sigma
    ratio = band_v / np.maximum(sigma, 1e-12 * band_v)
    wide = np.maximum(ratio, 0.05)
    density = np.exp(-(wide**2) / 2) / math.sqrt(2 * math.pi)
    normal = sigma * np.sqrt(1 - 2 * wide * density / (2 * ndtr(wide) - 1))
    return np.where(ratio < 0.05, band_v / math.sqrt(3), normal)  # in such a narrow band, all values are equally likely


class CellVariation:
    """Threshold shifts of the cells of a chip, each with its own error, its own loss of charge and its own mismatch.

    Args:
        config: the configuration, for its variation, cell, seed and chip.
        shifts: (units,) threshold shift for each number of unit currents, falling [V].
        curves: current of a cell over its shift; needed with variation.program_sigma_rel, and for mismatch.

    Attributes:
        loss: share of its charge that a cell has lost on average, 0..1.
        sigma_v: (units,) standard deviation of a cell's shift after programming [V].

    Raises:
        ConfigError: no two levels can be told apart, or no charge is left.
    """

    def __init__(self, config: Config, shifts: np.ndarray, curves: CellCurves | None = None) -> None:
        variation, cell = config.variation, config.cell
        self.config = config
        self.shifts = shifts
        self._curves = curves
        self.loss = charge_loss(variation)
        self._sigma = np.full(len(shifts), variation.program_sigma_v)
        if variation.program_sigma_rel > 0:
            assert curves is not None
            currents = np.maximum(np.arange(cell.most_units + 1), 1e-4) * cell.unit_a
            relative = current_sigma(currents, variation.program_sigma_rel, variation.program_saturation_a) / currents
            self._sigma = np.hypot(self._sigma, relative / np.abs(curves.verify.log_slopes(shifts)))
        self.sigma_v = verified_sigma(self._sigma, variation.verify_band_v)
        if self.loss >= 1:
            raise ConfigError(
                f"variation.retention_s = {variation.retention_s:g} at {variation.retention_temperature_c:g} degrees C "
                f"loses {100 * self.loss:.0f} % of the charge: shorten the time or lower the temperature"
            )
        if self._distance(0, -1) < _TOLD_APART:
            raise ConfigError(
                f"no two levels can be told apart: a sigma of {self.sigma_v.max():.3g} V after verify, and "
                f"{shifts[0] - shifts[-1]:.3g} V from the lowest level to the highest, {_TOLD_APART:g} sigmas at least "
                "are needed: lower variation.program_sigma_v or program_sigma_rel, or set variation.verify_band_v"
            )

    def _distance(self, first: int | slice, second: int | slice) -> np.ndarray:
        """Distance between levels in their standard deviations, infinite without error."""
        spread = np.sqrt((self.sigma_v[first] ** 2 + self.sigma_v[second] ** 2) / 2)
        with np.errstate(divide="ignore"):
            return (self.shifts[first] - self.shifts[second]) / spread

    @property
    def separation(self) -> np.ndarray:
        """(levels - 1,) distance of each level to the next, in standard deviations of their thresholds."""
        return self._distance(slice(None, -1), slice(1, None))

    @property
    def overlapping(self) -> int:
        """Number of pairs of neighbouring levels where more than 2.3 % of the cells lie nearer to the other level."""
        return int((self.separation < _TOLD_APART).sum())

    def cell_shifts(self, layer: int, group: Group) -> np.ndarray:
        """Threshold shift of every cell of a group of layer number `layer`: (wordlines, bitlines) [V].

        It is the shift at which the card's own cell conducts, at the configured corner, what this cell conducts.
        """
        verified = self._verified(layer, group)
        if not self.config.variation.mismatch:
            return self._aged(verified, layer, group)
        assert self._curves is not None
        mismatch = CellMismatch.drawn(self.config, layer, group)
        stored = mismatch.stored(verified, self._curves.verify)
        return mismatch.seen(self._aged(stored, layer, group), self._curves.read)

    def _verified(self, layer: int, group: Group) -> np.ndarray:
        """Shifts at which the card's own cell conducts what the cells of a group were verified to conduct [V]."""
        variation = self.config.variation
        shifts = self.shifts[group.units]
        if not variation.program_error:
            return shifts
        sigma = self._sigma[group.units]
        normal = cell_normals(self.config, "program error", layer, group)
        if variation.verify_band_v is not None:  # cells err to the same side as without verify
            inside = ndtr(variation.verify_band_v / np.maximum(sigma, 1e-300))
            normal = ndtri(1 - inside + ndtr(normal) * (2 * inside - 1))
        return shifts + sigma * normal

    def _aged(self, shifts: np.ndarray, layer: int, group: Group) -> np.ndarray:
        """What is left of the shifts that charges made after programming [V]."""
        if self.loss == 0:
            return shifts
        lost = lost_shares(self.config, layer, group)
        return shifts - (shifts - self.config.variation.neutral_shift_v) * lost
