"""Represents the cells of closed wordlines by a few elements on each bitline, for their leakage and their charge.

To its bitline, a closed cell is a conductance and a capacitance, which are found by simulating it. Cells along a
stretch of wire are moved to its two ends, in shares by distance. A cell at wordline w of p below the group draws its
current through w + 1 of p + 1 wire resistances. The share (w + 1)/(p + 1) of it goes to the group, and the rest to the
clamp. This changes neither its current nor the voltage drop that it causes at the group. The cells above the group go
to its far end. The error comes from differences of voltage along the bitline, and is of second order.
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
# A drain or source moves up and down by this share of the bitline voltage, which shows its capacitance.
_RAMP_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class ClosedCells:
    """Conductance and capacitance of a cell that is not read, as the sensed line sees them.

    The sensed line is the bitline, and the cell's gate is at 0 V. With amplitude reads, the sensed line is the source
    line, the cell's gate is open, and its bitline is at 0 V.

    Attributes:
        conductance_s: (units,) current at the line's voltage, over that voltage; at 0 V, the slope of the current [S].
        capacitance_f: (units,) charge for each volt, around the line's voltage [F].
    """

    conductance_s: np.ndarray
    capacitance_f: np.ndarray

    def leakage_s(self, below: np.ndarray, above: np.ndarray) -> dict[str, np.ndarray]:
        """Conductances for `add_leakage`, by place, each (bitlines,) [S].

        Args:
            below: (wordlines, bitlines) units of the closed cells between clamp and group, from the clamp's end.
            above: (wordlines, bitlines) units of the closed cells beyond the group.
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
    """The share at the group of values (wordlines, bitlines) that lie between clamp and group: (bitlines,)."""
    return (np.arange(1, len(values) + 1) / (len(values) + 1)) @ values


def add_leakage(circuit: Circuit, bitline: int, clamp: str, near: str, far: str) -> None:
    """Add the conductances of closed cells to a bitline, as fields clamp_s, near_s and far_s of a format string."""
    for place, node in (("clamp", clamp), ("near", near), ("far", far)):
        # A controlled source, since a conductance may be 0.
        circuit.VCCS(f"{bitline}_{place}", node, circuit.gnd, node, circuit.gnd, f"{{{place}_s[{bitline}]}}")


def closed_deck(card: Card, shifts: np.ndarray, config: Config) -> Deck:
    """Write a deck with one cell for each threshold shift, none of which is read.

    The drain of each cell is on a ramp around the bitline's voltage. With amplitude reads, its source is on a ramp
    around 0 V.

    Returns:
        a deck with one read in the middle of the ramp, whose current over `ramp_v_per_s` gives the capacitance. With
        amplitude reads, a deck with two reads, a quarter of the ramp before and after the middle, whose currents give
        the conductance as well.
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
