"""Arrays in the circuit simulator: turns reads into decks, and writes and simulates no deck twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cosim.config import Config
from cosim.currents.programming import ProgrammedCell
from cosim.currents.request import GroupCurrents, ReadRequest
from cosim.mapping import ENUMERATED_INPUTS, block_reads, deck_patterns
from cosim.netlist import ArrayDecks, Deck
from cosim.spice import IndexedDeck, Reading, Simulator, Store, Usage, read_keys

# How many decks are looked up, written and simulated at a time, which bounds the memory.
_DECKS_A_STEP = 512


@dataclass(eq=False)
class _Part:
    """Reads that one deck answers.

    Attributes:
        request: the request for the deck's reads.
        reads: the names of these reads, separated by spaces; None if the index is not used.
        group: identity of the group in the index.
        deck: identity of the deck in the store, or None if the index has none.
        reading: the answer, or None until there is one.
        sample_s: times or places of the reads, if the deck was written.
    """

    request: ReadRequest
    reads: str | None = None
    group: str = ""
    deck: str | None = None
    reading: Reading | None = None
    sample_s: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class _Plan:
    """Where the answer to a request comes from.

    Attributes:
        parts: the decks.
        places: (reads, 2) for each read, the number of the part that answers it, and of the read in that part; None if
            the only part is the request itself.
    """

    parts: list[_Part]
    places: np.ndarray | None = None

    def answer(self) -> GroupCurrents:
        """Put the readings of the parts together, in the order of the request."""
        if self.places is None:
            (part,) = self.parts
            assert part.reading is not None
            waves = {}
            if part.sample_s is not None and len(part.reading.wave_time):
                waves = {
                    "wave_time_s": part.reading.wave_time,
                    "wave_currents_a": part.reading.wave_currents,
                    "sample_s": part.sample_s,
                }
            return GroupCurrents(part.reading.currents, part.reading.unsettled, waves)
        readings = [part.reading for part in self.parts if part.reading is not None]
        starts = np.cumsum([0, *(len(reading.currents) for reading in readings)])
        rows = starts[self.places[:, 0]] + self.places[:, 1]
        return GroupCurrents(
            np.concatenate([reading.currents for reading in readings])[rows],
            np.concatenate([reading.unsettled for reading in readings])[rows],
        )


class SpiceSource:
    """The source of `run.fidelity = "dc"` and `"tran"`.

    A request for a whole block of a group's patterns (`batches`), or for careful reads, becomes one deck. For other
    requests, each read is looked up by itself, and reads without an answer become decks of at most
    `run.patterns_per_deck` reads. This is possible because settled reads do not depend on the rest of their deck.

    Args:
        config: the configuration, for its array, cell, read condition and fidelity.
        cell: the cell that groups are programmed with.
        simulator: runs the decks.
    """

    def __init__(self, config: Config, cell: ProgrammedCell, simulator: Simulator) -> None:
        self.config = config
        self.cell: ProgrammedCell | None = cell
        self.simulator = simulator
        self.decks = ArrayDecks(cell.card, cell.shifts, config, cell.closed)
        self.identity = simulator.engine

    @property
    def usage(self) -> Usage:
        """Counters of what the simulator did."""
        return self.simulator.usage

    @property
    def store(self) -> Store:
        """The simulator's store."""
        return self.simulator.store

    def batches(self, needed: np.ndarray, inputs: int) -> list[np.ndarray]:
        """Whole decks of patterns (`cosim.mapping.deck_patterns`)."""
        return deck_patterns(needed, inputs, self.config.run.patterns_per_deck)

    def deck(self, request: ReadRequest) -> Deck:
        """One deck with all reads of a request."""
        return self.decks.deck(
            request.group, request.drive, request.comments, careful=request.careful, shifts=request.cells
        )

    def currents(self, requests: Sequence[ReadRequest], title: str) -> Iterator[GroupCurrents]:
        """Currents of each request's reads.

        Raises:
            SimulationError: a deck failed; the others are simulated and stored first.
        """
        keys: dict[int, list[str]] = {}  # groups with the same reads share one array of drives
        plans: list[_Plan] = []
        decks = 0
        for request in requests:
            if id(request.drive) not in keys:
                keys[id(request.drive)] = read_keys(request.drive)
            plans.append(self._plan(request, keys[id(request.drive)]))
            decks += len(plans[-1].parts)
            if decks >= _DECKS_A_STEP:
                yield from self._answers(plans, title)
                plans, decks = [], 0
        yield from self._answers(plans, title)

    def _plan(self, request: ReadRequest, keys: list[str]) -> _Plan:
        """Find the decks that answer a request, and load the readings that are stored."""
        if request.careful:
            return _Plan([_Part(request)])
        group = self.decks.identity(self.identity, request.group, request.cells)
        known = self.simulator.store.index.decks(group)
        if not self._is_block(request):
            return self._plan_reads(request, keys, group, known)
        part = _Part(request, " ".join(keys), group)
        part.deck = next((deck.identity for deck in known if deck.reads == part.reads), None)
        if part.deck is not None:
            part.reading = self.simulator.recall(part.deck, len(keys), request.group.units.shape[1])
        return _Plan([part])

    def _is_block(self, request: ReadRequest) -> bool:
        """Whether a request may be for a whole block of patterns, which becomes one deck as it is."""
        reads, inputs = request.drive.shape
        return inputs <= ENUMERATED_INPUTS and reads == block_reads(inputs, self.config.run.patterns_per_deck)

    def _plan_reads(self, request: ReadRequest, keys: list[str], group: str, known: list[IndexedDeck]) -> _Plan:
        """Do what `_plan` does, for reads that are looked up one by one."""
        row_of = {key: row for row, key in enumerate(keys)}
        open_reads = dict.fromkeys(keys)  # an ordered set of reads that no part answers yet
        parts: list[_Part] = []
        place_of: dict[str, tuple[int, int]] = {}

        def take(part: _Part, reads: list[str]) -> None:
            for row, key in enumerate(reads):
                if key in open_reads:
                    del open_reads[key]
                    place_of[key] = len(parts), row
            parts.append(part)

        def part_of(reads: list[str], deck: str | None) -> _Part:
            drive = request.drive[[row_of[key] for key in reads]]
            return _Part(replace(request, drive=drive), " ".join(reads), group, deck)

        unfinished = []
        for deck in known:
            reads = deck.reads.split()
            if open_reads.keys().isdisjoint(reads):
                continue
            reading = self.simulator.recall(deck.identity, len(reads), request.group.units.shape[1])
            if reading is None:
                unfinished.append((deck, reads))
            else:
                take(_Part(request, deck.reads, group, deck.identity, reading), reads)
        for deck, reads in unfinished:  # begun by another run, or one that was killed: cut decks as it did
            if open_reads.keys() >= set(reads):
                take(part_of(reads, deck.identity), reads)
        per_deck, rest = self.config.run.patterns_per_deck, sorted(open_reads)  # neighbours differ in few inputs
        for first in range(0, len(rest), per_deck):
            reads = rest[first : first + per_deck]
            take(part_of(reads, None), reads)
        return _Plan(parts, np.array([place_of[key] for key in keys]).reshape(len(keys), 2))

    def _answers(self, plans: Sequence[_Plan], title: str) -> Iterator[GroupCurrents]:
        """Simulate the parts that have no reading yet, and yield the answers of the plans."""
        missing = [part for plan in plans for part in plan.parts if part.reading is None]
        for first in range(0, len(missing), _DECKS_A_STEP):
            self._simulate(missing[first : first + _DECKS_A_STEP], title)
        for plan in plans:
            yield plan.answer()

    def _simulate(self, parts: Sequence[_Part], title: str) -> None:
        """Simulate the decks of parts, and give the parts their readings."""
        decks = [self.deck(part.request) for part in parts]
        for part, deck in zip(parts, decks, strict=True):
            identity = deck.identity(self.identity)
            if part.reads is not None and part.deck != identity:
                self.simulator.store.index.add(part.group, [IndexedDeck(identity, part.reads)])
        for part, deck, reading in zip(parts, decks, self.simulator.simulate(decks, title), strict=True):
            part.reading, part.sample_s = reading, deck.samples
