"""The cells of closed wordlines as a few elements a bitline: what they leak, and the charge they hold.

A closed cell is, to its bitline, a conductance and a capacitance, found by simulating it. Spread along a stretch of
wire, each counts at the two ends of the stretch by its distance: what a cell at wordline w of p below the group draws
through w + 1 of p + 1 wire resistances, counts (w + 1)/(p + 1) at the group and the rest at the clamp, which leaves
both the current and the voltage that it takes from the group as they are. The cells above the group count at its
far end. The error is that of the bitline's voltage not being the same everywhere, of second order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PySpice.Spice.Netlist import Circuit

from cosim.config import Config
from cosim.device import Card
from cosim.netlist.deck import Deck, corner_options
from cosim.netlist.elements import element_lines, number
from cosim.netlist.instance import CellWriter, card_files
from cosim.netlist.wires import GROUND

_RAMP_S = 1e-9
# Of the bitline voltage: a drain or source moves to and fro by this share to show its capacitance.
_RAMP_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class ClosedCells:
    """What a cell that is not read is to the line that is sensed: with its gate at 0 V to its bitline; with amplitude
    reads, its gate open and its bitline at 0 V, to its source line.

    Attributes:
        conductance_s: (units,) current at the line's voltage, over that voltage; at 0 V its slope [S].
        capacitance_f: (units,) charge that the cell takes a volt, around the line's voltage [F].
    """

    conductance_s: np.ndarray
    capacitance_f: np.ndarray

    def leakage_s(self, below: np.ndarray, above: np.ndarray) -> dict[str, np.ndarray]:
        """Conductances for `add_leakage`, by place, each (bitlines,) [S].

        Args:
            below: (wordlines, bitlines) units of the closed cells between clamp and group, the clamp's end first.
            above: those beyond the group.
        """
        leaking = self.conductance_s[below]
        near = _at_group(leaking)
        return {
            "clamp_s": leaking.sum(axis=0) - near,
            "near_s": near,
            "far_s": self.conductance_s[above].sum(axis=0),
        }

    def load_f(self, below: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Capacitance of the same cells at the group's near and far end, each (bitlines,) [F]."""
        return _at_group(self.capacitance_f[below]), self.capacitance_f[above].sum(axis=0)


def _at_group(values: np.ndarray) -> np.ndarray:
    """What counts at the group of values (wordlines, bitlines) from the clamp up to it."""
    return (np.arange(1, len(values) + 1) / (len(values) + 1)) @ values


def add_leakage(circuit: Circuit, bitline: int, clamp: str, near: str, far: str) -> None:
    """Conductances of the closed cells; the places to be formatted: clamp_s, near_s, far_s, by bitline."""
    for place, node in (("clamp", clamp), ("near", near), ("far", far)):
        # A controlled source, since a conductance may be 0.
        circuit.VCCS(f"{bitline}_{place}", node, circuit.gnd, node, circuit.gnd, f"{{{place}_s[{bitline}]}}")


def closed_deck(card: Card, shifts: np.ndarray, config: Config) -> Deck:
    """A cell of each threshold shift that is not read, its drain on a ramp around the bitline's voltage or, with
    amplitude reads, its source on one around 0 V.

    Returns:
        a deck of one read at the middle, whose currents over `ramp_v_per_s` are capacitances; with amplitude reads of
        two, a quarter of the ramp before and after it, whose currents show conductances, too.
    """
    writer, read, grounds = CellWriter.for_card(card, config), config.read_at_corner, config.read.mode == "amplitude"
    middle = 0 if grounds else read.bitline_v
    low, high = (number(middle + sign * _RAMP_SHARE * read.bitline_v) for sign in (-1, 1))
    circuit = Circuit("cells")
    circuit.V("wl", "w", circuit.gnd, number(read.wordline_v if grounds else 0))
    for index, shift in enumerate(shifts.tolist()):
        line = f"d{index}"
        circuit.V(line, line, circuit.gnd, f"pwl(0 {low} {number(_RAMP_S)} {high})")
        drain, source = (GROUND, line) if grounds else (line, GROUND)
        writer.add(circuit, str(index), drain, "w", source, GROUND, number(shift))
    return Deck(
        "tran",
        f".tran {number(_RAMP_S / 10)} {number(_RAMP_S)}",
        element_lines(circuit),
        {"method": "gear", "reltol": 1e-6, "abstol": 1e-16, "vntol": 1e-9, "gmin": 1e-14, **corner_options(config)},
        card_files(card, config),
        tuple(f"vd{index}" for index in range(len(shifts))),
        _RAMP_S * (np.array([0.25, 0.75]) if grounds else np.array([0.5])),
        comments=("currents of single cells that are not read, one for each level, on a ramp",),
    )


def ramp_v_per_s(config: Config) -> float:
    """How fast drains or sources of `closed_deck` rise [V/s]."""
    return 2 * _RAMP_SHARE * config.read_at_corner.bitline_v / _RAMP_S
