"""Source lines with a resistance: solves for the voltages that the cells' currents cause at their sources.

A source line runs along the wordlines, past every bitline. A strap connects it to ground before the first bitline, and
after every `array.source_strap_cells` bitlines. With amplitude reads, the straps lead to the line's sense stage
instead, which holds them at 0 V, or nearly at 0 V if there is a resistance before it.

To the line, each cell is its Norton equivalent, a current source with a conductance in parallel. This leaves a
tridiagonal system for each line. It is solved by elimination along the line, for all reads and lines at once (Thomas).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cosim.config import Array, Config
from cosim.mapping import Group
from cosim.netlist import ClosedCells


@dataclass(frozen=True, eq=False)
class SourceLines:
    """The source lines of a group.

    Attributes:
        line_of: (cells,) number of the line for the cells of each input or, with amplitude reads, of each output.
        columns: places of the group's cells along a line.
        along_s: (places,) conductance to the place before, 0 behind a strap [S].
        strap_s: (places,) conductances to straps [S]; empty if lines have no resistance.
        held_s: (lines, places) other conductances to ground at each place, or (lines, 1) their sum if lines have no
            resistance [S].
        sense_ohm: resistance between the straps and 0 V [ohm].
    """

    line_of: Tensor
    columns: slice
    along_s: Tensor
    strap_s: Tensor
    held_s: Tensor
    sense_ohm: float

    @classmethod
    def of(cls, config: Config, group: Group, closed: ClosedCells | None) -> SourceLines:
        """The source lines of a group of the configured array."""
        array = config.array
        sense_ohm = config.sense.clamp_ohm if config.sense.stage == "resistive" else 0.0
        if config.read.mode != "amplitude":
            every = array.source_line_wordlines
            line_of = (torch.arange(len(group.units)) + group.first_input % every) // every
            lines, places = int(line_of[-1]) + 1, group.units.shape[1]
            along_s, strap_s = _wire(array, places)
            return cls(line_of, slice(0, places), along_s, strap_s, torch.zeros(lines, 1, dtype=torch.float64), 0.0)
        line_of = torch.arange(group.units.shape[1])
        tile = group.tile_units(array.bitlines)
        first, last = group.first_input, group.first_input + len(group.units)
        held_s = torch.zeros(group.units.shape[1], len(tile), dtype=torch.float64)
        if closed is not None:
            held_s = torch.from_numpy(closed.conductance_s[tile].T.copy())
            held_s[:, first:last] = 0
        if array.source_res_ohm == 0:
            nothing = torch.zeros(0, dtype=torch.float64)
            return cls(line_of, slice(0, len(group.units)), nothing, nothing, held_s.sum(1, keepdim=True), sense_ohm)
        along_s, strap_s = _wire(array, len(tile))
        return cls(line_of, slice(first, last), along_s, strap_s, held_s, sense_ohm)

    def settle(self, drawn: Tensor, slopes: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Solve for the voltages of the lines at the group's cells, and the currents at the straps.

        Args:
            drawn: (reads, cells, columns) currents out of the cells' sources at the voltages `before` [A].
            slopes: (reads, cells, columns) how much these fall with the voltage of the source [S].
            before: (reads, cells, columns) voltages of the sources at which both hold [V].

        Returns:
            (reads, cells, columns) voltages [V] and (reads, lines) currents [A].
        """
        reads, _, columns = drawn.shape
        rows = self.line_of.to(drawn.device)

        def by_line(values: Tensor) -> Tensor:
            summed = torch.zeros(reads, len(self.held_s), columns, dtype=values.dtype, device=values.device)
            return summed.index_add_(1, rows, values)

        sources, beside = by_line(torch.addcmul(drawn, slopes, before)), by_line(slopes)
        held = self.held_s.to(drawn)
        if len(self.strap_s) == 0:
            total_s = beside.sum(2) + held[:, 0]
            volts = self.sense_ohm * sources.sum(2) / (1 + self.sense_ohm * total_s)
            sensed = sources.sum(2) - volts * total_s
            return volts[:, rows, None].expand_as(drawn), sensed
        # Places are the first axis, since elimination goes from place to place, for all reads and lines at once.
        strap, along = self.strap_s.to(drawn)[:, None, None], self.along_s.to(drawn)
        known = drawn.new_zeros(len(strap), reads, len(held))
        known[self.columns] = sources.permute(2, 0, 1)
        diagonal = (strap + along[:, None, None] + _shifted(along)[:, None, None] + held.T[:, None]).expand_as(known)
        diagonal = diagonal.clone()
        diagonal[self.columns] += beside.permute(2, 0, 1)
        found = _eliminate(diagonal, along.tolist(), known)
        sensed = (found * strap).sum(0)
        if self.sense_ohm > 0:  # the straps rise with the current that they carry
            of_a_volt = _eliminate(diagonal, along.tolist(), strap.expand_as(known))
            slope_s = (of_a_volt * strap).sum(0) - strap.sum()
            strap_v = self.sense_ohm * sensed / (1 - self.sense_ohm * slope_s)
            found, sensed = found + strap_v * of_a_volt, sensed + strap_v * slope_s
        return found[self.columns][:, :, rows].permute(1, 2, 0), sensed


def _wire(array: Array, places: int) -> tuple[Tensor, Tensor]:
    """Conductances of each place of a line to the place before, and to straps: (places,) each [S]."""
    conductance, every = 1 / array.source_res_ohm, array.source_strap_cells
    place = torch.arange(places)
    behind = place % every == 0
    along = torch.where(behind, 0.0, conductance).to(torch.float64)
    strap = torch.where(behind, conductance, 0.0).to(torch.float64)
    strap += torch.where((place + 1) % every == 0, conductance, 0.0)
    last = -(-places // every) * every  # the next strap beyond the last place, if there is one
    if places % every and last <= array.bitlines:
        strap[-1] += conductance / (last - places + 1)
    return along, strap


def _shifted(along: Tensor) -> Tensor:
    """Conductances of each place to the place after it."""
    return torch.cat([along[1:], torch.zeros_like(along[:1])])


def _eliminate(diagonal: Tensor, along: list[float], known: Tensor) -> Tensor:
    """Solve symmetric tridiagonal systems (places, ...) whose off-diagonal elements are -`along`."""
    places = len(along)
    pivots, sides = [diagonal[0]], [known[0]]
    for place in range(1, places):
        share = along[place] / pivots[-1]
        pivots.append(torch.sub(diagonal[place], share, alpha=along[place]))
        sides.append(torch.addcmul(known[place], share, sides[-1]))
    found = [sides[-1] / pivots[-1]]
    for place in range(places - 2, -1, -1):
        found.append(torch.add(sides[place], found[-1], alpha=along[place + 1]).div_(pivots[place]))
    return torch.stack(found[::-1])
