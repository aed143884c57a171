"""Given reads of bitlines that source lines join, or that are driven themselves (amplitude reads).

Voltages at the sources are found by turns: with those at hand every bitline is a chain (`cosim.solver.chain`), whose
far end is improved by a Newton step; then every source line is solved with the cells' currents and slopes. The drops
on source lines are millivolts, so each round gains digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cosim.errors import ConfigError
from cosim.solver.source_lines import SourceLines
from cosim.solver.stage import Stage

_ROUNDS = 60
# Rounds end when no far end and no source moves by more [V]. What is left is a hundredth of that, far below a millionth
# of a unit current.
_CLOSE_V = 3e-9


@dataclass(frozen=True, eq=False)
class Bitlines:
    """The bitlines of a group as chains of cells whose sources may be above 0 V.

    Attributes:
        open: (drain degree + 1, source degree + 1, cells, columns) polynomials of open cells in the distance of the
            voltage between drain and source below `volts`, and in the source's voltage [A].
        closed_s: (cells, columns) conductances of closed cells [S].
        wire_ohm, below_ohm, near_s, far_s, clamp_s, volts: as of `Ladders`.
        highest_source_v: up to which the polynomials hold.
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
        """Currents of the open cells of a row, and their slopes by w and by s: (reads, columns) each.

        The current is exact; slopes only lead to it, and theirs by s is that of a source near 0 V.

        Args:
            w: distance of the drains below `volts`; s: voltage of the sources.
        """
        between = w + s
        powers = []  # of the distance, once the source's voltage is known
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
        opened: (reads, cells) of 0 and 1.
        driven: (reads, columns) voltages that bitlines are driven with, whose source lines are sensed; None where
            bitlines are sensed.

    Returns:
        (reads, columns) currents of sensed bitlines, or (reads, lines) of source lines [A].

    Raises:
        ConfigError: rounds do not come to an end, or sources rise beyond what the curves hold.
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
