"""Solves crossbars of resistors, which are driven along one side and sensed along the other, without iteration.

The nodes of driven lines are eliminated from their far ends, for all driven lines together. Seen from the drivers,
everything that lies farther out is one matrix J of conductances between the driven lines. A sensed line is also such a
matrix S to the driven lines that it crosses. In series with a wire of R ohm, F = S + J becomes

    J = F (1 + R F)^-1 = (1 - (1 + R F)^-1) / R

so that each step inverts one symmetric positive definite matrix, 1 + R F. All input vectors are solved at once, and a
further vector costs only a product with each inverse.

A sensed line with the conductances g of its cells is a tridiagonal system, whose inverse needs no elimination. Its
element i, j is the product of the voltage at the node nearer to the sense end if only that end is held, and of the
voltage at the other node if only the far end is open. For cells that are not linear, see `cosim.solver.coupled`.
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
    ratios = wire_ohm * siemens
    near, far, whole = _sensed_lines(ratios)
    by_near, by_far = ratios * near, ratios * far / whole[:, None]
    own = ratios + 2
    own[-1] -= 1  # no wire leads on from the last line
    behind = torch.zeros(siemens.shape[1], siemens.shape[1], dtype=siemens.dtype, device=siemens.device)
    steps = []
    for line in range(len(siemens) - 1, -1, -1):
        # 1 + R F. Only the lower triangle is right, which is the one that is read.
        matrix = torch.addr(behind, by_far[line], by_near[line], beta=-1, alpha=-1)
        matrix.diagonal().add_(own[line])
        # The inverse turns the voltages before a stretch of wire into those behind it.
        behind = torch.cholesky_inverse(torch.linalg.cholesky_ex(matrix).L)
        steps.append(behind)
    nodes, found = volts.T, []
    for line, behind in enumerate(reversed(steps)):
        nodes = behind @ nodes
        found.append(by_far[line] @ nodes / wire_ohm)
    return torch.stack(found, 1)


def _sensed_lines(ratios: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Voltages along sensed lines without drivers.

    Args:
        ratios: (sensed, driven) conductances of the cells, in units of that of the wire.

    Returns:
        (sensed, driven) voltages if the sense end is at 0 V and the first node at 1 V; (sensed, driven) voltages if the
        far end is open and at 1 V; and (sensed,) the voltage of the sense end in the second case.
    """
    near, far = [torch.ones_like(ratios[:, 0])], [torch.ones_like(ratios[:, 0])]
    drop = near[0]
    for ratio in ratios.T[:-1]:
        drop = torch.addcmul(drop, ratio, near[-1])
        near.append(near[-1] + drop)
    drop = torch.zeros_like(drop)
    for ratio in ratios.T.flip(0):
        drop = torch.addcmul(drop, ratio, far[-1])
        far.append(far[-1] + drop)
    whole = far.pop()
    return torch.stack(near, 1), torch.stack(far[::-1], 1), whole
