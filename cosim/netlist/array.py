"""A group of an array as a deck.

    wordline w ──┬─────────── gate of the cell on each bitline
                 │
    clamp ─ R·(p+1) ─ cell ─ R ─ cell ─ R ─ … cell       one bitline: the group's cells, p rows up from the clamp
                      │       │             │
                     source lines

The cells of the closed wordlines are a few elements a bitline (`cosim.netlist.closed`), or in the deck like the
others. With ideal source lines and no coupling, bitlines do not see each other. docs/array.md has the drawing of a
tile, the equations, and what was measured. `cosim.netlist.transposed` is the same with inputs on the bitlines.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
from PySpice.Spice.Netlist import Circuit

from cosim.config import Config
from cosim.device import Card
from cosim.files import source_digest
from cosim.mapping import Group
from cosim.netlist.closed import ClosedCells, add_leakage
from cosim.netlist.deck import Deck, corner_options
from cosim.netlist.drivers import clocked_lines, pulsed_lines, swept_lines
from cosim.netlist.elements import element_lines, number, numbers
from cosim.netlist.instance import CellWriter, card_files
from cosim.netlist.sense import SenseStage, periphery_files
from cosim.netlist.transposed import transposed_circuit
from cosim.netlist.wires import GROUND, Wires

# The movement over this last share of a pulse bounds the settling error for time constants up to 0.7 pulses.
_SETTLING_SHARE = 0.5
# Errors and times of these against tight tolerances are in docs/performance.md.
_TRAN_OPTIONS: dict[str, float | str] = {"method": "gear", "bypass": 1, "reltol": 5e-4}
_CAREFUL_OPTIONS: dict[str, float | str] = {"method": "gear", "reltol": 1e-4}
_DC_OPTIONS: dict[str, float | str] = {"reltol": 1e-6, "bypass": 1}
_CAREFUL_DC_OPTIONS: dict[str, float | str] = {"reltol": 1e-7}
# Reads whose waveforms a careful deck keeps, for plots.
_WAVE_READS = 12
# What decides a deck besides group and reads: the configuration, and the code that makes a deck of it.
_DECIDING_SECTIONS = ("array", "cell", "read", "sense", "corner")
_DECIDING_CODE = ("config", "mapping", "device", "netlist")


class ArrayDecks:
    """Writes the decks of groups programmed with one card and read under one configuration.

    Args:
        card: the cell's card.
        shifts: (units,) threshold shift of a cell that conducts so many unit currents [V].
        config: array, cell, read condition and fidelity.
        closed: what lumped cells of closed wordlines, or bitlines, conduct and store; None for nothing.
    """

    def __init__(self, card: Card, shifts: np.ndarray, config: Config, closed: ClosedCells | None = None) -> None:
        self.shifts = shifts
        self.config = config
        self._closed = closed if config.array.closed_wordlines == "lumped" else None
        self._writer = CellWriter.for_card(card, config)
        self._cards = card_files(card, config) | periphery_files(config)
        self._sense = SenseStage.of(config)

    @functools.cached_property
    def _digest(self) -> hashlib._Hash:
        """Of everything that decides the decks of all groups."""
        config, closed = self.config, self._closed
        sections = [repr(getattr(config, name)) for name in _DECIDING_SECTIONS]
        code = [source_digest(_DECIDING_CODE), version("PySpice")]
        parts = [config.run.fidelity, *sections, *code, repr(sorted(self._cards.items()))]
        lumped = [None, None] if closed is None else [closed.conductance_s, closed.capacitance_f]
        return hashlib.sha256("\0".join(parts).encode() + b"".join(map(_described, [self.shifts, *lumped])))

    def identity(self, engine: str, group: Group, shifts: np.ndarray | None = None) -> str:
        """SHA-256 of everything that decides what a group answers but its reads; it costs less than writing a deck.

        Args:
            engine: the simulator's version.
            shifts: (inputs, output lines) threshold shift of each cell [V]; left out, that of its units.
        """
        digest = self._digest.copy()
        digest.update(f"\0{engine}\0{group.first_input}".encode())
        for values in (group.units, group.around, shifts):
            digest.update(_described(values))
        return digest.hexdigest()

    def deck(
        self,
        group: Group,
        drive: np.ndarray,
        comments: Sequence[str] = (),
        *,
        careful: bool = False,
        shifts: np.ndarray | None = None,
    ) -> Deck:
        """The deck that reads a group.

        Args:
            drive: (reads, inputs) what share of its full voltage each input has in each read, in their order, 0..1.
            comments: what a person should know of the group.
            careful: evaluate every cell at every step (no bypass), make a transient step through every wordline
                edge, and keep the waveforms of the first reads, at twice the cost. Without it the simulator is made
                to stop at the samples only, which gives the same settled currents.
            shifts: (inputs, output lines) threshold shift of each cell [V]; left out, that of its units.
        """
        read = self.config.read_at_corner
        line, high_v = ("b", read.bitline_v) if self._sense.grounds else ("w", read.wordline_v)
        circuit, first = self._circuit(group, shifts)
        sources = tuple(self._sense.source(index) for index in range(group.units.shape[1]))
        if self.config.run.fidelity == "dc":
            return Deck(
                "dc",
                f".dc vread 0 {len(drive) - 1 or 1} {1 if len(drive) > 1 else 2}",
                circuit + swept_lines(drive, high_v, first, line=line),
                {**(_CAREFUL_DC_OPTIONS if careful else _DC_OPTIONS), **corner_options(self.config)},
                self._cards,
                sources,
                np.arange(len(drive), dtype=float),
                comments=(*comments, *self._help("dc")),
            )
        starts = read.rise_s + read.pulse_s * np.arange(len(drive) + 1)
        drivers = (pulsed_lines if careful else clocked_lines)(drive, starts, read.rise_s, high_v, first, line=line)
        pulse, stop = number(read.pulse_s), number(starts[-1])
        return Deck(
            "tran",
            f".tran {pulse} {stop}" + ("" if careful else f" 0 {number(2 * read.pulse_s)}"),
            circuit + drivers,
            {**(_CAREFUL_OPTIONS if careful else _TRAN_OPTIONS), **corner_options(self.config)},
            self._cards,
            sources,
            starts[1:],
            settling=_SETTLING_SHARE * read.pulse_s,
            wave_reads=_WAVE_READS if careful else 0,
            comments=(*comments, *self._help("tran")),
        )

    def _circuit(self, group: Group, group_shifts: np.ndarray | None) -> tuple[str, int]:
        """Cells and wires, and the number of the group's first input in their names."""
        array, closed = self.config.array, self._closed
        if self._sense.grounds:
            shifts = self.shifts[group.units] if group_shifts is None else group_shifts
            return transposed_circuit(group, shifts, self.shifts, self.config, closed, self._writer, self._sense)
        whole = array.closed_wordlines == "cells"
        tile = group.tile_units(array.wordlines)
        start, stop = (0, len(tile)) if whole else (group.first_input, group.first_input + group.inputs)
        below, held, above = tile[:start], tile[start:stop], tile[stop:]
        first = group.first_input - start
        opened = range(first, first + group.inputs)
        # 0 where it does not matter, so that all groups share a template.
        offset = start % array.source_line_wordlines if array.source_res_ohm > 0 else 0
        wires = Wires(array, len(held), held.shape[1], opened, offset)
        template = _array_template(wires, self._writer, closed is not None, self._sense)
        below_f, above_f = np.full((2, wires.bitlines), array.bitline_cap_f) * [[len(below) / 2], [len(above)]]
        leakage: dict[str, list[str]] = {}
        if closed is not None:
            leakage = {place: numbers(values) for place, values in closed.leakage_s(below, above).items()}
            closed_below_f, closed_above_f = closed.load_f(below, above)
            below_f, above_f = below_f + closed_below_f, above_f + closed_above_f
        shifts = self.shifts[held]
        if group_shifts is not None:
            shifts[opened] = group_shifts
        circuit = template.format(
            *numbers(shifts.T.ravel()),
            below_ohm=number(array.bitline_res_ohm * (len(below) + 1)),
            below_f=numbers(below_f),
            above_f=numbers(above_f),
            coupling_below_f=number(array.coupling_cap_f * len(below) / 2),
            coupling_above_f=number(array.coupling_cap_f * len(above)),
            **leakage,
        )
        return circuit, first

    def _help(self, analysis: str) -> tuple[str, ...]:
        """How to read the currents of a deck by hand."""
        read = self.config.read
        place = {
            "tran": f"read k is sampled at {read.rise_s:g} s + (k + 1) * {read.pulse_s:g} s",
            "dc": "read k is point k of the sweep",
        }[analysis]
        line = "source line" if self._sense.grounds else "bitline"
        held = f"{line} current k is -i({self._sense.source(0)[:-1]}k) [A]; {place}"
        mirrored = f"the current that mirror k copies of its bitline's is -i(vblk) [A]; {place}"
        sums = {"offset": "column less reference", "differential": "positive less negative column"}
        return (
            mirrored if self.config.sense.stage == "transistor" else held,
            f"one level is {self.config.cell.unit_a:.6g} A; {sums[self.config.array.encoding]}, in levels, is the "
            "partial sum",
            "units are SI: volt, ampere, ohm, farad, second, metre",
        )


