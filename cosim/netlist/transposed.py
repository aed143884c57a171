"""Writes a group of an array whose inputs are drain voltages as a deck.

    bitline of input i, driven ─ R ─┬─ R ─┬─ …              0 V to the read voltage
                                  cell  cell                gates: wordlines j, all at the read voltage
                                    │     │
                         source lines j, each held at 0 V by its sense stage, which measures its current

The tile is the same as with inputs on gates, but it is driven differently. Bitlines begin at wordline 0, and wordlines
at bitline 0. The straps of a source line go to its sense stage instead of ground. The bitlines of other groups are at
0 V, while the gates of their cells are open. These cells conduct if a source line is not exactly at 0 V. In the deck,
each is a conductance and a capacitance (`cosim.netlist.closed`), or a cell like the others. Wordlines without an output
are at 0 V. Their cells are off, and are not in the deck.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PySpice.Spice.Netlist import Circuit

from cosim.config import Config
from cosim.mapping import Group
from cosim.netlist.closed import ClosedCells
from cosim.netlist.elements import element_lines, number, numbers
from cosim.netlist.instance import CellWriter
from cosim.netlist.sense import SenseStage
from cosim.netlist.wires import GROUND, Wires


@dataclass(frozen=True)
class TransposedWires(Wires):
    """The wires of some neighbouring bitlines of a tile, and of its used wordlines.

    Attributes:
        drawn: the bitlines that are in the deck; the others are at 0 V.
    """

    drawn: range

    def drain(self, bitline: int, wordline: int) -> str:
        return super().drain(bitline, wordline) if bitline in self.drawn else GROUND

    def strap(self, line: int) -> str:
        return f"q{line}"


def transposed_circuit(
    group: Group,
    shifts: np.ndarray,
    unit_shifts: np.ndarray,
    config: Config,
    closed: ClosedCells | None,
    writer: CellWriter,
    sense: SenseStage,
) -> tuple[str, int]:
    """Write the cells and wires of a group, and the drivers of its wordlines.

    Args:
        group: the group.
        shifts: (inputs, outputs) threshold shift of each cell of the group [V].
        unit_shifts: (units,) threshold shift for each number of unit currents, for the tile's other cells [V].
        config: the configuration.
        closed: conductance and capacitance of lumped cells on other bitlines; None to omit them.
        writer: writes cells.
        sense: writes sense stages.

    Returns:
        the element lines, and the number of the group's first bitline in their names.
    """
    array, first = config.array, group.first_input
    tile = group.tile_units(array.bitlines)
    inputs, outputs = shifts.shape
    every = array.closed_wordlines == "cells"
    # If no wires join bitlines, their place on the tile does not matter, and groups share a template.
    joined = array.source_res_ohm > 0 or array.wordline_res_ohm > 0 or array.coupling_cap_f > 0
    start, stop = (0, len(tile)) if every or joined else (first, first + inputs)
    opened = range(first - start, first - start + inputs)
    drawn = range(len(tile)) if every else opened
    wires = TransposedWires(array, outputs, stop - start, range(outputs), 0, drawn)
    held_s = held_f = np.zeros((outputs, 0))
    if closed is not None and (array.source_res_ohm > 0 or sense.stage != "clamp"):
        others = np.delete(tile, np.s_[first : first + inputs], axis=0).T
        held_s, held_f = closed.conductance_s[others], closed.capacitance_f[others]
        if array.source_res_ohm == 0:
            held_s, held_f = held_s.sum(axis=1, keepdims=True), held_f.sum(axis=1, keepdims=True)
    cells = unit_shifts[tile[start:stop]]
    cells[opened] = shifts
    template = _template(wires, opened, writer, sense, held_s.shape[1], config.read_at_corner.wordline_v)
    none, above_f = np.zeros(wires.bitlines), array.bitline_cap_f * (array.wordlines - outputs)
    circuit = template.format(
        *numbers(cells[drawn].ravel()),
        below_ohm=number(array.bitline_res_ohm),
        below_f=numbers(none),
        above_f=numbers(none + above_f),
        coupling_below_f="0",
        coupling_above_f=number(array.coupling_cap_f * (array.wordlines - outputs)),
        held_s=numbers(held_s.ravel()),
        held_f=numbers(held_f.ravel()),
    )
    return circuit, opened.start


@functools.lru_cache(maxsize=64)
def _template(
    wires: TransposedWires, opened: range, writer: CellWriter, sense: SenseStage, held: int, wordline_v: float
) -> str:
    """The elements of an array, as a format string.

    Its positional fields are the threshold shifts, bitline by bitline. Its named fields describe the ends of bitlines,
    and the lumped cells at `held` places of each source line.
    """
    circuit = Circuit("array")
    for bitline in wires.drawn:
        wires.add_bitline(circuit, bitline, loaded=False)
        if bitline not in opened:
            circuit.V(f"bl{bitline}", wires.clamp(bitline), circuit.gnd, "0")
        for wordline in range(wires.wordlines):
            place = bitline, wordline
            drain, gate, source = wires.drain(*place), wires.gate(*place), wires.source(*place)
            writer.add(circuit, f"{bitline}_{wordline}", drain, gate, source, GROUND, "{}")
    closed = [bitline for bitline in range(wires.bitlines) if bitline not in opened]
    for wordline in range(wires.wordlines):
        circuit.V(f"wl{wordline}", f"w{wordline}", circuit.gnd, number(wordline_v))
        sense.add(circuit, wordline, wires.strap(wordline))
        for number_held in range(held):
            node = wires.source(closed[number_held], wordline) if closed else wires.strap(wordline)
            name, index = f"{wordline}_{number_held}_held", wordline * held + number_held
            circuit.VCCS(name, node, circuit.gnd, node, circuit.gnd, f"{{held_s[{index}]}}")
            circuit.C(name, node, circuit.gnd, f"{{held_f[{index}]}}")
    wires.add_coupling(circuit)
    wires.add_wordlines(circuit)
    wires.add_source_lines(circuit)
    return element_lines(circuit)
