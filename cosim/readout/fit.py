"""Fits gains and offsets to known reads, where all open cells may have some current in common.

The model of a calibration is, for the bitlines of a layer,

    measured = gain * (ideal + common * opened) + offset

where `opened` is the current that the open wordlines would cause with a unit current each. Each bitline has its own
gain and offset, and the layer has one `common`. The gain also multiplies `common`, since a converter's gain acts on all
of its input current. A model that adds `common` after the gain would leave an error if bitlines differ in gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# If less than this share of the product of two variances is left, their correlation counts as perfect.
_COLLINEAR = 1e-9
# A bitline does not respond if the variance of its measured sums is less than this share of the expected variance.
_DEAD = 1e-6
_STEPS = 50


@dataclass(frozen=True, eq=False)
class Moments:
    """Means and covariances of the known reads of some bitlines.

    Attributes:
        mean: (3, bitlines) means of measured, ideal and opened [LSB].
        covariance: (3, 3, bitlines) their covariances [LSB^2].
    """

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, measured: np.ndarray, ideal: np.ndarray, opened: np.ndarray) -> Moments:
        """The moments of known reads, (reads, bitlines) each [LSB]."""
        values = np.stack([measured, ideal, opened])
        mean = values.mean(axis=1)
        apart = values - mean[:, None]
        return cls(mean, np.einsum("arb,crb->acb", apart, apart) / values.shape[1])

    @classmethod
    def joined(cls, some: Sequence[Moments]) -> Moments:
        """The moments of the bitlines of several tiles, one tile after the other."""
        return cls(*(np.concatenate([getattr(each, name) for each in some], -1) for name in ("mean", "covariance")))

    def slopes(self, common: float) -> np.ndarray:
        """The gain of each bitline for a given common part, (bitlines,); NaN where reads do not decide it."""
        (measured, with_ideal, with_opened), (_, ideal, mixed), (_, _, opened) = self.covariance
        variance = ideal + 2 * common * mixed + common**2 * opened
        decided = (variance > _COLLINEAR) & (measured > _DEAD * variance)
        return np.where(decided, (with_ideal + common * with_opened) / np.where(decided, variance, 1), np.nan)

    def line(self, common: float, otherwise: float) -> tuple[np.ndarray, np.ndarray]:
        """Gains and offsets [LSB], (bitlines,). Bitlines whose reads do not decide a gain get the gain `otherwise`."""
        gain = np.nan_to_num(self.slopes(common), nan=otherwise)
        measured, ideal, opened = self.mean
        return gain, measured - gain * (ideal + common * opened)

    def common(self) -> float:
        """The common part for which the lines of all bitlines together have the least sum of squared errors.

        Only this number is searched for (Gauss-Newton); gains and offsets follow from it ("variable projection": Golub
        and Pereyra, SIAM J. Numer. Anal. 1973). The search begins at the solution for equal gains. Returns 0 if the
        reads cannot distinguish the common part from the ideal sums.
        """
        (_, with_ideal, with_opened), (_, ideal, mixed), (_, _, opened) = self.covariance
        own = ideal.sum() * opened.sum() - mixed.sum() ** 2
        if own <= _COLLINEAR * ideal.sum() * opened.sum():
            return 0.0
        gain = with_ideal.sum() * opened.sum() - with_opened.sum() * mixed.sum()
        if abs(gain) <= _COLLINEAR * own:  # no bitline responds
            return 0.0
        found = float((with_opened.sum() * ideal.sum() - with_ideal.sum() * mixed.sum()) / gain)
        for _ in range(_STEPS):
            slope = np.nan_to_num(self.slopes(found))
            along = mixed + found * opened
            variance = ideal + found * (mixed + along)
            apart = opened - along**2 / np.where(variance > _COLLINEAR, variance, np.inf)
            square = float((slope**2 * apart).sum())
            if square <= _COLLINEAR * float((slope**2 * opened).sum()):
                return 0.0
            step = float((slope * (with_opened - slope * along)).sum()) / square
            found += step
            if abs(step) < 1e-12 * (1 + abs(found)):
                break
        return found
