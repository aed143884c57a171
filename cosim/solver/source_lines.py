"""Source lines with a resistance: solves for the voltages that the cells' currents cause at their sources.

A source line runs along the wordlines, past every bitline. A strap connects it to ground before the first bitline, and
after every `array.source_strap_cells` bitlines. With amplitude reads, the straps lead to the line's sense stage
instead, which holds them at 0 V, or nearly at 0 V if there is a resistance before it.

To the line, each cell is its Norton equivalent, a current source with a conductance in parallel. Straps cut the line
into sections, which are solved at once for all lines and reads: what lies between a strap and a place is one such
equivalent as well, and follows from that of the place before. Everything added on this way is positive, so that single
precision is enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cosim.config import Config
from cosim.mapping import Group
from cosim.netlist import ClosedCells


@dataclass(frozen=True, eq=False)
class SourceLines:
    """The source lines of a group.

    Attributes:
        line_of: (cells,) number of the line for the cells of each input or, with amplitude reads, of each output.
        columns: places of the group's cells along a line.
        held_s: (lines, places) conductances to ground of what else is at each place [S].
        wire_ohm: resistance between neighbouring places, and from a strap to the places beside it [ohm].
        length: number of places between two straps, at most those of the array.
        ends: (sections,) 1 for each section of a line that ends at a strap, 0 if it ends open at the array's edge.
        sense_ohm: resistance between the straps and 0 V [ohm].
    """

    line_of: tuple[int, ...]
    columns: slice
    held_s: Tensor
    wire_ohm: float
    length: int
    ends: Tensor
    sense_ohm: float

    @classmethod
    def of(cls, config: Config, group: Group, closed: ClosedCells | None) -> SourceLines:
        """The source lines of a group of the configured array."""
        array, sense_ohm = config.array, 0.0
        inputs, outputs = group.units.shape
        if config.read.mode != "amplitude":
            every = array.source_line_wordlines
            line_of = tuple((cell + group.first_input % every) // every for cell in range(inputs))
            columns = slice(0, outputs)
            held_s = torch.zeros(line_of[-1] + 1, outputs, dtype=torch.float64)
        else:
            line_of = tuple(range(outputs))
            columns = slice(group.first_input, group.first_input + inputs)
            held_s = torch.zeros(outputs, array.bitlines, dtype=torch.float64)
            if closed is not None:
                held_s = torch.from_numpy(closed.conductance_s[group.tile_units(array.bitlines)].T.copy())
                held_s[:, columns] = 0
            if config.sense.stage == "resistive":
                sense_ohm = config.sense.clamp_ohm
        length = min(array.source_strap_cells, array.bitlines)
        straps = array.source_strap_cells * torch.arange(1, 1 - held_s.shape[1] // -length)
        ends = (straps <= array.bitlines).to(torch.float64)
        return cls(line_of, columns, held_s, array.source_res_ohm, length, ends, sense_ohm)

    def settle(self, known: Tensor, by_s: Tensor) -> tuple[Tensor, Tensor]:
        """Solve for the voltages of the lines at the cells of some groups, and the currents at the straps.

        Args:
            known: (cells, groups, columns, reads) currents out of the cells' sources if these were at 0 V [A].
            by_s: (cells, groups, columns, reads) how much these fall with the voltage of the source [S].

        Returns:
            (lines, groups, columns, reads) voltages [V] and (groups, lines, reads) currents [A].
        """
        _, groups, columns, reads = known.shape
        ends, held = self.ends.to(known)[:, None], self.held_s.to(known)
        places = len(ends) * self.length
        # Currents and conductances are multiplied by the wire's resistance.
        ohm = self.wire_ohm or 1.0
        own, sides = known.new_zeros(2, len(held), groups, places, reads)
        own[:, :, : held.shape[1]] = (ohm * held)[:, None, :, None]
        cells_own, cells_sides = own[:, :, self.columns], sides[:, :, self.columns]
        line_of = torch.tensor(self.line_of, device=known.device)
        cells_own.index_add_(0, line_of, by_s, alpha=ohm)
        cells_sides.index_add_(0, line_of, known, alpha=ohm)
        if self.wire_ohm == 0:
            total_s, total = own.sum(2), sides.sum(2)
            volts = self.sense_ohm * total / (1 + self.sense_ohm * total_s)
            return volts[:, :, None].expand(-1, -1, columns, -1), (total - volts * total_s).transpose(0, 1)
        own, sides = (values.unflatten(2, (-1, self.length)).movedim(3, 0) for values in (own, sides))
        found = _along(own, sides, ends)
        sensed = self._at_straps(found, ends)
        if self.sense_ohm > 0:  # the straps rise with the current that they carry, and the whole line with them
            less = _along(own, own, ends)
            less_s = self._at_straps(less, ends)
            strap_v = self.sense_ohm * sensed / (1 + self.sense_ohm * less_s)
            found = found + strap_v[:, :, None] * (1 - less)
            sensed = sensed - strap_v * less_s
        return found.movedim(0, 3).flatten(2, 3)[:, :, self.columns], sensed.transpose(0, 1)

    def _at_straps(self, volts: Tensor, ends: Tensor) -> Tensor:
        """Currents (lines, groups, reads) into straps at 0 V, given voltages as `_along` returns them."""
        return (volts[0] + volts[-1] * ends).sum(2) / self.wire_ohm


def _along(own: Tensor, sides: Tensor, ends: Tensor) -> Tensor:
    """Solve for the voltages along sections, which begin at a strap.

    Args:
        own: (length, lines, groups, sections, reads) conductances at each place, in units of that of the wire.
        sides: (length, lines, groups, sections, reads) currents into each place, times the resistance of the wire [V].
        ends: (sections, 1) conductances from the last place to a strap, in the same units.

    Returns:
        (length, lines, groups, sections, reads) voltages [V].
    """
    (own_first, *own_rest), (current, *sides_rest) = own.unbind(), sides.unbind()
    conductance, passed = own_first + 1, []
    for own_here, side in zip(own_rest, sides_rest, strict=True):
        share = (1 + conductance).reciprocal_()
        passed.append((current, share))
        conductance = torch.addcmul(own_here, conductance, share)
        current = torch.addcmul(side, current, share)
    found = [current / (conductance + ends)]
    for current, share in reversed(passed):
        found.append((current + found[-1]).mul_(share))
    return torch.stack(found[::-1])
