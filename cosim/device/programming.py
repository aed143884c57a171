"""Levels as threshold shifts, programmed to current: level q conducts q unit currents at the nominal corner.

Program-verify tunes a cell until its read current hits the target, so the shift of a level is found by inverting
the cell's own simulated current against threshold shift, not from equal steps of threshold.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator

from cosim.config import Cell
from cosim.errors import CardError

# The shifts a cell is simulated at to learn its curve [V].
CURVE_SHIFTS = np.linspace(-4.0, 8.0, 601)
# Level 0 is programmed until it conducts no more than this share of a unit current.
OFF_SHARE = 1e-4


def program_levels(shifts: np.ndarray, currents: np.ndarray, cell: Cell) -> np.ndarray:
    """Threshold shift of every level.

    Args:
        shifts: (points,) rising threshold shifts [V].
        currents: (points,) read current of a cell with each shift [A], falling.
        cell: levels and full-scale current.

    Returns:
        (levels,) shifts [V], falling: level 0 is off, the highest conducts `full_scale_a`.

    Raises:
        CardError: the cell cannot reach the full-scale current, or cannot be switched off.
    """
    # Numerical noise at either end of the curve is left out: each point kept lies below all before it.
    logs = np.log(np.maximum(currents, 1e-300))
    kept = logs < np.minimum.accumulate(np.concatenate([[np.inf], logs[:-1]]))
    shifts, currents, logs = shifts[kept], currents[kept], logs[kept]
    if len(currents) < 2 or currents[0] < cell.full_scale_a:
        reach = currents.max(initial=0.0)
        raise CardError(
            f"cell.full_scale_a = {cell.full_scale_a:.3g} A, but the card reaches {reach:.3g} A "
            "at this read condition: lower cell.full_scale_a, or raise read.wordline_v or read.bitline_v"
        )
    off = OFF_SHARE * cell.unit_a
    if currents[-1] > off:
        raise CardError(
            f"level 0 must conduct less than {off:.3g} A, but the card leaks {currents[-1]:.3g} A at a threshold shift "
            f"of {shifts[-1]:.3g} V: lower read.wordline_v, or raise cell.full_scale_a"
        )
    targets = np.concatenate([[off], np.arange(1, cell.levels) * cell.unit_a])
    # The logarithm of the current is close to a straight line where the current itself is far from one.
    inverse = PchipInterpolator(logs[::-1], shifts[::-1])
    return inverse(np.log(targets))
