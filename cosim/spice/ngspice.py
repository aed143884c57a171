"""The ngspice engine: runs one deck, and returns its bitline currents or a reason why there are none."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cosim.errors import CardError, CosimError, MachineError
from cosim.files import disk_error
from cosim.netlist.deck import Deck
from cosim.spice.raw import RawFile, read_raw

OLDEST = 39
_PLOTS = {"tran": "Transient Analysis", "dc": "DC transfer characteristic", "op": "Operating Point"}
_BAD_LOG = re.compile(r"singular matrix|aborted|error|fatal|timestep too small", re.IGNORECASE)
_UNKNOWN_PARAMETER = re.compile(r"unrecognized parameter \((\w+)\)")
# A deck's answer takes a few MiB at most.
_ROOM_NEEDED = 16 << 20


class Rejected(Exception):
    """ngspice ran, but its answer is not acceptable."""

    def __init__(self, reason: str, log: str) -> None:
        super().__init__(reason)
        self.reason, self.log = reason, log


class Interrupted(CosimError):
    """The run was stopped while ngspice was running."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The answer of a deck.

    Attributes:
        currents: (reads, bitlines) currents into the bitlines at the samples [A].
        unsettled: (reads,) largest change of a bitline current during the time `settling` before the sample [A].
        wave_time: (points,) times of the waveform of the deck's first `wave_reads` reads [s], if it is a transient.
        wave_currents: (points, bitlines) currents of this waveform [A].
        seconds: CPU time of ngspice [s].
        attempts: 1, or 2 if the first attempt did not converge.
    """

    currents: np.ndarray
    unsettled: np.ndarray
    wave_time: np.ndarray
    wave_currents: np.ndarray
    seconds: float
    attempts: int = 1


@functools.cache
def find_ngspice(program: str) -> tuple[str, str]:
    """The absolute path of an ngspice program, and its version, such as "ngspice-39".

    Raises:
        MachineError: ngspice is missing, or too old.
    """
    found = shutil.which(program)
    if found is None:
        raise MachineError(
            f"no ngspice program {program!r} found: install it (Debian, Ubuntu: apt-get install ngspice; "
            "Fedora: dnf install ngspice), or name it with --set run.ngspice=PATH"
        )
    path = str(Path(found).absolute())
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, timeout=30, stdin=subprocess.DEVNULL).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"{path} does not run ({error}): install the package ngspice again") from error
    version = re.search(r"ngspice-(\d+)(\S*)", answer.decode(errors="replace"))
    if version is None:
        raise MachineError(f"{path} does not say its version as ngspice does: set run.ngspice to an ngspice program")
    if int(version[1]) < OLDEST:
        raise MachineError(
            f"{path} is {version[0]}, but ngspice-{OLDEST} or newer is needed: update the package ngspice"
        )
    return path, version[0]


class Processes:
    """The running simulator processes, which can be stopped together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._stopped = False

    def check(self) -> None:
        """Raise Interrupted once the processes have been stopped."""
        if self._stopped:
            raise Interrupted("stopped")

    def run(self, command: list[str], timeout_s: float, **arguments: Any) -> tuple[int | None, float]:
        """Run a command in a session of its own.

        Returns:
            its exit status, or None if it was stopped after the time-out; and its CPU time [s].
        """
        with self._lock:
            self.check()
            process = subprocess.Popen(command, start_new_session=True, **arguments)
            self._running.add(process.pid)
        late = threading.Event()

        def end() -> None:
            late.set()
            self._kill(process.pid)

        killer = threading.Timer(timeout_s, end)
        killer.start()
        try:
            # The process stays waitable, and keeps its number, until it is no longer among those that may be killed.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            with self._lock:
                self._running.discard(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            killer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        self.check()
        killed = late.is_set() and process.returncode != 0
        return (None if killed else process.returncode), usage.ru_utime + usage.ru_stime

    def _kill(self, pid: int) -> None:
        with self._lock:
            if pid in self._running:
                _kill_group(pid)

    def stop(self) -> None:
        """Kill all running processes with their children, and refuse to start others."""
        with self._lock:
            self._stopped = True
            for pid in self._running:
                _kill_group(pid)


def _kill_group(pid: int) -> None:
    # The group of a process that has ended, but has not been waited for yet, may be gone.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def run_deck(deck: Deck, program: str, timeout_s: float, scratch: Path, processes: Processes) -> Reading:
    """Run one deck in a directory of its own under `scratch`.

    Raises:
        Rejected: the answer breaks one of the accept rules (docs/formats/deck.md), or none came in time.
        CardError: ngspice does not know a parameter of the card.
        MachineError: the disk is full.
        OutputError: the scratch directory cannot be written to.
    """
    folder = scratch
    try:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        write_deck(deck, folder)
        log_path, raw_path = folder / "log.txt", folder / "out.raw"
        # The outer time-out ends a simulator whose own cosim was killed.
        command = ["timeout", "-s", "KILL", str(timeout_s + 10), program, "-n", "-b", "deck.cir"]
        environment = {"PATH": os.defpath, "HOME": str(folder), "LC_ALL": "C"}
        with log_path.open("wb") as log:
            status, seconds = processes.run(
                command, timeout_s, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        text = log_path.read_text(errors="replace")
        if status is None:
            raise Rejected(f"no answer within {timeout_s:g} s", text)
        raw = _accept(deck, status, text, raw_path)
        return _sample(deck, raw, seconds)
    except Rejected:
        _check_room(folder)
        raise
    except OSError as error:
        raise disk_error(error, folder) from error
    finally:
        if folder != scratch:
            shutil.rmtree(folder, ignore_errors=True)


def _check_room(folder: Path) -> None:
    """Blame a full disk, rather than the simulator, for a missing answer."""
    if shutil.disk_usage(folder).free < _ROOM_NEEDED:
        raise disk_error(OSError(errno.ENOSPC, "disk full"), folder)


def write_deck(deck: Deck, folder: Path) -> None:
    """Write a deck as deck.cir, and its cards, into a folder."""
    (folder / "deck.cir").write_text(deck.text())
    for name, text in deck.cards.items():
        (folder / name).write_text(text)


def _accept(deck: Deck, status: int, log: str, raw_path: Path) -> RawFile:
    """Return the raw file if every accept rule holds; otherwise raise Rejected or CardError."""
    unknown = _UNKNOWN_PARAMETER.search(log)
    if unknown:
        raise CardError(
            f"ngspice does not know the card's parameter {unknown[1]!r} and would ignore it: correct its name"
        )
    bad = _BAD_LOG.search(log)
    if bad:
        line = next(line for line in log.splitlines() if bad[0] in line)
        raise Rejected(f"the log says {line.strip()[:200]!r}", log)
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
    elif deck.analysis == "dc" and not np.allclose(raw.values[:, 0], deck.samples):
        raise Rejected("the sweep went elsewhere than expected", log)
    return raw


def _sample(deck: Deck, raw: RawFile, seconds: float) -> Reading:
    """Currents at the samples. The sign changes, since the current into a bitline flows out of its clamp."""
    nothing = np.zeros(0), np.zeros((0, len(deck.sources)))
    if deck.analysis != "tran":
        values = raw.values if deck.analysis == "op" else raw.values[:, 1:]
        return Reading(-values, np.zeros(len(values)), *nothing, seconds)
    time_s, currents = raw.values[:, 0], -raw.values[:, 1:]
    sampled = _interpolate(deck.samples, time_s, currents)
    before = _interpolate(deck.samples - deck.settling, time_s, currents)
    shown = time_s <= (deck.samples[min(deck.wave_reads, deck.reads) - 1] if deck.wave_reads else -1)
    return Reading(sampled, np.abs(sampled - before).max(axis=1), time_s[shown], currents[shown], seconds)


def _interpolate(at: np.ndarray, scale: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Interpolate rows of `values` linearly between the points of the rising `scale`."""
    right = np.clip(np.searchsorted(scale, at), 1, len(scale) - 1)
    left = right - 1
    width = scale[right] - scale[left]
    share = np.where(width > 0, (at - scale[left]) / np.where(width > 0, width, 1), 1.0).clip(0, 1)
    return values[left] + share[:, None] * (values[right] - values[left])
