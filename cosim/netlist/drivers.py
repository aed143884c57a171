"""The drivers of the inputs, which are wordlines or bitlines. They turn reads into voltages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PySpice.Spice.Netlist import Circuit

from cosim.netlist.elements import element_lines, number


def pulsed_lines(
    states: np.ndarray, starts: np.ndarray, rise_s: float, high_v: float, first: int = 0, *, line: str = "w"
) -> str:
    """Voltage sources that put the states of each read on the lines. The simulator stops at every corner of theirs.

    Args:
        states: (reads, lines) shares of the full voltage, 0..1.
        starts: (reads + 1,) times at which each read begins, and at which the last one ends [s].
        rise_s: duration of an edge [s].
        high_v: the full voltage [V].
        first: number of the first line.
        line: "w" for wordlines or "b" for bitlines; the driver of the first line is at node w{first} or b{first}.
    """
    circuit = Circuit("lines")
    for index, points in enumerate(_corners(states, starts, rise_s, high_v), first):
        circuit.V(f"{line}l{index}", f"{line}{index}", circuit.gnd, f"pwl({' '.join(points)})")
    return element_lines(circuit)


def clocked_lines(
    states: np.ndarray, starts: np.ndarray, rise_s: float, high_v: float, first: int = 0, *, line: str = "w"
) -> str:
    """The voltages of `pulsed_lines` from behavioural sources, whose corners do not stop the simulator, and a clock.

    The clock's corners do stop the simulator. It is connected to a resistor only, and changes at the start and at the
    sample of every read. This takes two to three times fewer time points than corners on every line.
    """
    circuit = Circuit("lines")
    for index, points in enumerate(_corners(states, starts, rise_s, high_v), first):
        circuit.B(f"{line}l{index}", f"{line}{index}", circuit.gnd, voltage_expression=f"pwl(time,{','.join(points)})")
    ticks = " ".join(f"{start:.10g} {tick % 2}" for tick, start in enumerate(starts.tolist(), 1))
    circuit.V("clock", "clock", circuit.gnd, f"pwl(0 0 {ticks})")
    circuit.R("clock", "clock", circuit.gnd, "1k")
    return element_lines(circuit)


def swept_lines(states: np.ndarray, high_v: float, first: int = 0, *, line: str = "w") -> str:
    """Voltage sources that follow the number of the read, which the source vread sweeps."""
    circuit = Circuit("lines")
    circuit.V("read", "read", circuit.gnd, "0")
    for index, column in enumerate(states.T.tolist(), first):
        levels = [*column, 0]  # one point more than there are reads: a pwl needs two
        points = ",".join(f"{read},{number(state * high_v)}" for read, state in enumerate(levels))
        circuit.B(f"{line}l{index}", f"{line}{index}", circuit.gnd, voltage_expression=f"pwl(v(read),{points})")
    return element_lines(circuit)


def _corners(states: np.ndarray, starts: np.ndarray, rise_s: float, high_v: float) -> Iterator[list[str]]:
    """For each line, times and voltages in turn. A line moves only when its state changes.

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
