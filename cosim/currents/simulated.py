"""Arrays in the circuit simulator: every request is a deck."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cosim.config import Config
from cosim.currents.programming import ProgrammedCell
from cosim.currents.request import GroupCurrents, ReadRequest
from cosim.mapping import deck_patterns
from cosim.netlist import ArrayDecks, Deck
from cosim.spice import Simulator, Usage

# Decks planned and simulated at a time: a bound on the memory.
_DECKS_A_STEP = 512


class SpiceSource:
    """The source of `run.fidelity = "dc"` and `"tran"`.

    Args:
        config: array, cell, read condition and fidelity.
        cell: what groups are programmed with.
        simulator: which runs the decks.
    """

    def __init__(self, config: Config, cell: ProgrammedCell, simulator: Simulator) -> None:
        self.config = config
        self.cell: ProgrammedCell | None = cell
        self.simulator = simulator
        self.decks = ArrayDecks(cell.card, cell.shifts, config, cell.closed)
        self.identity = simulator.engine

    @property
    def usage(self) -> Usage:
        """What the simulator did."""
        return self.simulator.usage

    def batches(self, needed: np.ndarray, inputs: int) -> list[np.ndarray]:
        """Whole decks of patterns (`cosim.mapping.deck_patterns`)."""
        return deck_patterns(needed, inputs, self.config.run.patterns_per_deck)

    def deck(self, request: ReadRequest) -> Deck:
        """The deck that answers a request."""
        return self.decks.deck(
            request.group, request.drive, request.comments, careful=request.careful, shifts=request.cells
        )

    def currents(self, requests: Sequence[ReadRequest], title: str) -> Iterator[GroupCurrents]:
        """Currents at the samples of each request's deck.

        Raises:
            SimulationError: a deck failed; the others are simulated and stored first.
        """
        for first in range(0, len(requests), _DECKS_A_STEP):
            decks = [self.deck(request) for request in requests[first : first + _DECKS_A_STEP]]
            for deck, reading in zip(decks, self.simulator.simulate(decks, title), strict=True):
                waves = {}
                if len(reading.wave_time):
                    waves = {
                        "wave_time_s": reading.wave_time,
                        "wave_currents_a": reading.wave_currents,
                        "sample_s": deck.samples,
                    }
                yield GroupCurrents(reading.currents, reading.unsettled, waves)
