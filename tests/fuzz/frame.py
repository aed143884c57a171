"""Tries inputs in worker processes, and counts the results.

A worker tries one input after the other. A worker that exceeds the time limit is killed, and one that dies is replaced;
both are counted, and the input is kept.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path

import numpy as np

from cosim.errors import CosimError
from tests.fuzz.kind import Finding, Kind, Place
from tests.fuzz.watch import Watch

LIMIT_S = 10.0
# A process may have to wait on a busy machine, so the limit is one of processor time. An input that only waits may take
# this many times as long.
_WAITING = 6
# Verdicts: those that are right, and those that must never occur.
RIGHT = ("accepted", "refused")
WRONG = ("traceback", "hang", "crash", "changed", "finding")
# Memory that an input may take in addition to that of the process at the start.
_MEMORY_BYTES = 2 << 30
# A fork is the cheapest way to a fresh process that has imported everything: the parent imports, and does not compute.
_CONTEXT = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Tried:
    """The outcome of an input.

    Attributes:
        number: number of the input.
        mutation: description of the damage.
        verdict: one of RIGHT and WRONG.
        message: the error's message, or a description of the finding.
    """

    number: int
    mutation: str
    verdict: str
    message: str = ""

    @property
    def cause(self) -> str:
        """The last line of the message, which findings with the same cause have in common."""
        lines = self.message.strip().splitlines()
        return lines[-1] if lines else ""


@dataclass
class Tally:
    """The counts of verdicts, and the findings."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[Tried] = field(default_factory=list)

    def add(self, tried: Tried) -> None:
        self.counts[tried.verdict] += 1
        if tried.verdict in WRONG:
            self.wrong.append(tried)


@dataclass
class _Worker:
    process: ForkProcess
    pipe: Connection
    place: Place
    number: int = -1
    mutation: str = "not mutated yet"
    since: float = 0.0
    cpu_before: float = 0.0

    def give(self, number: int) -> None:
        self.number, self.mutation, self.since = number, "not mutated yet", time.monotonic()
        self.pipe.send(number)

    def is_late(self, limit_s: float) -> bool:
        """Whether the input has taken `limit_s` of processor time, or several times as long."""
        waited = time.monotonic() - self.since
        if waited < limit_s:
            return False
        return waited > _WAITING * limit_s or _cpu_seconds(self.process.pid or 0) - self.cpu_before > limit_s

    def end(self) -> int | None:
        """Kill the worker and all processes that it started. Returns its exit status if it was dead already."""
        self.process.join(0.2)
        status = self.process.exitcode
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join()
        self.pipe.close()
        return status


