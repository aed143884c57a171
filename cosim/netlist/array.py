"""A group of an array as a deck.

    wordline w ──┬─────────── gate of the cell on each bitline
                 │
    clamp ─ R·(p+1) ─ cell ─ R ─ cell ─ R ─ … cell       one bitline: the group's cells, p rows up from the clamp
                      │       │             │
                     source line, 0 V (ideal)

The cells of the closed wordlines are left out (that they conduct next to nothing is checked when cells are
programmed); their stretch of bitline is in the deck, as resistance between clamp and group and as capacitance at
both of the group's ends. A wordline draws no direct
current and the source line is ideal, so bitlines do not see each other.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
from PySpice.Spice.Netlist import Circuit

from cosim.config import Config
from cosim.device import Card
from cosim.mapping import Group, pattern_bits
from cosim.netlist.deck import Deck, corner_options
from cosim.netlist.instance import CellWriter, card_files

# The movement over this last share of a pulse bounds the settling error for time constants up to 0.7 pulses.
_SETTLING_SHARE = 0.5
# Errors and times of these against tight tolerances are in docs/performance.md.
_TRAN_OPTIONS: dict[str, float | str] = {"method": "gear", "bypass": 1}
_CAREFUL_OPTIONS: dict[str, float | str] = {"method": "gear", "reltol": 1e-4}
_DC_OPTIONS: dict[str, float | str] = {"reltol": 1e-6, "bypass": 1}
_CAREFUL_DC_OPTIONS: dict[str, float | str] = {"reltol": 1e-7}
# Reads whose waveforms a careful deck keeps, for plots.
_WAVE_READS = 12


class ArrayDecks:
    """Writes the decks of groups programmed with one card and read under one configuration.

    Args:
        card: the cell's card.
        shifts: (levels,) threshold shift of each level [V].
        config: array, cell, read condition and fidelity.
    """

    def __init__(self, card: Card, shifts: np.ndarray, config: Config) -> None:
        self.shifts = shifts
        self.config = config
        self._writer = CellWriter.for_card(card, config)
        self._cards = card_files(card, config)

    def deck(
        self,
        group: Group,
        patterns: np.ndarray,
        comments: Sequence[str] = (),
        *,
        careful: bool = False,
        shifts: np.ndarray | None = None,
    ) -> Deck:
        """The deck that reads `patterns`, in that order, on a group.

        Args:
            patterns: (reads,) integers; bit i is the state of the group's wordline i.
            comments: what a person should know of the group.
            careful: evaluate every cell at every step (no bypass), make a transient step through every wordline
                edge, and keep the waveforms of the first reads, at twice the cost. Without it the simulator is made
                to stop at the samples only, which gives the same settled currents.
            shifts: (wordlines, bitlines) threshold shift of each cell [V]; left out, that of its level.
        """
        array, read = self.config.array, self.config.read_at_corner
        wordlines, bitlines = group.levels.shape
        template = _array_template(wordlines, bitlines, self._writer, self.config)
        below = group.first_wordline
        above = array.wordlines - below - wordlines
        circuit = template.format(
            *map(_number, (self.shifts[group.levels] if shifts is None else shifts).T.flat),
            below_ohm=_number(array.bitline_res_ohm * (below + 1)),
            below_f=_number(array.bitline_cap_f * below / 2),
            above_f=_number(array.bitline_cap_f * above),
        )
        sources = tuple(f"vbl{bitline}" for bitline in range(bitlines))
        states = pattern_bits(patterns, wordlines)
        if self.config.run.fidelity == "dc":
            return Deck(
                "dc",
                f".dc vread 0 {len(patterns) - 1 or 1} {1 if len(patterns) > 1 else 2}",
                circuit + _swept_wordlines(states, read.wordline_v),
                {**(_CAREFUL_DC_OPTIONS if careful else _DC_OPTIONS), **corner_options(self.config)},
                self._cards,
                sources,
                np.arange(len(patterns), dtype=float),
                comments=(*comments, *self._help("dc")),
            )
        starts = read.rise_s + read.pulse_s * np.arange(len(patterns) + 1)
        wordlines_text = (_pulsed_wordlines if careful else _clocked_wordlines)(
            states, starts, read.rise_s, read.wordline_v
        )
        pulse, stop = _number(read.pulse_s), _number(starts[-1])
        return Deck(
            "tran",
            f".tran {pulse} {stop}" + ("" if careful else f" 0 {_number(2 * read.pulse_s)}"),
            circuit + wordlines_text,
            {**(_CAREFUL_OPTIONS if careful else _TRAN_OPTIONS), **corner_options(self.config)},
            self._cards,
            sources,
            starts[1:],
            settling=_SETTLING_SHARE * read.pulse_s,
            wave_reads=_WAVE_READS if careful else 0,
            comments=(*comments, *self._help("tran")),
        )

    def _help(self, analysis: str) -> tuple[str, ...]:
        """How to read the currents of a deck by hand."""
        read = self.config.read
        place = {
            "tran": f"read k is sampled at {read.rise_s:g} s + (k + 1) * {read.pulse_s:g} s",
            "dc": "read k is point k of the sweep",
        }[analysis]
        return (
            f"bitline current k is -i(vblk) [A]; {place}",
            f"one level is {self.config.cell.unit_a:.6g} A; column less reference, in levels, is the partial sum",
            "units are SI: volt, ampere, ohm, farad, second, metre",
        )


@functools.lru_cache(maxsize=64)
def _array_template(wordlines: int, bitlines: int, writer: CellWriter, config: Config) -> str:
    """Elements of an array, to be formatted with the group's wires by name and its shifts bitline by bitline.

    PySpice describes each shape once; the groups of that shape differ in numbers only, so that writing a deck
    costs a string substitution.
    """
    array, read = config.array, config.read_at_corner
    wires = array.bitline_res_ohm > 0
    circuit = Circuit("array")
    for bitline in range(bitlines):
        clamp = f"b{bitline}"
        circuit.V(f"bl{bitline}", clamp, circuit.gnd, _number(read.bitline_v))
        nodes = [f"n{bitline}_{wordline}" if wires else clamp for wordline in range(wordlines)]
        if wires:
            circuit.R(f"{bitline}_0", clamp, nodes[0], "{below_ohm}")
            for wordline in range(1, wordlines):
                circuit.R(f"{bitline}_{wordline}", nodes[wordline - 1], nodes[wordline], array.bitline_res_ohm)
        if wires and array.bitline_cap_f > 0:
            circuit.C(f"{bitline}_below", nodes[0], circuit.gnd, "{below_f}")
            for wordline, node in enumerate(nodes):
                circuit.C(f"{bitline}_{wordline}", node, circuit.gnd, array.bitline_cap_f)
            circuit.C(f"{bitline}_above", nodes[-1], circuit.gnd, "{above_f}")
        for wordline, node in enumerate(nodes):
            writer.add(circuit, f"{bitline}_{wordline}", node, f"w{wordline}", circuit.gnd, circuit.gnd, "{}")
    return element_lines(circuit)


def _pulsed_wordlines(states: np.ndarray, starts: np.ndarray, rise_s: float, high_v: float) -> str:
    """Voltage sources that put each read's states on the wordlines; the simulator stops at every corner."""
    circuit = Circuit("wordlines")
    for wordline, points in enumerate(_corners(states, starts, rise_s, high_v)):
        circuit.V(f"wl{wordline}", f"w{wordline}", circuit.gnd, f"pwl({' '.join(points)})")
    return element_lines(circuit)


