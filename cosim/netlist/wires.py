"""The wires of a tile: bitlines, wordlines and source lines (docs/array.md draws them).

A wire is a chain with one resistance for each cell, and a capacitance to ground at every cell. Names are functions of
the position, so that cells can be connected before or after their wires are written. A wire without resistance is the
node of its driver. Its capacitance has no influence, and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from PySpice.Spice.Netlist import Circuit

from cosim.config import Array
from cosim.netlist.elements import number

GROUND = "0"


@dataclass(frozen=True)
class Wires:
    """The wires of some neighbouring wordlines of a tile, and of its used bitlines.

    Attributes:
        array: the section array of the configuration, for the resistances and capacitances of each cell.
        wordlines: number of wordlines, which is the number of cells along a bitline.
        bitlines: number of bitlines, which is the number of cells along a wordline.
        opened: the wordlines that a read may open; the others are at 0 V.
        offset: number of wordlines below the first that share its source line.
    """

    array: Array
    wordlines: int
    bitlines: int
    opened: range
    offset: int

    def clamp(self, bitline: int) -> str:
        """Node at which a bitline is held by its clamp."""
        return f"b{bitline}"

    def drain(self, bitline: int, wordline: int) -> str:
        return f"n{bitline}_{wordline}" if self.array.bitline_res_ohm > 0 else self.clamp(bitline)

    def gate(self, bitline: int, wordline: int) -> str:
        if wordline not in self.opened:
            return GROUND
        return f"w{wordline}_{bitline}" if self.array.wordline_res_ohm > 0 else f"w{wordline}"

    def source(self, bitline: int, wordline: int) -> str:
        return self._source(bitline, (wordline + self.offset) // self.array.source_line_wordlines)

    def _source(self, bitline: int, line: int) -> str:
        return f"s{line}_{bitline}" if self.array.source_res_ohm > 0 else self.strap(line)

    def strap(self, line: int) -> str:
        """Node to which the straps of a source line connect it."""
        return GROUND

    def add_bitline(self, circuit: Circuit, bitline: int, *, loaded: bool) -> None:
        """Add one bitline, with fields of a format string for its parts below and above the given wordlines.

        The fields are below_ohm and, by bitline, below_f and above_f.

        Args:
            circuit: the circuit.
            bitline: number of the bitline.
            loaded: whether the cells below and above have a capacitance as well.
        """
        array = self.array
        if array.bitline_res_ohm == 0:
            return
        nodes = [self.drain(bitline, wordline) for wordline in range(self.wordlines)]
        circuit.R(f"{bitline}_0", self.clamp(bitline), nodes[0], "{below_ohm}")
        for wordline in range(1, self.wordlines):
            circuit.R(f"{bitline}_{wordline}", nodes[wordline - 1], nodes[wordline], array.bitline_res_ohm)
        if array.bitline_cap_f == 0 and not loaded:
            return
        circuit.C(f"{bitline}_below", nodes[0], GROUND, f"{{below_f[{bitline}]}}")
        if array.bitline_cap_f > 0:
            for wordline, node in enumerate(nodes):
                circuit.C(f"{bitline}_{wordline}", node, GROUND, array.bitline_cap_f)
        circuit.C(f"{bitline}_above", nodes[-1], GROUND, f"{{above_f[{bitline}]}}")

    def add_coupling(self, circuit: Circuit) -> None:
        """Add capacitances between neighbouring bitlines, with the fields coupling_below_f and coupling_above_f."""
        if self.array.coupling_cap_f == 0 or self.array.bitline_res_ohm == 0:
            return
        for left in range(self.bitlines - 1):
            pairs = [(self.drain(left, wordline), self.drain(left + 1, wordline)) for wordline in range(self.wordlines)]
            if pairs[0] == (GROUND, GROUND):
                continue
            circuit.C(f"c{left}_below", *pairs[0], "{coupling_below_f}")
            for wordline, pair in enumerate(pairs):
                circuit.C(f"c{left}_{wordline}", *pair, self.array.coupling_cap_f)
            circuit.C(f"c{left}_above", *pairs[-1], "{coupling_above_f}")

    def add_wordlines(self, circuit: Circuit) -> None:
        """Add wordlines from their drivers, at bitline 0, to their open ends at the far side of the tile."""
        array = self.array
        if array.wordline_res_ohm == 0:
            return
        for wordline in self.opened:
            before = f"w{wordline}"
            for bitline in range(self.bitlines):
                node = self.gate(bitline, wordline)
                circuit.R(f"w{wordline}_{bitline}", before, node, array.wordline_res_ohm)
                _add_capacitor(circuit, f"w{wordline}_{bitline}", node, array.wordline_cap_f)
                before = node
            unused = array.bitlines - self.bitlines
            _add_capacitor(circuit, f"w{wordline}_rest", before, array.wordline_cap_f * unused)

    def add_source_lines(self, circuit: Circuit) -> None:
        """Add source lines, with a strap before the first cell and after every `source_strap_cells` cells."""
        array = self.array
        if array.source_res_ohm == 0:
            return
        every = array.source_strap_cells
        for line in range(-(-(self.wordlines + self.offset) // array.source_line_wordlines)):
            before = strap = self.strap(line)
            for bitline in range(self.bitlines):
                node = self._source(bitline, line)
                circuit.R(f"s{line}_{bitline}", before, node, array.source_res_ohm)
                _add_capacitor(circuit, f"s{line}_{bitline}", node, array.source_cap_f)
                before = node
                if (bitline + 1) % every == 0:
                    circuit.R(f"s{line}_{bitline}_strap", node, strap, array.source_res_ohm)
                    before = strap
            if before == strap:
                continue
            # The stretch past unused bitlines goes up to the next strap, or to an open end.
            last = -(-self.bitlines // every) * every
            unused = min(last, array.bitlines) - self.bitlines
            share = 0.5 if last <= array.bitlines else 1.0
            _add_capacitor(circuit, f"s{line}_rest", before, array.source_cap_f * unused * share)
            if last <= array.bitlines:
                circuit.R(f"s{line}_rest", before, strap, number(array.source_res_ohm * (unused + 1)))


def _add_capacitor(circuit: Circuit, name: str, node: str, farad: float) -> None:
    if farad > 0:
        circuit.C(name, node, GROUND, number(farad))