def fuzz(
    kind: Kind,
    numbers: Iterable[int],
    *,
    seed: int,
    scratch: Path,
    workers: int = 1,
    limit_s: float = LIMIT_S,
    told: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Try inputs of a kind.

    Args:
        kind: the kind.
        numbers: the numbers of the inputs.
        seed: decides the inputs, together with their numbers.
        scratch: an empty folder; inputs with a wrong verdict are kept in `findings`.
        workers: number of inputs that are tried in parallel.
        limit_s: processor time that an input may take; an input that only waits may take six times as long [s].
        told: called with the counts after each input.
    """
    originals, findings = scratch / "originals", scratch / "findings"
    originals.mkdir(parents=True)
    _apart(kind.prepare, originals, scratch)
    tally, waiting = Tally(), iter(numbers)
    team = [_start(kind, seed, scratch, index, originals) for index in range(workers)]
    busy = [worker for worker in team if _next(worker, waiting)]
    idle = [worker for worker in team if worker not in busy]
    try:
        while busy:
            ready = wait([worker.pipe for worker in busy], timeout=0.1)
            for worker in list(busy):
                tried = None
                if worker.pipe in ready:
                    tried = _hear(worker)
                elif worker.is_late(limit_s):
                    worker.end()
                    tried = Tried(worker.number, worker.mutation, "hang", f"no answer within {limit_s:g} s")
                if tried is None:
                    continue
                if tried.verdict in WRONG:
                    _keep(tried, worker.place.inputs, findings)
                tally.add(tried)
                told(tally)
                if not worker.process.is_alive():
                    busy.remove(worker)
                    worker = _start(kind, seed, scratch, int(worker.place.root.name), originals)
                    busy.append(worker)
                if not _next(worker, waiting):
                    busy.remove(worker)
                    idle.append(worker)
    finally:
        for worker in (*busy, *idle):
            worker.end()
    return tally


def _next(worker: _Worker, waiting: Iterable[int]) -> bool:
    for number in waiting:
        worker.give(number)
        return True
    return False


def _hear(worker: _Worker) -> Tried | None:
    """Take a message of a worker: the description of the damage, or the outcome."""
    try:
        said = worker.pipe.recv()
    except (EOFError, OSError):
        status = worker.end()
        return Tried(worker.number, worker.mutation, "crash", f"the process ended with status {status}")
    if isinstance(said, Tried):
        return said
    worker.mutation, worker.cpu_before = said
    return None


def _cpu_seconds(session: int) -> float:
    """Processor time of all processes of a session, and of those they have waited for [s]."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # a process that has ended meanwhile
            _, _, rest = stat.read_text().rpartition(")")
            values = rest.split()
            if int(values[3]) == session:
                ticks += sum(map(int, values[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _keep(tried: Tried, inputs: Path, findings: Path) -> None:
    folder = findings / f"{tried.verdict}-{tried.number}"
    shutil.copytree(inputs, folder, symlinks=True)
    (folder / "finding.txt").write_text(f"{tried.mutation}\n{tried.message}\n", errors="backslashreplace")


def _apart(prepare: Callable[[Path], None], originals: Path, scratch: Path) -> None:
    """Prepare the inputs in a separate process, so that this one stays free of threads.

    Raises:
        RuntimeError: the preparation failed.
    """
    place = _made(Place(scratch / "preparing", originals))

    def run() -> None:
        _settle(place)
        prepare(originals)

    process = _CONTEXT.Process(target=run)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the valid inputs could not be made: see {place.root / 'terminal.txt'}")


def _start(kind: Kind, seed: int, scratch: Path, index: int, originals: Path) -> _Worker:
    place = Place(scratch / str(index), originals)
    shutil.rmtree(place.root, ignore_errors=True)
    _made(place)
    here, there = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_work, args=(kind, seed, place, there), daemon=True)
    process.start()
    there.close()
    return _Worker(process, here, place)


def _made(place: Place) -> Place:
    for folder in (place.inputs, place.outputs, place.store, place.temporary, place.work):
        folder.mkdir(parents=True)
    (place.work / "users.txt").write_text("a user's file\n")
    place.canary.write_text(f"#!/bin/sh\ntouch '{place.work}/executed'\necho 'ngspice-45 : Circuit level simulation'\n")
    place.canary.chmod(0o755)
    return place


def _settle(place: Place) -> None:
    """Start a new session of processes, whose home, temporary folder, store and terminal are in `place`."""
    os.setsid()
    os.chdir(place.work)
    sys.dont_write_bytecode = True
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        os.environ[name] = str(place.temporary)
    os.environ["MPLCONFIGDIR"] = str(place.originals.parent / "matplotlib")  # its list of fonts is made once
    os.environ["COSIM_STORE"] = str(place.store)
    terminal = os.open(place.root / "terminal.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(terminal, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def _work(kind: Kind, seed: int, place: Place, pipe: Connection) -> None:
    """Try inputs as their numbers arrive, and report their outcomes."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _settle(place)
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + _MEMORY_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = Watch(place, kind.programs)
    while True:
        try:
            number = pipe.recv()
        except EOFError:
            return
        shutil.rmtree(place.inputs, ignore_errors=True)
        place.inputs.mkdir()
        try:
            mutation = kind.mutate(place, np.random.default_rng((seed, number)))
        except Exception:
            pipe.send(Tried(number, "none", "finding", f"the mutation failed\n{traceback.format_exc()}"))
            continue
        pipe.send((mutation, _cpu_seconds(os.getpid())))
        watch.begin()
        verdict, message = _verdict(kind, place)
        changed = watch.end()
        if changed is not None:
            verdict, message = "changed", changed
        pipe.send(Tried(number, mutation, verdict, message))


def _verdict(kind: Kind, place: Place) -> tuple[str, str]:
    try:
        kind.run(place)
    except CosimError as error:
        return ("refused", str(error)) if str(error).strip() else ("finding", "refused without a message")
    except Finding as finding:
        return "finding", str(finding)
    except BaseException:
        return "traceback", traceback.format_exc()
    return "accepted", ""
