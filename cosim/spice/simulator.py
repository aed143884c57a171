"""The simulator: reuses stored readings of decks, and simulates the other decks on a pool of workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

from cosim.checked import STRICT, Amount, Count
from cosim.config import Run
from cosim.errors import SimulationError, plain
from cosim.netlist.deck import Deck
from cosim.progress import progress_bar
from cosim.spice.ngspice import Reading, Rejected, find_ngspice, run_deck
from cosim.spice.processes import Processes
from cosim.spice.store import Store

# After this many failures, the remaining decks would most likely fail too.
_ENOUGH_FAILURES = 3
# Of a log, this much at its end is looked at for a message [characters].
_SHOWN_LOG = 1 << 16


@dataclass
class Usage:
    """What a simulator has done so far.

    Attributes:
        decks: number of decks simulated.
        decks_reused: number of decks whose reading was in the store.
        patterns_simulated: number of reads in simulated decks.
        patterns_reused: number of reads in reused decks.
        ngspice_seconds: CPU time of ngspice, over all workers [s].
        retried: number of decks that needed tightened options.
    """

    __pydantic_config__: ClassVar = STRICT

    decks: Count = 0
    decks_reused: Count = 0
    patterns_simulated: Count = 0
    patterns_reused: Count = 0
    ngspice_seconds: Amount = 0.0
    retried: Count = 0

    def take(self) -> Usage:
        """Return the counts so far, and set them back to zero."""
        taken = replace(self)
        for each in fields(self):
            setattr(self, each.name, each.default)
        return taken

    def add(self, reading: Reading, *, reused: bool) -> None:
        """Count the reading of one deck."""
        if reused:
            self.decks_reused += 1
            self.patterns_reused += len(reading.currents)
            return
        self.decks += 1
        self.patterns_simulated += len(reading.currents)
        self.ngspice_seconds += reading.seconds
        self.retried += reading.attempts > 1


def engine_of(run: Run) -> str:
    """The version of the simulator that a run would use, such as "ngspice-39".

    Raises:
        MachineError: ngspice is missing, or too old.
    """
    return find_ngspice(run.ngspice)[1]


class Simulator:
    """Runs decks with ngspice, and never runs the same deck twice.

    Args:
        run: the section run of the configuration, for its workers, time-out and program.
        store: where results are kept.
    """

    def __init__(self, run: Run, store: Store) -> None:
        self.run = run
        self.store = store
        self.usage = Usage()
        self.program, self.engine = find_ngspice(run.ngspice)

    def recall(self, identity: str, reads: int, bitlines: int) -> Reading | None:
        """The stored reading of a deck, or None if there is none."""
        found = self.store.load(identity, reads, bitlines)
        if found is not None:
            self.usage.add(found, reused=True)
        return found

    def simulate(self, decks: Sequence[Deck], title: str = "ngspice") -> list[Reading]:
        """The readings of decks, in their order.

        Raises:
            SimulationError: a deck failed twice. The failure is recorded, and the other decks are simulated and stored
                first, unless three have failed.
            KeyboardInterrupt: passed on after the running processes have been stopped.
        """
        readings: dict[int, Reading] = {}
        missing: dict[int, tuple[Deck, str]] = {}
        for index, deck in enumerate(decks):
            identity = deck.identity(self.engine)
            found = self.recall(identity, deck.reads, len(deck.sources))
            if found is None:
                missing[index] = deck, identity
            else:
                readings[index] = found
        if missing:
            readings |= self._simulate_missing(missing, title)
        return [readings[index] for index in range(len(decks))]

    def _simulate_missing(self, missing: dict[int, tuple[Deck, str]], title: str) -> dict[int, Reading]:
        """Simulate decks, given with their identities, that the store does not hold."""
        readings: dict[int, Reading] = {}
        failures: list[str] = []
        processes = Processes()
        pool = ThreadPoolExecutor(self.run.workers or len(os.sched_getaffinity(0)))
        try:
            with progress_bar(title, len(missing)) as advance:
                pending: dict[Future[tuple[Reading, bool]], int] = {
                    pool.submit(self._one, deck, identity, processes): index
                    for index, (deck, identity) in missing.items()
                }
                while pending and len(failures) < _ENOUGH_FAILURES:
                    done, _ = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        index = pending.pop(future)
                        try:
                            readings[index], reused = future.result()
                            self.usage.add(readings[index], reused=reused)
                        except SimulationError as error:
                            failures.append(str(error))
                        advance()
        finally:
            processes.stop()
            pool.shutdown(wait=True, cancel_futures=True)
        if failures:
            more = f"\n({len(failures) - 1} more failed)" if len(failures) > 1 else ""
            raise SimulationError(failures[0] + more)
        return readings

    def _one(self, deck: Deck, identity: str, processes: Processes) -> tuple[Reading, bool]:
        """Simulate one deck, unless another process has done so meanwhile.

        Returns:
            its reading, and whether it came from another process.
        """
        with self.store.claim(identity, processes.check):
            found = self.store.load(identity, deck.reads, len(deck.sources))
            if found is not None:
                return found, True
            reading = self._attempt(deck, identity, processes)
            self.store.save(identity, reading)
            return reading, False

    def _attempt(self, deck: Deck, identity: str, processes: Processes) -> Reading:
        arguments = (self.program, self.run.timeout_s, self.store.scratch, processes)
        try:
            return run_deck(deck, *arguments)
        except Rejected:
            pass
        try:
            reading = run_deck(deck.tightened(), *arguments)
        except Rejected as failure:
            folder, repeat = self.store.record_failure(identity, deck.tightened(), failure)
            raise SimulationError(_explain(failure, folder, repeat)) from failure
        return Reading(**{**vars(reading), "attempts": 2})


def _explain(failure: Rejected, folder: Path, repeat: str) -> str:
    tail = "\n".join("    " + plain(line, 200) for line in failure.log[-_SHOWN_LOG:].strip().splitlines()[-8:])
    return (
        f"ngspice failed twice on a deck, the second time with tightened options: {failure.reason}\n"
        f"  end of its log:\n{tail}\n"
        f"  deck, log and reason are kept in {folder}\n"
        f"  repeat it: {repeat}"
    )
