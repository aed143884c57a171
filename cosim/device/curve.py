"""The current of a cell over its threshold shift, at one read condition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Number of straight pieces between two simulated points, which follow a monotone cubic interpolation.
_PIECES = 20


def falling_part(shifts: np.ndarray, currents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out the numerical noise at either end of a curve: each point that is kept lies below all points before it.

    Args:
        shifts: (points,) rising threshold shifts [V].
        currents: (points,) current at each shift [A].

    Returns:
        (kept,) shifts [V], and the natural logarithms of their currents in ampere, which fall.
    """
    logs = np.log(np.maximum(currents, 1e-300))
    kept = logs < np.minimum.accumulate(np.concatenate([[np.inf], logs[:-1]]))
    return shifts[kept], logs[kept]


@dataclass(frozen=True, eq=False)
class CellCurve:
    """A curve that gives the current of each shift, and the shift of each current. The one inverts the other exactly.

    Attributes:
        shifts: (points,) rising threshold shifts [V].
        logs: (points,) natural logarithms of the currents in ampere, falling. Between points they are straight lines.
    """

    shifts: np.ndarray
    logs: np.ndarray

    @classmethod
    def of(cls, shifts: np.ndarray, currents: np.ndarray) -> CellCurve:
        """The curve through simulated points: (points,) rising shifts [V], and currents that fall with them [A]."""
        from scipy.interpolate import PchipInterpolator  # takes half a second, which runs from a store do without

        known, logs = falling_part(shifts, currents)
        places = np.arange(_PIECES * (len(known) - 1) + 1) / _PIECES
        fine = np.interp(places, np.arange(len(known)), known)
        return cls(fine, PchipInterpolator(known, logs)(fine))

    def currents(self, shifts: np.ndarray) -> np.ndarray:
        """Currents [A] at threshold shifts [V]. Beyond its ends the curve is flat."""
        return np.exp(np.interp(shifts, self.shifts, self.logs))

    def shifts_of(self, currents: np.ndarray) -> np.ndarray:
        """Threshold shifts [V] at which the cell conducts the given currents [A]; beyond the curve, its nearest end."""
        return np.interp(-np.log(currents), -self.logs, self.shifts)

    def log_slopes(self, shifts: np.ndarray) -> np.ndarray:
        """Relative change of the current with the shift, d ln(I) / dV [1/V], which is negative."""
        step = 1e-3
        lower, higher = (np.interp(shifts + side, self.shifts, self.logs) for side in (-step, step))
        return (higher - lower) / (2 * step)

    def scaled(self, shifts: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """The shifts [V] at which currents are those of the given shifts times a factor each.

        Beyond the ends of the curve, where a cell conducts next to nothing, shifts stay as they are.
        """
        currents = self.currents(shifts)
        return shifts + (self.shifts_of(factors * currents) - self.shifts_of(currents))


@dataclass(frozen=True, eq=False)
class CellCurves:
    """Curves of the card's cell at the voltage of the clamp.

    Attributes:
        verify: at the condition at which cells are verified, `Config.at_verify`.
        read: at the configured corner.
    """

    verify: CellCurve
    read: CellCurve
