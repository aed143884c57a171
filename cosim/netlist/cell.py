"""Decks of single cells: the current against threshold shift from which levels are programmed."""

from __future__ import annotations

import numpy as np
from PySpice.Spice.Netlist import Circuit

from cosim.config import Config
from cosim.device import Card
from cosim.netlist.array import element_lines
from cosim.netlist.deck import Deck
from cosim.netlist.instance import CellWriter

# Programming is done once a card and read condition, so it can afford to be exact.
_EXACT = {"reltol": 1e-7, "abstol": 1e-16, "vntol": 1e-9, "gmin": 1e-14}


def curve_deck(
    card: Card, shifts: np.ndarray, drain_v: np.ndarray, config: Config, *, wordline_v: float | None = None
) -> Deck:
    """One cell for each pair of threshold shift and drain voltage, all read at once.

    Args:
        shifts, drain_v: (cells,) [V].
        wordline_v: of the gates [V]; left out, that of an open wordline.
    """
    writer = CellWriter.for_card(card, config.cell)
    circuit = Circuit("cells")
    circuit.V("wl", "w", circuit.gnd, f"{config.read.wordline_v if wordline_v is None else wordline_v:.10g}")
    for index, (shift, volt) in enumerate(zip(shifts.tolist(), drain_v.tolist(), strict=True)):
        circuit.V(f"d{index}", f"d{index}", circuit.gnd, f"{volt:.10g}")
        writer.add(circuit, str(index), f"d{index}", "w", circuit.gnd, circuit.gnd, f"{shift:.10g}")
    return Deck(
        "op",
        ".op",
        element_lines(circuit),
        _EXACT,
        {f"{card.name}.card": card.text()},
        tuple(f"vd{index}" for index in range(len(shifts))),
        np.zeros(1),
        comments=("read currents of single cells, one for each threshold shift (delvto)",),
    )
