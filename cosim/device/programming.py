"""Finds the threshold shifts of levels. Nominally, level q conducts q + offset_units unit currents.

Program-verify tunes a cell until its read current reaches the target. The shift of a level is therefore found by
inverting the cell's own simulated current over threshold shift, and levels are not at equal steps of threshold.
"""

from __future__ import annotations

import numpy as np

from cosim.config import Cell
from cosim.device.curve import falling_part
from cosim.errors import CardError

# The threshold shifts at which a cell is simulated to learn its curve [V].
CURVE_SHIFTS = np.linspace(-4.0, 8.0, 601)
# Level 0 is programmed until it conducts no more than this share of a unit current.
OFF_SHARE = 1e-4
# Smallest distance of neighbouring levels [V]: that of one electron at a control-gate capacitance of 0.1 fF.
SMALLEST_STEP_V = 1.6e-3


def program_levels(shifts: np.ndarray, currents: np.ndarray, cell: Cell) -> np.ndarray:
    """Threshold shift for every whole number of unit currents that a cell may conduct. Level q has q + offset_units.

    Args:
        shifts: (points,) rising threshold shifts [V].
        currents: (points,) read current of a cell at each shift [A], falling.
        cell: the section cell of the configuration, for its levels and full-scale current.

    Returns:
        (most_units + 1,) shifts [V], falling: the first is off, the last conducts `full_scale_a`.

    Raises:
        CardError: the current does not fall with the shift, does not reach the full scale, or cannot be switched off;
            or levels lie less than an electron apart.
    """
    if currents[-1] >= currents[0]:
        raise CardError(
            f"expected a cell whose current falls with its threshold shift, found {currents[0]:.3g} A at "
            f"{shifts[0]:.3g} V and {currents[-1]:.3g} A at {shifts[-1]:.3g} V: check the sign of the shift parameter, "
            "that it is used, and that the ports are drain gate source body"
        )
    shifts, logs = falling_part(shifts, currents)
    currents = np.exp(logs)
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
    targets = np.concatenate([[off], np.arange(1, cell.most_units + 1) * cell.unit_a])
    # The logarithm of the current is close to a straight line even if the current itself is not.
    from scipy.interpolate import PchipInterpolator  # takes half a second, which runs from a store do without

    inverse = PchipInterpolator(logs[::-1], shifts[::-1])
    levels = inverse(np.log(targets))
    steps = -np.diff(levels)
    if steps.min() < SMALLEST_STEP_V:
        lower = int(steps.argmin())
        raise CardError(
            f"levels {lower} and {lower + 1} are {1e3 * steps[lower]:.2g} mV of threshold apart and cannot be told "
            f"apart, less than an electron ({1e3 * SMALLEST_STEP_V:g} mV): lower cell.bits, or change cell.full_scale_a"
        )
    return levels
