"""Variation: what makes the cells of one chip differ, which is program error, mismatch and loss of charge."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from cosim.config import Config
from cosim.device.curve import CellCurves
from cosim.device.mismatch import CellMismatch
from cosim.device.retention import charge_loss, lost_shares
from cosim.errors import ConfigError
from cosim.mapping import Group

# At this distance of two levels in sigmas, 2.3 % of the cells of either level lie beyond the middle between them.
_TOLD_APART = 4.0


class CellProgramming(Protocol):
    """A way of programming cells.

    Attributes:
        centre_v: (levels,) mean threshold shift of programmed cells, falling [V].
        sigma_v: (levels,) standard deviation of their shifts [V].
    """

    centre_v: np.ndarray
    sigma_v: np.ndarray

    def verified(self, layer: int, group: Group) -> np.ndarray:
        """Threshold shifts of the cells of a group of layer number `layer`, (wordlines, bitlines) [V]."""
        ...


class CellVariation:
    """Threshold shifts of the cells of a chip, each with its own error, its own loss of charge and its own mismatch.

    Args:
        config: the configuration, for its variation, corner, seed and chip.
        programming: gives the thresholds of programmed cells.
        curves: current of a cell over its shift; needed for mismatch only.

    Attributes:
        programming: as given.
        loss: share of its charge that a cell has lost on average, 0..1.

    Raises:
        ConfigError: no two levels can be told apart, or no charge is left.
    """

    def __init__(self, config: Config, programming: CellProgramming, curves: CellCurves | None = None) -> None:
        variation = config.variation
        self.config = config
        self.programming = programming
        self._curves = curves
        self.loss = charge_loss(variation)
        if self.loss >= 1:
            raise ConfigError(
                f"variation.retention_s = {variation.retention_s:g} at {variation.retention_temperature_c:g} degrees C "
                f"loses {100 * self.loss:.0f} % of the charge: shorten the time or lower the temperature"
            )
        if self._distance(0, -1) < _TOLD_APART:
            raise ConfigError(
                f"no two levels can be told apart: a sigma of {programming.sigma_v.max():.3g} V after verify, and "
                f"{programming.centre_v[0] - programming.centre_v[-1]:.3g} V from the lowest level to the highest, "
                f"{_TOLD_APART:g} sigmas at least are needed: lower variation.program_sigma_v or program_sigma_rel, or "
                "set variation.verify_band_v; with pulses, lower programming.step_v or verify_noise_a"
            )

    def _distance(self, first: int | slice, second: int | slice) -> np.ndarray:
        """Distance between levels in their standard deviations, infinite without error."""
        centre, sigma = self.programming.centre_v, self.programming.sigma_v
        spread = np.sqrt((sigma[first] ** 2 + sigma[second] ** 2) / 2)
        with np.errstate(divide="ignore"):
            return (centre[first] - centre[second]) / spread

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
        verified = self.programming.verified(layer, group)
        if not self.config.variation.mismatch:
            return self._aged(verified, layer, group)
        assert self._curves is not None
        mismatch = CellMismatch.drawn(self.config, layer, group)
        stored = mismatch.stored(verified, self._curves.verify)
        return mismatch.seen(self._aged(stored, layer, group), self._curves.read)

    def _aged(self, shifts: np.ndarray, layer: int, group: Group) -> np.ndarray:
        """What is left of the shifts that charges made after programming [V]."""
        if self.loss == 0:
            return shifts
        lost = lost_shares(self.config, layer, group)
        return shifts - (shifts - self.config.variation.neutral_shift_v) * lost
