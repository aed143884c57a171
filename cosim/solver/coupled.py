"""Solves given reads of bitlines that source lines couple, or that are driven themselves (amplitude reads).

Each round replaces every cell by its tangent at the present voltages, a current source with conductances in parallel.
What remains is a linear network, which is solved by turns: first every bitline, from its far end to its sense end and
back, with the present voltages at the sources, and then every source line, with the new voltages at the drains.

The first tangents are those of a typical read at every bitline, which need no more than numbers for each cell. They are
close, since voltages of reads differ by millivolts. Of the polynomials of later tangents only those terms are
evaluated that matter at the voltages found so far.

Reads are the last axis. Several groups are solved at once, since each of the many small steps along wires has its cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cosim.errors import ConfigError
from cosim.solver.source_lines import SourceLines
from cosim.solver.stage import Stage

_ROUNDS = 60
# Rounds end when the next one would move no far end and no source by more than this share of the bitline's voltage, by
# the ratio of the last two movements.
_CLOSE = 5e-6
# Terms of a cell's polynomial are left out if they are below this share of the largest current of a cell.
_NEGLIGIBLE = 3e-7
# How often bitlines and source lines are solved by turns with the same tangents.
_TURNS = 2


@dataclass(frozen=True, eq=False)
class Bitlines:
    """The bitlines of some groups as chains of cells whose sources may be above 0 V.

    Attributes:
        open: (drain terms, source degree + 1, cells, groups, columns) coefficients of the currents of open cells, as in
            `CellCurves` [A].
        powers: how many of the drain terms are powers of the distance w; the others are for cells that conduct
            backwards.
        closed_s: (cells, groups, columns) conductances of closed cells [S].
        wire_ohm: as in `Ladders`.
        below_ohm: (groups,) resistance from cell 0 to the sense stage [ohm].
        near_s: (groups, columns) leakage of the tile's other cells at cell 0 [S].
        far_s: (groups, columns) leakage at the last cell [S].
        clamp_s: (groups, columns) leakage at the sense stage [S].
        volts: as in `Ladders`.
        highest_source_v: the largest source voltage for which the polynomials hold [V].
    """

    open: Tensor
    powers: int
    closed_s: Tensor
    wire_ohm: float
    below_ohm: Tensor
    near_s: Tensor
    far_s: Tensor
    clamp_s: Tensor
    volts: float
    highest_source_v: float

    @cached_property
    def _largest(self) -> list[list[float]]:
        """The largest coefficient of each power of w and of the source's voltage."""
        found: list[list[float]] = self.open[: self.powers].abs().amax((2, 3, 4)).tolist()
        return found

    def _kept(self, between_v: float, source_v: float) -> list[int]:
        """How many powers of the source's voltage matter for each power of w that does, at most at the given voltages.

        There are two powers of w at least.
        """
        least = _NEGLIGIBLE * self._largest[0][0]
        kept = [
            max((m + 1 for m, size in enumerate(row) if size * between_v**power * source_v**m > least), default=0)
            for power, row in enumerate(self._largest)
        ]
        while len(kept) > 2 and kept[-1] == 0:
            kept.pop()
        return [max(1, count) for count in kept]

    def tangents(self, w: Tensor, s: Tensor, line_of: Tensor, opened: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tangents of all cells' currents: at w = 0 and s = 0, and how much they fall with w and with s.

        The currents are exact. The slopes only guide the iteration; that by s assumes a source near 0 V.

        Args:
            w: (cells, groups, columns, reads or 1) distances of the drains below `volts` [V].
            s: (lines, groups, columns, reads or 1) voltages of the sources [V].
            line_of: (cells,) number of each cell's source line.
            opened: (cells, groups, reads) 1 for each open cell and 0 for the others.

        Returns:
            (cells, groups, columns, reads) each [A, S].
        """
        source = s.index_select(0, line_of)
        between = w + source
        source_v, between_v = float(s.max()), float(between.abs().max())
        open_cells = self.open[..., None]
        *lower, current = (
            _polynomial(term[:count], source)
            for term, count in zip(open_cells, self._kept(between_v, source_v), strict=False)
        )
        slope = current
        current = (current * between).add_(lower.pop())
        for term in reversed(lower):
            slope = torch.addcmul(current, slope, between)
            current = torch.addcmul(term, current, between)
        if between_v > self.volts and self.powers < len(open_cells):
            below = (between - self.volts).clamp_min_(0)
            backward = _polynomial([_polynomial(term, source) for term in open_cells[self.powers :]], below)
            current.addcmul_(backward.mul_(below), below)
        by_source = slope
        if self.open.shape[1] > 1:
            by_source = torch.addcmul(slope, open_cells[1, 1], between).add_(open_cells[0, 1])
        current = torch.addcmul(current, slope, w, value=-1).addcmul_(by_source, source, value=-1)
        state, closed_s = opened[:, :, None], self.closed_s[..., None]
        return (
            torch.lerp(closed_s * self.volts, current, state),
            torch.lerp(closed_s, -slope, state),
            by_source * -state,
        )

    def solve(
        self,
        known: Tensor,
        by_w: Tensor,
        by_s: Tensor,
        s: Tensor,
        end_w: Tensor | float,
        end_ohm: Tensor | float,
    ) -> tuple[Tensor, Tensor]:
        """Voltages along bitlines, and the currents at their ends.

        Args:
            known: as `tangents` returns them, and so are `by_w` and `by_s`.
            s: (cells, groups, columns, reads) voltages of the sources [V].
            end_w: distance of the sense end below `volts` if no current flows [V], for all or (groups, columns, reads).
            end_ohm: how much it grows with the current, likewise [ohm].

        Returns:
            (cells, groups, columns, reads) distances [V], and (groups, columns, reads) currents [A].
        """
        near, far, clamp = (values[..., None] for values in (self.near_s, self.far_s, self.clamp_s))
        one, below = known.new_ones(()), self.below_ohm[:, None, None]
        # Seen from the sense end, everything farther out draws the current a - b * w.
        a, b, beyond = self.volts * far, far, []
        drawn, falls = torch.addcmul(known, by_s, s, value=-1).unbind(), by_w.unbind()
        for current, fall in zip(drawn[:0:-1], falls[:0:-1], strict=True):
            b = fall + b
            share = torch.add(one, b, alpha=self.wire_ohm).reciprocal_()
            a = (current + a).mul_(share)
            b.mul_(share)
            beyond.append((a, b))
        a, b = drawn[0] + a + self.volts * near, falls[0] + b + near
        share = (1 + below * b).reciprocal_()
        a.mul_(share)
        b.mul_(share)
        all_a, all_b = a + self.volts * clamp, b + clamp
        total = (all_a - all_b * end_w) / (1 + all_b * end_ohm)
        near_w = end_w + end_ohm * total
        found = torch.empty_like(known)
        w, *rows = found.unbind()
        torch.addcmul(near_w, torch.addcmul(a, b, near_w, value=-1), below, out=w)
        for row, (a, b) in zip(rows, reversed(beyond), strict=True):
            w = torch.add(w, torch.addcmul(a, b, w, value=-1), alpha=self.wire_ohm, out=row)
        return found, total


def coupled_currents(
    bitlines: Bitlines, opened: Tensor, driven: Tensor | None, lines: SourceLines, stage: Stage
) -> Tensor:
    """Currents of given reads.

    Args:
        bitlines: the bitlines.
        opened: (groups, reads, cells), 1 for each open cell and 0 for the others.
        driven: (groups, reads, columns) voltages of driven bitlines, whose source lines are sensed [V]; None if
            bitlines are sensed.
        lines: the source lines of each group.
        stage: the sense stage.

    Returns:
        (groups, reads, columns) currents of sensed bitlines, or (groups, reads, lines) of sensed source lines [A].

    Raises:
        ConfigError: the iteration does not converge, or sources rise beyond the range of the curves.
    """
    volts = bitlines.volts
    # Begin where a typical read is.
    total = torch.einsum("kgc,grk->gcr", bitlines.open[0, 0], opened)
    opened = opened.permute(2, 0, 1).contiguous()
    near_w = volts - (stage.held_v(total.mean(-1, keepdim=True)) if driven is None else driven.mT)
    w = near_w.expand(len(opened), *near_w.shape)
    s = opened.new_zeros(len(lines.held_s), *near_w.shape[:2], 1)
    end_w: Tensor | float = near_w
    end_ohm: Tensor | float = 0.0
    line_of = torch.tensor(lines.line_of, device=opened.device)
    moved = volts
    for _ in range(_ROUNDS):
        known, by_w, by_s = bitlines.tangents(w, s, line_of, opened)
        if driven is None:
            end_v, end_ohm = stage.tangent(total)
            end_w = volts - end_v
        before, far_w, source_v = moved, w[-1], s
        for _ in range(_TURNS):
            w, total = bitlines.solve(known, by_w, by_s, s.index_select(0, line_of), end_w, end_ohm)
            s, sensed = lines.settle(torch.addcmul(known, by_w, w, value=-1), by_s)
        moved = max(float((w[-1] - far_w).abs().max()), float((s - source_v).abs().max()))
        if (highest := float(s.max())) > bitlines.highest_source_v:
            raise ConfigError(
                f"source lines rise to {highest:.3g} V, expected at most "
                f'{bitlines.highest_source_v:.3g} V: run.fidelity = "solved" does not follow cells so far; lower '
                'array.source_res_ohm or array.source_strap_cells, or choose "dc" or "tran"'
            )
        if moved * min(1, moved / before) < _CLOSE * volts:
            return (stage.measured(total) if driven is None else sensed).mT
    raise ConfigError(
        f"voltages of source lines still move by {moved:.2g} V after {_ROUNDS} rounds, expected less than "
        f'{_CLOSE * volts:.2g} V: run.fidelity = "solved" cannot take these wires; lower array.source_res_ohm or '
        'array.source_strap_cells, or choose "dc" or "tran"'
    )


def _polynomial(coefficients: Sequence[Tensor], x: Tensor) -> Tensor:
    """A polynomial of x whose coefficients, lowest first, can be broadcast to it."""
    *lower, found = coefficients
    for coefficient in reversed(lower):
        found = (found * x).add_(coefficient)
    return found
