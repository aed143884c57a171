"""The ngspice engine: one deck in, its bitline currents out, or a reason why not."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosim.errors import CosimError, MachineError
from cosim.netlist.deck import Deck
from cosim.spice.raw import RawFile, read_raw

OLDEST = 39
_PLOTS = {"tran": "Transient Analysis", "dc": "DC transfer characteristic", "op": "Operating Point"}
_BAD_LOG = re.compile(r"singular matrix|aborted|error|fatal|timestep too small", re.IGNORECASE)
# Reads whose waveforms are kept, for plots.
_WAVE_READS = 12


class Rejected(Exception):
    """ngspice ran but its answer is not acceptable."""

    def __init__(self, reason: str, log: str) -> None:
        super().__init__(reason)
        self.reason, self.log = reason, log


class Interrupted(CosimError):
    """The run was stopped while ngspice was at work."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What a deck gave.

    Attributes:
        currents: (reads, bitlines) [A] into the bitlines at the samples.
        unsettled: (reads,) largest change of a bitline current [A] between `settling` before the sample and it.
        wave_time: (points,) [s], and wave_currents: (points, bitlines) [A], of the first few reads of a transient.
        seconds: CPU time of ngspice.
        attempts: 1, or 2 if the first did not converge.
    """

    currents: np.ndarray
    unsettled: np.ndarray
    wave_time: np.ndarray
    wave_currents: np.ndarray
    seconds: float
    attempts: int = 1


@functools.cache
def engine_version(program: str) -> str:
    """The version of an ngspice program, such as "ngspice-39".

    Raises:
        MachineError: there is none, or it is too old.
    """
    path = shutil.which(program)
    if path is None:
        raise MachineError(
            f"no ngspice program {program!r} found: install it (Debian, Ubuntu: apt-get install ngspice; "
            "Fedora: dnf install ngspice), or name it with --set run.ngspice=PATH"
        )
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"{path} does not run ({error}): install the package ngspice again") from error
    found = re.search(r"ngspice-(\d+)(\S*)", answer)
    if found is None:
        raise MachineError(f"{path} does not say its version as ngspice does: set run.ngspice to an ngspice program")
    if int(found[1]) < OLDEST:
        raise MachineError(f"{path} is {found[0]}, but ngspice-{OLDEST} or newer is needed: update the package ngspice")
    return found[0]


class Processes:
    """The ngspice processes in flight, so that they can be stopped together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def start(self, *args: object, **kwargs: object) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise Interrupted("stopped")
            process: subprocess.Popen[bytes] = subprocess.Popen(*args, **kwargs)  # type: ignore[call-overload]
            self._running.add(process)
            return process

    def done(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.discard(process)
            if self._stopped:
                raise Interrupted("stopped")

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()


def run_deck(deck: Deck, program: str, timeout_s: float, scratch: Path, processes: Processes) -> Reading:
    """Run one deck in a directory of its own under `scratch`.

    Raises:
        Rejected: the answer breaks one of the accept rules (docs/formats/deck.md), or none came in time.
        MachineError: the scratch disk is full.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=scratch))
    try:
        write_deck(deck, folder)
        log_path, raw_path = folder / "log.txt", folder / "out.raw"
        command = [shutil.which(program) or program, "-n", "-b", "deck.cir"]
        environment = {"PATH": os.defpath, "HOME": str(folder), "LC_ALL": "C"}
        with log_path.open("wb") as log:
            process = processes.start(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
            status, seconds = _wait(process, timeout_s)
        processes.done(process)
        text = log_path.read_text(errors="replace")
        if status is None:
            raise Rejected(f"no answer within {timeout_s:g} s", text)
        if shutil.disk_usage(folder).free < 1 << 16:
            raise MachineError(f"no room for ngspice's answer in {scratch}: free some space, or choose another --store")
        raw = _accept(deck, status, text, raw_path)
        return _sample(deck, raw, seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_deck(deck: Deck, folder: Path) -> None:
    """Write a deck as deck.cir, and its cards, into a folder."""
    (folder / "deck.cir").write_text(deck.text())
    for name, text in deck.cards.items():
        (folder / name).write_text(text)


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> tuple[int | None, float]:
    """Exit status (None: killed after the time-out) and CPU seconds of a process."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    killer = threading.Timer(timeout_s, kill)
    killer.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        killer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    killed = late.is_set() and process.returncode < 0
    return (None if killed else process.returncode), usage.ru_utime + usage.ru_stime


def _accept(deck: Deck, status: int, log: str, raw_path: Path) -> RawFile:
    """The raw file, if every accept rule holds."""
    bad = _BAD_LOG.search(log)
    if bad:
        raise Rejected(f"the log says {bad[0]!r}", log)
    if status != 0:
        raise Rejected(f"exit status {status}, expected 0", log)
    if not raw_path.is_file():
        raise Rejected("no raw file was written", log)
    try:
        raw = read_raw(raw_path)
    except (ValueError, KeyError, IndexError) as error:
        raise Rejected(f"the raw file cannot be read: {error}", log) from error
    if raw.plotname != _PLOTS[deck.analysis]:
        raise Rejected(f"plot {raw.plotname!r}, expected {_PLOTS[deck.analysis]!r}", log)
    wanted = tuple(f"i({source})" for source in deck.sources)
    scale = 0 if deck.analysis == "op" else 1
    if raw.variables[scale:] != wanted:
        raise Rejected(f"vectors {raw.variables[scale : scale + 3]}..., expected {wanted[:3]}...", log)
    if not np.isfinite(raw.values).all():
        raise Rejected("the raw file holds values that are not finite", log)
    points = len(raw.values)
    if deck.analysis == "tran":
        if points < deck.reads or raw.values[-1, 0] < deck.samples[-1] * (1 - 1e-9):
            raise Rejected(f"{points} points up to {raw.values[-1:, 0]} s, expected up to {deck.samples[-1]} s", log)
    elif points != deck.reads:
        raise Rejected(f"{points} points, expected {deck.reads}", log)
    return raw


def _sample(deck: Deck, raw: RawFile, seconds: float) -> Reading:
    """Currents at the samples; a clamp delivers what flows into its bitline, so the sign turns."""
    nothing = np.zeros(0), np.zeros((0, len(deck.sources)))
    if deck.analysis != "tran":
        values = raw.values if deck.analysis == "op" else raw.values[:, 1:]
        return Reading(-values, np.zeros(len(values)), *nothing, seconds)
    time_s, currents = raw.values[:, 0], -raw.values[:, 1:]
    sampled = _interpolate(deck.samples, time_s, currents)
    before = _interpolate(deck.samples - deck.settling, time_s, currents)
    shown = time_s <= deck.samples[min(_WAVE_READS, deck.reads) - 1]
    return Reading(sampled, np.abs(sampled - before).max(axis=1), time_s[shown], currents[shown], seconds)


def _interpolate(at: np.ndarray, scale: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rows of `values` at points of the rising `scale`, linearly between its points."""
    right = np.clip(np.searchsorted(scale, at), 1, len(scale) - 1)
    left = right - 1
    width = scale[right] - scale[left]
    share = np.where(width > 0, (at - scale[left]) / np.where(width > 0, width, 1), 1.0).clip(0, 1)
    return values[left] + share[:, None] * (values[right] - values[left])
