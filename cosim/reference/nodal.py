"""A settled group of an array by nodal analysis: Kirchhoff's current law on every bitline, solved by Newton.

Independent of the simulator but for the cell's curve, current against drain voltage at each level, which is given.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cosim.config import Array
from cosim.mapping import Group

CellCurve = Callable[[np.ndarray, np.ndarray], np.ndarray]


def solve_group(
    group: Group, patterns: np.ndarray, array: Array, bitline_v: float, current: CellCurve, slope: CellCurve
) -> np.ndarray:
    """Bitline currents of a group.

    Args:
        patterns: (n,) integers; bit i is the state of wordline i.
        bitline_v: voltage of the clamp [V].
        current: drain current [A] of open cells from their levels and drain voltages, arrays of one shape.
        slope: its derivative by drain voltage [S].

    Returns:
        (n, bitlines) [A].
    """
    wordlines, bitlines = group.levels.shape
    open_cells = ((patterns[:, None] >> np.arange(wordlines)) & 1).astype(bool)  # n, wordlines
    is_open = np.broadcast_to(open_cells[:, None], (len(patterns), bitlines, wordlines))
    levels = np.broadcast_to(group.levels.T, is_open.shape)
    if array.bitline_res_ohm == 0:
        volts = np.full(is_open.shape, bitline_v)
        return np.where(is_open, current(levels, volts), 0).sum(axis=2)
    conductance = np.full(wordlines, 1 / array.bitline_res_ohm)
    conductance[0] /= group.first_wordline + 1
    # Node k hangs between the wires k and k + 1; behind the last node there is none.
    wires = np.diag(conductance + np.append(conductance[1:], 0))
    wires -= np.diag(conductance[1:], 1) + np.diag(conductance[1:], -1)
    feed = np.zeros(wordlines)
    feed[0] = conductance[0] * bitline_v
    volts = np.full(is_open.shape, bitline_v)
    for _ in range(50):
        drawn = np.where(is_open, current(levels, volts), 0)
        residual = volts @ wires - feed + drawn
        jacobian = wires + np.eye(wordlines) * np.where(is_open, slope(levels, volts), 0)[..., None]
        step = np.linalg.solve(jacobian, residual[..., None])[..., 0]
        volts = volts - step
        if np.abs(step).max() < 1e-13:
            break
    return (bitline_v - volts[..., 0]) * conductance[0]
