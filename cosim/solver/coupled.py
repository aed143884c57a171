"""Solves given reads of bitlines that source lines couple, or that are driven themselves (amplitude reads).

The solution alternates between bitlines and source lines. With the present voltages at the sources, every bitline is a
chain (`cosim.solver.chain`), whose far end a Newton step improves. Then every source line is solved with the currents
and slopes of the cells, which gives new voltages at the sources. Drops along source lines are only millivolts, so each
round adds correct digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cosim.errors import ConfigError
from cosim.solver.source_lines import SourceLines
from cosim.solver.stage import Stage

_ROUNDS = 60
# Rounds end when no far end and no source moves by more than this [V]. The remaining error is a hundredth of it, which
# changes currents by far less than a millionth of a unit current.
_CLOSE_V = 3e-9


@dataclass(frozen=True, eq=False)
class Bitlines:
    """The bitlines of a group as chains of cells whose sources may be above 0 V.

    Attributes:
        open: (drain degree + 1, source degree + 1, cells, columns) polynomials of the currents of open cells [A]. Their
            variables are how far the voltage between drain and source is below `volts`, and the source's voltage.
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
    closed_s: Tensor
    wire_ohm: float
    below_ohm: float
    near_s: Tensor
    far_s: Tensor
    clamp_s: Tensor
    volts: float
    highest_source_v: float

    def currents(self, cell: int, w: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Currents of the open cells of a row, and their derivatives by w and by s: (reads, columns) each.

        The currents are exact. The derivatives only guide the iteration; that by s assumes a source near 0 V.

        Args:
            cell: number of the row.
            w: distance of the drains below `volts` [V].
            s: voltage of the sources [V].
        """
        between = w + s
        powers = []  # coefficients of the powers of the distance, at the given source voltages
        for coefficients in self.open[:, :, cell]:
            found = coefficients[-1].expand_as(w)
            for coefficient in coefficients[:-1].flip(0):
                found = torch.addcmul(coefficient, found, s)
            powers.append(found)
        current, by_w = powers[-1], torch.zeros_like(w)
        for power in reversed(powers[:-1]):
            by_w = torch.addcmul(current, by_w, between)
            current = torch.addcmul(power, current, between)
        if self.open.shape[1] == 1:
            return current, by_w, by_w
        by_s = torch.addcmul(self.open[0, 1, cell], self.open[1, 1, cell], between)
        return current, by_w, by_s.add_(by_w)


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
    reads, cells, columns = len(opened), *bitlines.closed_s.shape
    volts = bitlines.volts
    start = 0.0 if driven is None else volts - driven
    far = torch.zeros(reads, columns, dtype=opened.dtype, device=opened.device) + start
    sources = torch.zeros(reads, cells, columns, dtype=opened.dtype, device=opened.device)
    drawn, slopes = torch.empty_like(sources), torch.empty_like(sources)
    for _ in range(_ROUNDS):
        w, moved = far, torch.ones_like(far)
        y, by_far = (volts - w) * bitlines.far_s, -bitlines.far_s * moved
        for cell in range(cells - 1, -1, -1):
            state, closed = opened[:, cell, None], (1 - opened[:, cell, None]) * bitlines.closed_s[cell]
            current, by_w, by_s = bitlines.currents(cell, w, sources[:, cell])
            drawn[:, cell] = state * current + closed * (volts - w)
            slopes[:, cell] = -state * by_s
            y = y + drawn[:, cell]
            by_far = by_far + (state * by_w - closed) * moved
            if cell == 0:
                y, by_far = y + bitlines.near_s * (volts - w), by_far - bitlines.near_s * moved
            ohm = bitlines.below_ohm if cell == 0 else bitlines.wire_ohm
            w, moved = w - ohm * y, moved - ohm * by_far
        total = y + bitlines.clamp_s * (volts - w)
        held = stage.held_v(total) if driven is None else driven
        resistance = stage.slope_ohm(total) if driven is None else 0.0
        # How far the sense end is above where it is held, and how that changes with the far end.
        apart = volts - w - held
        slope = -moved + resistance * (by_far - bitlines.clamp_s * moved)
        step = (apart / slope).clamp(-volts / 4, volts / 4)
        far = far - step
        settled, sensed = lines.settle(drawn, slopes, sources)
        change = max(float(step.abs().max()), float((settled - sources).abs().max()))
        sources = settled
        if float(sources.max()) > bitlines.highest_source_v:
            raise ConfigError(
                f"source lines rise to {float(sources.max()):.3g} V, expected at most "
                f'{bitlines.highest_source_v:.3g} V: run.fidelity = "solved" does not follow cells so far; lower '
                'array.source_res_ohm or array.source_strap_cells, or choose "dc" or "tran"'
            )
        if change < _CLOSE_V:
            return stage.measured(total) if driven is None else sensed
    raise ConfigError(
        f"voltages of source lines still move by {change:.2g} V after {_ROUNDS} rounds, expected less than "
        f'{_CLOSE_V:g} V: run.fidelity = "solved" cannot take these wires; lower array.source_res_ohm or '
        'array.source_strap_cells, or choose "dc" or "tran"'
    )
