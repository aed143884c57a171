"""Solves a bitline as a chain, for every pattern or for given ones, without a system of equations.

If sources are at 0 V, a bitline is a ladder, here seen from its far end:

    far end, node n-1 ─ R ─ node n-2 ─ R ─ … node 0 ─ R·(p+1) ─ sense stage        one cell from each node to ground

Suppose the voltage V of the far node were known. This gives the current of its cell, hence the drop along the first
resistance, hence the voltage of the next node, and so on: each cell takes one step, and nothing is inverted. The last
step gives a voltage and a current at the sense stage. Repeated for a few far voltages, this gives a few points of a
smooth curve, and interpolation (Aitken and Neville) finds where the curve meets that of the sense stage. The far
voltages are Chebyshev points between the extremes that any pattern can reach, with all cells open or none. A few points
are enough, since each further point reduces the error by orders of magnitude (tests/physics/test_solver.py).

Patterns share their far ends. All 512 patterns of nine inputs make a binary tree of 1,022 steps, instead of 4,608.

Voltages are kept as their distance w below the bitline's voltage. It is a matter of millivolts, so that single
precision is enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cosim.solver.stage import Stage

# Largest drop at the far end, as a share of the bitline's voltage, for which each number of points is enough.
_POINTS = ((0.1, 3), (0.35, 4), (0.6, 5))
_MOST_POINTS = 6
# Points span at least this share of the bitline's voltage, so that they differ.
_SMALLEST_SPAN = 2e-3
# The estimate of the largest drop is multiplied by this, which makes it an upper bound.
_MARGIN = 1.1


@dataclass(frozen=True, eq=False)
class Ladders:
    """Some bitlines as chains. Their groups must have the same number of inputs.

    The leakage of the tile's other cells at the near end is a part of the cells of input 0, open or closed.

    Attributes:
        open: (degree + 1, inputs, bitlines) polynomials in w of the currents of open cells, with input 0 nearest to the
            sense end [A].
        closed_a: (inputs, bitlines) currents of closed cells at the bitline's voltage [A].
        closed_s: (inputs, bitlines) conductances of closed cells [S].
        wire_ohm: resistance between neighbouring cells [ohm].
        below_ohm: (bitlines,) resistance from cell 0 to the sense stage [ohm].
        far_s: (bitlines,) leakage of the tile's other cells at the last cell [S].
        clamp_s: (bitlines,) leakage of the tile's other cells at the sense stage [S].
        volts: voltage of the bitlines [V].
    """

    open: Tensor
    closed_a: Tensor
    closed_s: Tensor
    wire_ohm: float
    below_ohm: Tensor
    far_s: Tensor
    clamp_s: Tensor
    volts: float

    @classmethod
    def of(
        cls,
        open_cells: Tensor,
        closed_s: Tensor,
        wire_ohm: float,
        below_ohm: Tensor,
        leakage_s: tuple[Tensor, Tensor, Tensor],
        volts: float,
    ) -> Ladders:
        """Make ladders of cells, with the leakage at the near end, the far end and the sense stage."""
        near_s, far_s, clamp_s = leakage_s
        open_cells, closed_s = open_cells.clone(), closed_s.clone()
        open_cells[0, 0] += near_s * volts
        open_cells[1, 0] -= near_s
        closed_s[0] += near_s
        return cls(open_cells, closed_s * volts, closed_s, wire_ohm, below_ohm, far_s, clamp_s, volts)

    @property
    def inputs(self) -> int:
        return self.open.shape[1]

    def current(self, cell: int, w: Tensor) -> Tensor:
        """Currents of the open cells of one input [A]."""
        *lower, highest = self.open[:, cell].unbind()
        found = torch.addcmul(lower.pop(), highest, w)
        while lower:
            found = torch.addcmul(lower.pop(), found, w)
        return found

    def towards_stage(self, cell: int, w: Tensor, y: Tensor) -> Tensor:
        """The next node's distance below the bitline's voltage [V].

        Args:
            cell: number of the cell.
            w: the distance at the cell [V].
            y: the current that flows on towards the sense stage [A].
        """
        if cell == 0:
            return torch.addcmul(w, self.below_ohm, y, value=-1)
        return torch.sub(w, y, alpha=self.wire_ohm)


def every_pattern(ladders: Ladders, stage: Stage, points: int | None = None) -> Tensor:
    """Currents of every pattern: (2^inputs, bitlines) [A]; bit i of a pattern is the state of input i.

    Args:
        ladders: the bitlines.
        stage: their sense stage.
        points: number of collocation points; None to choose it by the drop along the wires.
    """
    w, y = _far_ends(ladders, stage, points)
    w, y = w[:, None], y[:, None]
    for cell in range(ladders.inputs - 1, -1, -1):
        # The number of patterns doubles: first come those in which this cell is closed, then those in which it is open.
        joined = torch.empty(len(w), 2, *w.shape[1:], dtype=w.dtype, device=w.device)
        torch.addcmul(y + ladders.closed_a[cell], ladders.closed_s[cell], w, value=-1, out=joined[:, 0])
        torch.add(y, ladders.current(cell, w), out=joined[:, 1])
        w = ladders.towards_stage(cell, w[:, None], joined).flatten(1, 2)
        y = joined.flatten(1, 2)
    # So far, the last cell, input 0, is the most significant bit of a pattern, but it should be the least significant.
    order = _reversed_bits(ladders.inputs).to(w.device)
    return stage.meet(w, y, ladders.clamp_s)[order]


def given_patterns(ladders: Ladders, opened: Tensor, stage: Stage, points: int | None = None) -> Tensor:
    """Currents of given reads: (reads, bitlines) [A].

    Args:
        ladders: the bitlines.
        opened: (reads, inputs), 1 for each open input and 0 for the others.
        stage: the sense stage of the bitlines.
        points: as in `every_pattern`.
    """
    w, y = (ends[:, None].expand(-1, len(opened), -1) for ends in _far_ends(ladders, stage, points))
    for cell in range(ladders.inputs - 1, -1, -1):
        state = opened[:, cell, None]
        closed = torch.addcmul(ladders.closed_a[cell], ladders.closed_s[cell], w, value=-1)
        y = y + closed.lerp_(ladders.current(cell, w), state)
        w = ladders.towards_stage(cell, w, y)
    return stage.meet(w, y, ladders.clamp_s)


def _far_ends(ladders: Ladders, stage: Stage, points: int | None) -> tuple[Tensor, Tensor]:
    """Where chains begin: distances of the far ends below the bitlines' voltage [V], and leakage [A].

    Both are (points, bitlines). The distances lie between no drop and the drop with all cells open. The latter is
    estimated as if all cells were at the near end, and their currents fell in proportion to their voltage.
    """
    largest = ladders.open[0].flip(0).cumsum(0).flip(0)  # the current past each cell if all cells are open
    drop = largest[0] * (ladders.below_ohm + stage.ohm) + ladders.wire_ohm * largest[1:].sum(0)
    low, high = stage.range_v()
    span = _MARGIN * drop / (1 + drop / ladders.volts) + (high - low)
    if points is None:
        share = float(span.max()) / ladders.volts
        points = next((count for most, count in _POINTS if share <= most), _MOST_POINTS)
    angle = torch.arange(points, dtype=torch.float64) / (points - 1)
    place = ((1 - torch.cos(torch.pi * angle)) / 2).to(span)
    w = ladders.volts - high + place[:, None] * span.clamp_min(_SMALLEST_SPAN * ladders.volts)
    return w, (ladders.volts - w) * ladders.far_s


def _reversed_bits(count: int) -> Tensor:
    """The place of every pattern of `count` inputs in the order in which bits are reversed."""
    place = torch.zeros(1, dtype=torch.int64)
    for _ in range(count):
        place = torch.cat([2 * place, 2 * place + 1])
    return place