def _clocked_wordlines(states: np.ndarray, starts: np.ndarray, rise_s: float, high_v: float) -> str:
    """The same voltages from behavioural sources, whose corners do not stop the simulator, and a clock whose do.

    The clock, connected to nothing but a resistor, turns at the start and at the sample of every read: two to
    three times fewer time points than corners on every wordline force.
    """
    circuit = Circuit("wordlines")
    for wordline, points in enumerate(_corners(states, starts, rise_s, high_v)):
        circuit.B(f"wl{wordline}", f"w{wordline}", circuit.gnd, voltage_expression=f"pwl(time,{','.join(points)})")
    ticks = " ".join(f"{start:.10g} {tick % 2}" for tick, start in enumerate(starts.tolist(), 1))
    circuit.V("clock", "clock", circuit.gnd, f"pwl(0 0 {ticks})")
    circuit.R("clock", "clock", circuit.gnd, "1k")
    return element_lines(circuit)


def _corners(states: np.ndarray, starts: np.ndarray, rise_s: float, high_v: float) -> Iterator[list[str]]:
    """Times and voltages, in turn, of each wordline; it moves only where its state changes.

    The last corner lies at the end, since ngspice extends a behavioural pwl along its last segment.
    """
    previous = np.vstack([np.zeros_like(states[:1]), states[:-1]])
    for before, after in zip(previous.T, states.T, strict=True):
        changes = np.flatnonzero(before != after)
        times = np.concatenate(
            [[0], np.stack([starts[changes], starts[changes] + rise_s], axis=1).ravel(), starts[-1:]]
        )
        volts = np.concatenate([[0], np.stack([before[changes], after[changes]], axis=1).ravel(), after[-1:]]) * high_v
        yield [f"{value:.10g}" for pair in zip(times.tolist(), volts.tolist(), strict=True) for value in pair]


def _swept_wordlines(states: np.ndarray, high_v: float) -> str:
    """Wordlines that follow the read's number, swept by the source vread."""
    circuit = Circuit("wordlines")
    circuit.V("read", "read", circuit.gnd, "0")
    for wordline in range(states.shape[1]):
        levels = [*states[:, wordline].tolist(), 0]  # one point more than there are reads: a pwl needs two
        points = ",".join(f"{read},{state * high_v:g}" for read, state in enumerate(levels))
        circuit.B(f"wl{wordline}", f"w{wordline}", circuit.gnd, voltage_expression=f"pwl(v(read),{points})")
    return element_lines(circuit)


def element_lines(circuit: Circuit) -> str:
    """A circuit's element lines, lower case, without its title."""
    return str(circuit).partition("\n")[2].lower()


def _number(value: float) -> str:
    return f"{value:.10g}"
