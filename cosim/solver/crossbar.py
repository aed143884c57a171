"""Solves crossbars of resistors, which are driven along one side and sensed along the other, without iteration.

The nodes of driven lines are eliminated from their far ends, for all driven lines together. Seen from the drivers,
everything that lies farther out is one matrix J of conductances between the driven lines. A sensed line is also such a
matrix to the driven lines that it crosses: it holds the conductances of the cells, reduced by the resistance of the
sensed line. This reduction is a tridiagonal system, which is solved for all sensed lines at once. In series with a wire
of R ohm, a matrix F becomes

    J = F (1 + R F)^-1 = (1 - (1 + R F)^-1) / R

so that each step inverts one symmetric positive definite matrix. All input vectors are solved at once, and a further
vector costs only a product with each matrix. For cells that are not linear, see `cosim.solver.coupled`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def crossbar_currents(siemens: Tensor, volts: Tensor, wire_ohm: float) -> Tensor:
    """Currents out of the sensed lines, which are held at 0 V before their first cell.

    Args:
        siemens: (sensed lines, driven lines) conductances of the cells, >= 0, float64 [S]. Line 0 of either kind is
            nearest to the sense ends and to the drivers.
        volts: (vectors, driven lines) voltages of the drivers, before the first cell [V].
        wire_ohm: resistance of a line from cell to cell, and to its first cell, > 0 [ohm].

    Returns:
        (vectors, sensed lines) currents [A].
    """
    sensed, driven = siemens.shape
    at_sense, through = _sensed_lines(siemens, 1 / wire_ohm)
    identity = torch.eye(driven, dtype=siemens.dtype, device=siemens.device)
    beyond = torch.zeros_like(identity)
    steps = []
    for line in range(sensed - 1, -1, -1):
        # This matrix turns the voltages before a stretch of wire into those behind it.
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
    """The currents that a volt on each driven line causes in each sensed line.

    The voltages along a sensed line solve a tridiagonal system, by elimination from its far end.

    Returns:
        (sensed, driven) currents at the sense end [S]; and (sensed, driven, driven) currents out of the driven lines
        [S].
    """
    driven = siemens.shape[1]
    shares = torch.diag_embed(siemens)  # currents into the line's nodes, one row for each node
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
