"""Writes decks of single cells, whose currents serve to program levels and characterize cells."""

from __future__ import annotations

import numpy as np
from PySpice.Spice.Netlist import Circuit

from cosim.config import Config
from cosim.device import Card
from cosim.netlist.deck import Deck, corner_options
from cosim.netlist.elements import element_lines
from cosim.netlist.instance import CellWriter, card_files

# Programming is done once for each card and read condition, so it can afford to be exact.
_EXACT = {"reltol": 1e-7, "abstol": 1e-16, "vntol": 1e-9, "gmin": 1e-14}


def curve_deck(
    card: Card,
    shifts: np.ndarray,
    drain_v: np.ndarray,
    config: Config,
    *,
    wordline_v: float | None = None,
    source_v: np.ndarray | None = None,
) -> Deck:
    """Write a deck with one cell for each pair of threshold shift and drain voltage, all read at once at the corner.

    Args:
        card: the cell's card.
        shifts: (cells,) threshold shifts [V].
        drain_v: (cells,) voltages of the drains [V].
        config: the configuration.
        wordline_v: voltage of the gates [V]; None for that of an open wordline.
        source_v: (cells,) voltages of the sources [V]; None if all are grounded.
    """
    writer = CellWriter.for_card(card, config)
    circuit = Circuit("cells")
    gate_v = config.read_at_corner.wordline_v if wordline_v is None else wordline_v
    circuit.V("wl", "w", circuit.gnd, f"{gate_v:.10g}")
    for index, (shift, volt) in enumerate(zip(shifts.tolist(), drain_v.tolist(), strict=True)):
        circuit.V(f"d{index}", f"d{index}", circuit.gnd, f"{volt:.10g}")
        source = circuit.gnd
        if source_v is not None:
            source = f"s{index}"
            circuit.V(source, source, circuit.gnd, f"{source_v[index]:.10g}")
        writer.add(circuit, str(index), f"d{index}", "w", source, circuit.gnd, f"{shift:.10g}")
    return Deck(
        "op",
        ".op",
        element_lines(circuit),
        {**_EXACT, **corner_options(config)},
        card_files(card, config),
        tuple(f"vd{index}" for index in range(len(shifts))),
        np.zeros(1),
        comments=("read currents of single cells, one for each threshold shift (delvto)",),
    )


def sweep_deck(
    card: Card,
    shifts: np.ndarray,
    config: Config,
    *,
    wordline_v: float | None = None,
    bitline_v: float | None = None,
    step_v: float,
    stop_v: float,
) -> Deck:
    """Write a deck with one cell for each threshold shift, and sweep the gates or drains of all cells from 0.

    Args:
        card: the cell's card.
        shifts: (cells,) threshold shifts [V].
        config: the configuration.
        wordline_v: voltage of the gates if the drains are swept, for output curves [V].
        bitline_v: voltage of the drains if the gates are swept, for transfer curves [V].
        step_v: step of the sweep [V].
        stop_v: end of the sweep [V]; it ends at the last whole step.
    """
    writer = CellWriter.for_card(card, config)
    circuit = Circuit("cells")
    circuit.V("w", "w", circuit.gnd, f"{wordline_v or 0:.10g}")
    circuit.V("b", "b", circuit.gnd, f"{bitline_v or 0:.10g}")
    for index, shift in enumerate(shifts.tolist()):
        # Sources of 0 V that measure currents, with the same direction as clamps.
        circuit.V(f"d{index}", f"d{index}", "b", "0")
        writer.add(circuit, str(index), f"d{index}", "w", circuit.gnd, circuit.gnd, f"{shift:.10g}")
    steps = int(np.floor(stop_v / step_v + 1e-6))
    swept = "vw" if wordline_v is None else "vb"
    return Deck(
        "dc",
        f".dc {swept} 0 {(steps + 0.25) * step_v:.10g} {step_v:.10g}",
        element_lines(circuit),
        {**_EXACT, **corner_options(config)},
        card_files(card, config),
        tuple(f"vd{index}" for index in range(len(shifts))),
        step_v * np.arange(steps + 1),
        comments=("curves of single cells, one for each threshold shift",),
    )
