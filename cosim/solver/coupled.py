"""Solves given reads of bitlines that source lines couple, or that are driven themselves (amplitude reads).

Each round replaces every cell by its tangent at the present voltages, a current source with conductances in parallel.
What remains is a linear network, which is solved by turns: first every bitline, from its far end to its sense end and
back, with the present voltages at the sources, and then every source line, with the new voltages at the drains. Drops
along source lines are only millivolts, so that each round adds two or three correct digits.

Reads are the last axis, so that each operation on the cells of a row covers all of them.
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
# Rounds end when no far end and no source moves by more than this share of the bitline's voltage. What is still missing
# is then a hundredth of it, or a third if wires take most of the voltage.
_CLOSE = 5e-6


@dataclass(frozen=True, eq=False)
class Bitlines:
    """The bitlines of a group as chains of cells whose sources may be above 0 V.

    Attributes:
        open: (drain terms, source degree + 1, cells, columns) coefficients of the currents of open cells, as in
            `CellCurves` [A].
        powers: how many of the drain terms are powers of the distance w; the others are for cells that conduct
            backwards.
        closed_s: (cells, columns) conductances of closed cells [S].
        wire_ohm: as in `Ladders`.
        below_ohm: as in `Ladders`.
        near_s: (columns,) leakage of the tile's other cells at cell 0 [S].
        far_s: as in `Ladders`.
        clamp_s: as in `Ladders`.
        volts: as in `Ladders`.
        highest_source_v: the largest source voltage for which the polynomials hold [V].
    """

    open: Tensor
    powers: int
    closed_s: Tensor
    wire_ohm: float
    below_ohm: float
    near_s: Tensor
    far_s: Tensor
    clamp_s: Tensor
    volts: float
    highest_source_v: float

    @cached_property
    def _rows(self) -> list[list[list[Tensor]]]:
        """The drain terms of each row of cells, each by powers of the source's voltage: (columns, 1)."""
        return [[list(term) for term in row] for row in self.open[..., None].movedim(2, 0)]

    def tangents(self, w: Tensor, s: Sequence[Tensor], opened: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Currents of all cells, and how much they fall with w and with s: (cells, columns, reads) each.

        The currents are exact. The slopes only guide the iteration; that by s assumes a source near 0 V.

        Args:
            w: (cells, columns, reads) distances of the drains below `volts` [V].
            s: (cells,) voltages of the sources, (columns, reads) each [V].
            opened: (cells, reads) 1 for each open cell and 0 for the others.
        """
        drawn, by_w, by_s = w.new_empty(3, *w.shape)
        for cell, row in enumerate(self._rows):
            state, between = opened[cell], w[cell] + s[cell]
            terms = [_polynomial(by_source, s[cell]) for by_source in row]
            *powers, current = terms[: self.powers]
            slope = torch.zeros_like(current)
            for power in reversed(powers):
                torch.addcmul(current, slope, between, out=slope)
                current = power.addcmul_(current, between)
            if backward := terms[self.powers :]:
                below = (between - self.volts).clamp_min_(0)
                current.addcmul_(_polynomial(backward, below).mul_(below), below)
            closed = self.closed_s[cell, :, None] * (1 - state)
            torch.mul(current, state, out=drawn[cell]).addcmul_(closed, self.volts - w[cell])
            torch.addcmul(closed, slope, state, value=-1, out=by_w[cell])
            if self.open.shape[1] > 1:
                slope.addcmul_(row[1][1], between).add_(row[0][1])
            torch.mul(slope, -state, out=by_s[cell])
        return drawn, by_w, by_s

    def solve(
        self, drawn: Tensor, siemens: Tensor, before: Tensor, end_w: Tensor, end_ohm: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Voltages along bitlines, and the currents at their ends.

        Args:
            drawn: (cells, columns, reads) currents of the cells at the distances `before` [A].
            siemens: (cells, columns, reads) how much these fall with the distance [S].
            before: (cells, columns, reads) distances of the drains below `volts` [V].
            end_w: (columns, reads) distance of the sense end below `volts` if no current flows [V].
            end_ohm: how much it grows with the current, for all or as (columns, reads) [ohm].

        Returns:
            (cells, columns, reads) distances [V], and (columns, reads) currents [A].
        """
        # Seen from the sense end, everything farther out draws the current a - b * w.
        a, b = (self.volts * self.far_s)[:, None], self.far_s[:, None]
        beyond = []
        for cell in range(len(drawn) - 1, -1, -1):
            a = torch.addcmul(drawn[cell], siemens[cell], before[cell]).add_(a)
            b = siemens[cell] + b
            if cell == 0:
                a.add_((self.volts * self.near_s)[:, None])
                b.add_(self.near_s[:, None])
            ohm = self.wire_ohm if cell else self.below_ohm
            share = torch.mul(b, ohm).add_(1).reciprocal_()
            a.mul_(share)
            b.mul_(share)
            beyond.append((a, b, ohm))
        a, b = a + (self.volts * self.clamp_s)[:, None], b + self.clamp_s[:, None]
        total = (a - b * end_w) / (1 + b * end_ohm)
        w = end_w + end_ohm * total
        found = torch.empty_like(drawn)
        for row, (a, b, ohm) in zip(found, reversed(beyond), strict=True):
            w = torch.add(w, torch.addcmul(a, b, w, value=-1), alpha=ohm, out=row)
        return found, total


def coupled_currents(
    bitlines: Bitlines, opened: Tensor, driven: Tensor | None, lines: SourceLines, stage: Stage
) -> Tensor:
    """Currents of given reads.

    Args:
        bitlines: the bitlines.
        opened: (reads, cells), 1 for each open cell and 0 for the others.
        driven: (reads, columns) voltages of driven bitlines, whose source lines are sensed [V]; None if bitlines are
            sensed.
        lines: the source lines.
        stage: the sense stage.

    Returns:
        (reads, columns) currents of sensed bitlines, or (reads, lines) of sensed source lines [A].

    Raises:
        ConfigError: the iteration does not converge, or sources rise beyond the range of the curves.
    """
    opened, volts = opened.T.contiguous(), bitlines.volts
    total = opened.new_zeros(bitlines.closed_s.shape[1], opened.shape[1])
    end_w = total if driven is None else volts - driven.T
    end_ohm: Tensor | float = 0.0
    w = end_w.expand(len(opened), *total.shape)
    s = opened.new_zeros(len(lines.held_s), *total.shape)
    for _ in range(_ROUNDS):
        drawn, by_w, by_s = bitlines.tangents(w, [s[line] for line in lines.line_of], opened)
        if driven is None:
            end_ohm = stage.slope_ohm(total)
            end_w = volts - stage.held_v(total) - end_ohm * total
        settled_w, total = bitlines.solve(drawn, by_w, w, end_w, end_ohm)
        fallen = settled_w - w
        settled_s, sensed = lines.settle(drawn.addcmul_(by_w, fallen, value=-1), by_s, s)
        moved = max(float(fallen[-1].abs().max()), float((settled_s - s).abs().max()))
        w, s = settled_w, settled_s
        if float(s.max()) > bitlines.highest_source_v:
            raise ConfigError(
                f"source lines rise to {float(s.max()):.3g} V, expected at most "
                f'{bitlines.highest_source_v:.3g} V: run.fidelity = "solved" does not follow cells so far; lower '
                'array.source_res_ohm or array.source_strap_cells, or choose "dc" or "tran"'
            )
        if moved < _CLOSE * volts:
            return (stage.measured(total) if driven is None else sensed).T
    raise ConfigError(
        f"voltages of source lines still move by {moved:.2g} V after {_ROUNDS} rounds, expected less than "
        f'{_CLOSE * volts:.2g} V: run.fidelity = "solved" cannot take these wires; lower array.source_res_ohm or '
        'array.source_strap_cells, or choose "dc" or "tran"'
    )


def _polynomial(coefficients: Sequence[Tensor], x: Tensor) -> Tensor:
    """A polynomial of x (columns, reads) whose coefficients, lowest first, can be broadcast to x."""
    *lower, highest = coefficients
    found = highest.expand_as(x).clone()
    for coefficient in reversed(lower):
        torch.addcmul(coefficient, found, x, out=found)
    return found
