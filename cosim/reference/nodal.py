"""A settled group of an array by nodal analysis: Kirchhoff's current law at every node, solved by Newton.

It is independent of the simulator, except for the cell's curve, which the caller gives: the current of an open cell as
a function of its units and the voltages of its drain and source. Closed cells and gates draw no current, so wordlines
play no part.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import spsolve

from cosim.config import Array
from cosim.mapping import Group

CellCurve = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]

_GROUND, _CLAMP, _FIRST_UNKNOWN = 0, 1, 2


def solve_group(
    group: Group, patterns: np.ndarray, array: Array, bitline_v: float, curve: CellCurve, tolerance_v: float = 1e-12
) -> np.ndarray:
    """Bitline currents of a group.

    Args:
        patterns: (n,) integers; bit i is the state of wordline i.
        bitline_v: voltage of the clamp [V].
        curve: function that maps units, drain and source voltages to the body [V] of open cells to their drain currents
            [A] and the derivatives by drain and source voltage [S]. All arrays have the same shape.
        tolerance_v: Newton's method stops if no voltage changes by more than this.

    Raises:
        RuntimeError: Newton's method does not converge.

    Returns:
        (n, bitlines) [A].
    """
    drains, sources, laplacian = _network(group, array)
    nodes = laplacian.shape[0]
    unknown = slice(_FIRST_UNKNOWN, None)
    currents = np.zeros((len(patterns), group.units.shape[1]))
    for index, pattern in enumerate(patterns):
        opened = np.flatnonzero((int(pattern) >> np.arange(group.inputs, dtype=object)) & 1)
        units, drain, source = (values[opened].ravel() for values in (group.units, drains, sources))
        volts = np.zeros(nodes)
        volts[_CLAMP] = bitline_v
        volts[drains] = bitline_v
        for _ in range(50):
            drawn, by_drain, by_source = curve(units, volts[drain], volts[source])
            leaving = laplacian @ volts
            np.add.at(leaving, drain, drawn)
            np.add.at(leaving, source, -drawn)
            rows = np.concatenate([drain, drain, source, source])
            columns = np.concatenate([drain, source, drain, source])
            slopes = np.concatenate([by_drain, by_source, -by_drain, -by_source])
            jacobian = laplacian + sparse.coo_array((slopes, (rows, columns)), (nodes, nodes)).tocsr()
            step = np.zeros(nodes)
            if nodes > _FIRST_UNKNOWN:
                step[unknown] = spsolve(jacobian[unknown, unknown].tocsc(), leaving[unknown])
            volts -= step
            if np.abs(step).max() < tolerance_v:
                break
        else:
            raise RuntimeError(f"pattern {pattern} of a group does not converge, last step {np.abs(step).max():g} V")
        if array.bitline_res_ohm == 0:
            currents[index] = drawn.reshape(len(opened), currents.shape[1]).sum(axis=0)
        else:
            below_ohm = array.bitline_res_ohm * (group.first_input + 1)
            currents[index] = (bitline_v - volts[drains[0]]) / below_ohm
    return currents


def _network(group: Group, array: Array) -> tuple[np.ndarray, np.ndarray, sparse.csr_array]:
    """Drain and source nodes of all cells, (wordlines, bitlines) each, and the conductances between all nodes [S]."""
    shape = wordlines, bitlines = group.units.shape
    drains, sources = np.full(shape, _CLAMP), np.full(shape, _GROUND)
    ends: list[tuple[np.ndarray, np.ndarray, float]] = []
    nodes = _FIRST_UNKNOWN
    if array.bitline_res_ohm > 0:
        drains = nodes + np.arange(wordlines * bitlines).reshape(shape)
        nodes += drains.size
        clamps = np.full(bitlines, _CLAMP)
        ends.append((clamps, drains[0], array.bitline_res_ohm * (group.first_input + 1)))
        ends.append((drains[:-1].ravel(), drains[1:].ravel(), array.bitline_res_ohm))
    if array.source_res_ohm > 0:
        line = (group.first_input + np.arange(wordlines)) // array.source_line_wordlines
        lines = nodes + np.arange((line[-1] - line[0] + 1) * bitlines).reshape(-1, bitlines)
        nodes += lines.size
        sources = lines[line - line[0]]
        ohm, every = array.source_res_ohm, array.source_strap_cells
        strapped = np.arange(1, bitlines) % every == 0  # a strap stands between a bitline and the one before it
        left, right = lines[:, :-1], lines[:, 1:]
        ends.append((left[:, ~strapped].ravel(), right[:, ~strapped].ravel(), ohm))
        for strap_side in (lines[:, 0], left[:, strapped].ravel(), right[:, strapped].ravel()):
            ends.append((strap_side, np.full(strap_side.shape, _GROUND), ohm))
        next_strap = int(np.ceil(bitlines / every)) * every
        if next_strap <= array.bitlines:
            last = lines[:, -1]
            ends.append((last, np.full(last.shape, _GROUND), ohm * (next_strap - bitlines + 1)))
    laplacian = sparse.csr_array((nodes, nodes))
    for one, other, ohm in ends:
        conductance = np.full(len(one), 1 / ohm)
        rows, columns = np.concatenate([one, other, one, other]), np.concatenate([one, other, other, one])
        values = np.concatenate([conductance, conductance, -conductance, -conductance])
        laplacian = laplacian + sparse.coo_array((values, (rows, columns)), (nodes, nodes)).tocsr()
    return drains, sources, laplacian
