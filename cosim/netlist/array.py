"""Writes a group of an array as a deck.

    wordline w ──┬─────────── gate of the cell on each bitline
                 │
    clamp ─ R·(p+1) ─ cell ─ R ─ cell ─ R ─ … cell       one bitline: the group's cells, p rows up from the clamp
                      │       │             │
                     source lines

The cells of closed wordlines are represented by a few elements on each bitline (`cosim.netlist.closed`), or are in the
deck like the other cells. With ideal source lines and no coupling, bitlines do not influence each other. docs/array.md
has the drawing of a tile, the equations, and measurements. `cosim.netlist.transposed` writes groups whose inputs are on
the bitlines.
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
from cosim.netlist.instance import CellWriter
from cosim.netlist.sense import SenseStage, deck_files
from cosim.netlist.transposed import transposed_circuit
from cosim.netlist.wires import GROUND, Wires

# For time constants up to 0.7 pulses, the movement over this last share of a pulse bounds the settling error.
_SETTLING_SHARE = 0.5
# docs/performance.md compares the errors and times of these options with those of tight tolerances.
_TRAN_OPTIONS: dict[str, float | str] = {"method": "gear", "bypass": 1, "reltol": 5e-4}
_CAREFUL_OPTIONS: dict[str, float | str] = {"method": "gear", "reltol": 1e-4}
_DC_OPTIONS: dict[str, float | str] = {"reltol": 1e-6, "bypass": 1}
_CAREFUL_DC_OPTIONS: dict[str, float | str] = {"reltol": 1e-7}
# Number of reads whose waveforms a careful deck keeps, for plots.
_WAVE_READS = 12
# Sections of the configuration, and packages, that decide what a deck is, in addition to group and reads.
_DECIDING_SECTIONS = ("array", "cell", "read", "sense", "corner")
_DECIDING_CODE = ("config", "mapping", "device", "netlist")


class ArrayDecks:
    """Writes the decks of groups that are programmed with one card and read under one configuration.

    Args:
        card: the cell's card.
        shifts: (units,) threshold shift for each number of unit currents that a cell conducts [V].
        config: the configuration, for its array, cell, read condition and fidelity.
        closed: conductance and capacitance of lumped cells on closed wordlines, or bitlines; None to omit them.
    """

    def __init__(self, card: Card, shifts: np.ndarray, config: Config, closed: ClosedCells | None = None) -> None:
        self.shifts = shifts
        self.config = config
        self._closed = closed if config.array.closed_wordlines == "lumped" else None
        self._writer = CellWriter.for_card(card, config)
        self._cards = deck_files(card, config)
        self._sense = SenseStage.of(config)

    @functools.cached_property
    def _digest(self) -> hashlib._Hash:
        """The digest of everything that decides the decks of all groups."""
        config, closed = self.config, self._closed
        sections = [repr(getattr(config, name)) for name in _DECIDING_SECTIONS]
        code = [source_digest(_DECIDING_CODE), version("PySpice")]
        parts = [config.run.fidelity, *sections, *code, repr(sorted(self._cards.items()))]
        lumped = [None, None] if closed is None else [closed.conductance_s, closed.capacitance_f]
        return hashlib.sha256("\0".join(parts).encode() + b"".join(map(_described, [self.shifts, *lumped])))

    def identity(self, engine: str, group: Group, shifts: np.ndarray | None = None) -> str:
        """SHA-256 of everything that decides the answers of a group, except the reads. It costs less than a deck.

        Args:
            engine: the simulator's version.
            group: the group.
            shifts: (inputs, output lines) threshold shift of each cell [V]; None for those of the group's units.
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
        """Write the deck that reads a group.

        Args:
            group: the group.
            drive: (reads, inputs) share of its full voltage, 0..1, that each input has in each read, in order.
            comments: explanations of the group for a person who reads the deck.
            careful: whether to evaluate every cell at every step (no bypass), make a transient step through every
                wordline edge, and keep the waveforms of the first reads, at twice the cost. Otherwise the simulator
                must stop at the samples only, which gives the same settled currents.
            shifts: (inputs, output lines) threshold shift of each cell [V]; None for those of the group's units.
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
        """Write cells and wires. Returns them, and the number of the group's first input in their names."""
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
        # It is 0 if it does not matter, so that all groups share a template.
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
        """Comments that explain how to read the currents of a deck by hand."""
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
    """Bytes that describe an array, different for different arrays."""
    return b"\0none" if values is None else f"\0{values.dtype.str}{values.shape}".encode() + values.tobytes()


@functools.lru_cache(maxsize=64)
def _array_template(wires: Wires, writer: CellWriter, closed: bool, sense: SenseStage) -> str:
    """The elements of an array, as a format string.

    Its positional fields are the threshold shifts, bitline by bitline. Its named fields describe what lies around the
    group. PySpice writes each shape once. Groups of the same shape differ only in numbers, so that writing a deck costs
    no more than a string substitution.
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