def _described(values: np.ndarray | None) -> bytes:
    """An array as bytes that no other array gives."""
    return b"\0none" if values is None else f"\0{values.dtype.str}{values.shape}".encode() + values.tobytes()


@functools.lru_cache(maxsize=64)
def _array_template(wires: Wires, writer: CellWriter, closed: bool, sense: SenseStage) -> str:
    """Elements of an array, to be formatted with its shifts bitline by bitline and with what lies around it by name.

    PySpice describes each shape once; the groups of that shape differ in numbers only, so that writing a deck
    costs a string substitution.
    """
    circuit = Circuit("array")
    for bitline in range(wires.bitlines):
        sense.add(circuit, bitline, wires.clamp(bitline))
        wires.add_bitline(circuit, bitline, loaded=closed)
        if closed:
            ends = wires.drain(bitline, 0), wires.drain(bitline, wires.wordlines - 1)
            add_leakage(circuit, bitline, wires.clamp(bitline), *ends)
        for wordline in range(wires.wordlines):
            place = bitline, wordline
            drain, gate, source = wires.drain(*place), wires.gate(*place), wires.source(*place)
            writer.add(circuit, f"{bitline}_{wordline}", drain, gate, source, GROUND, "{}")
    sense.add_shared(circuit)
    wires.add_coupling(circuit)
    wires.add_wordlines(circuit)
    wires.add_source_lines(circuit)
    return element_lines(circuit)
