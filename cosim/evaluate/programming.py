"""Programming the cell: simulate its curve, find the threshold shift of each level."""

from __future__ import annotations

import numpy as np

from cosim.config import Config
from cosim.device import CURVE_SHIFTS, Card, program_levels
from cosim.netlist import curve_deck
from cosim.spice import Simulator


def program_cell(card: Card, config: Config, simulator: Simulator) -> np.ndarray:
    """Threshold shift of every level [V], found from the card itself at the nominal read condition.

    The simulated curve is inverted, then simulated again around each level and inverted once more, so that the
    currents are within 1e-6 of their targets.

    Raises:
        CardError: the card cannot hold the levels.
    """
    shifts = CURVE_SHIFTS
    for _ in range(2):
        deck = curve_deck(card, shifts, np.full(len(shifts), config.read.bitline_v), config)
        (reading,) = simulator.simulate([deck], "programming")
        levels = program_levels(shifts, reading.currents[0], config.cell)
        shifts = np.sort((levels[:, None] + np.linspace(-0.02, 0.02, 9)).ravel())
        shifts = shifts[np.concatenate([[True], np.diff(shifts) > 1e-6])]
    return levels
