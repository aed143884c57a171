"""Crossbars of resistors, driven along one side and sensed along the other: all input vectors at once, directly.

The nodes of a driven line's cells are eliminated cell by cell from its far end, for all driven lines together: seen
from the driver, what lies farther out is one matrix of conductances J between the lines. A sensed line is, to the
driven lines it crosses, such a matrix too: the cells less what its own resistance takes, a tridiagonal system solved
for all sensed lines at once. In series with a wire of R ohm, a matrix F becomes

    J = F (1 + R F)^-1 = (1 - (1 + R F)^-1) / R

so that a step is one inverse of a symmetric positive definite matrix. Nothing iterates, and any number of vectors costs
a product more. Cells that are not linear are for `cosim.solver.coupled`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def crossbar_currents(siemens: Tensor, volts: Tensor, wire_ohm: float) -> Tensor:
    """Currents out of the sensed lines, which are held at 0 V before their first cell.

    Args:
        siemens: (sensed lines, driven lines) conductances of the cells, >= 0, float64 [S]. Line 0 of either kind is
            nearest to the sense ends and to the drivers.
        volts: (vectors, driven lines) of the drivers, before the first cell [V].
        wire_ohm: of a line from cell to cell, and to its first cell, > 0 [ohm].

    Returns:
        (vectors, sensed lines) [A].
    """
    sensed, driven = siemens.shape
    at_sense, through = _sensed_lines(siemens, 1 / wire_ohm)
    identity = torch.eye(driven, dtype=siemens.dtype, device=siemens.device)
    beyond = torch.zeros_like(identity)
    steps = []
    for line in range(sensed - 1, -1, -1):
        # Of the voltage before a stretch of wire, what is left behind it.
        factor = torch.linalg.cholesky_ex(identity + wire_ohm * (through[line] + beyond)).L
        left = torch.cholesky_inverse(factor)
        steps.append(left)
        beyond = (identity - left) / wire_ohm
    nodes, found = volts.T, []
    for line, left in enumerate(reversed(steps)):
        nodes = left @ nodes
        found.append(at_sense[line] @ nodes)
    return torch.stack(found, 1)


def _sensed_lines(siemens: Tensor, wire_s: float) -> tuple[Tensor, Tensor]:
    """What a volt on each driven line does on each sensed line: currents at its sense end, (sensed, driven), and out of
    the driven lines, (sensed, driven, driven) [S].

    The line's own voltages are those of a tridiagonal system, solved by elimination from its far end.
    """
    driven = siemens.shape[1]
    shares = torch.diag_embed(siemens)  # currents into the line's nodes, a row a node
    pivots, sides = [siemens[:, -1] + wire_s], [shares[:, -1]]
    for node in range(driven - 2, -1, -1):
        ratio = wire_s / pivots[-1]
        pivots.append(siemens[:, node] + 2 * wire_s - ratio * wire_s)
        sides.append(shares[:, node] + ratio[:, None] * sides[-1])
    volts = [sides[-1] / pivots[-1][:, None]]
    for pivot, side in zip(pivots[-2::-1], sides[-2::-1], strict=True):
        volts.append((side + wire_s * volts[-1]) / pivot[:, None])
    lines = torch.stack(volts, 1)  # (sensed, nodes, driven)
    return wire_s * lines[:, 0], shares - siemens[:, :, None] * lines
