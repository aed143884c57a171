"""The ngspice engine: runs one deck, and returns its bitline currents or a reason why there are none."""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosim.errors import CardError, InputError, MachineError, plain
from cosim.files import disk_error
from cosim.netlist.deck import Deck
from cosim.spice.processes import Processes
from cosim.spice.raw import RawFile, read_raw

OLDEST = 39
_PLOTS = {"tran": "Transient Analysis", "dc": "DC transfer characteristic", "op": "Operating Point"}
_BAD_LOG = re.compile(r"singular matrix|aborted|error|fatal|timestep too small", re.IGNORECASE)
_UNKNOWN_PARAMETER = re.compile(r"unrecognized parameter \(([^)\n]*)")
# A deck's answer takes a few MiB at most.
_ROOM_NEEDED = 16 << 20
# A log has a few lines, or some for each transistor of a tile if its model complains.
_MOST_LOG = 16 << 20
_VERSION_TIMEOUT_S, _MOST_VERSION = 10.0, 1 << 16


class Rejected(Exception):
    """ngspice ran, but its answer is not acceptable.

    Attributes:
        reason: which rule it breaks.
        log: what it wrote to standard output and standard error, 16 MiB at most.
    """

    def __init__(self, reason: str, log: str) -> None:
        super().__init__(reason)
        self.reason, self.log = plain(reason, 400), log


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
    again = "install the package ngspice again, or set run.ngspice to an ngspice program"
    try:
        answer = Processes().run([path, "--version"], timeout_s=_VERSION_TIMEOUT_S, most_output=_MOST_VERSION)
    except OSError as error:
        raise MachineError(f"{path} does not run ({error.strerror}): {again}") from error
    if answer.stopped:
        raise MachineError(f"{path} does not say its version ({answer.stopped}): {again}")
    version = re.search(r"ngspice-(\d{1,9})([\w.+-]{0,32})", answer.output, re.ASCII)
    if version is None:
        raise MachineError(f"{path} does not say its version as ngspice does: set run.ngspice to an ngspice program")
    if int(version[1]) < OLDEST:
        raise MachineError(
            f"{path} is {version[0]}, but ngspice-{OLDEST} or newer is needed: update the package ngspice"
        )
    return path, version[0]


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
        # The outer time-out ends a simulator whose own cosim was killed.
        command = ["timeout", "-s", "KILL", str(timeout_s + 10), program, "-n", "-b", "deck.cir"]
        environment = {"PATH": os.defpath, "HOME": str(folder), "LC_ALL": "C"}
        ended = processes.run(
            command, timeout_s=timeout_s, most_output=_MOST_LOG, folder=folder, environment=environment
        )
        if ended.stopped:
            raise Rejected(ended.stopped, ended.output)
        raw = _accept(deck, ended.status, ended.output, folder / "out.raw")
        return _sample(deck, raw, ended.seconds)
    except Rejected:
        _check_room(scratch)
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
    for name, text in {"deck.cir": deck.text(), **deck.cards}.items():
        (folder / name).write_text(text, encoding="utf-8")


def _accept(deck: Deck, status: int, log: str, raw_path: Path) -> RawFile:
    """Return the raw file if every accept rule holds; otherwise raise Rejected or CardError."""
    unknown = _UNKNOWN_PARAMETER.search(log)
    if unknown:
        raise CardError(
            f"ngspice does not know the card's parameter {unknown[1][:64]!r} and would ignore it: correct its name"
        )
    bad = _BAD_LOG.search(log)
    if bad:
        line = next(line for line in log.splitlines() if bad[0] in line)
        raise Rejected(f"the log says {line.strip()[:200]!r}", log)
    if status != 0:
        raise Rejected(f"exit status {status}, expected 0", log)
    try:
        raw = read_raw(raw_path)
    except FileNotFoundError:
        raise Rejected("no raw file was written", log) from None
    except (InputError, ValueError) as error:
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
        time_s = raw.values[:, 0]
        if points < deck.reads or time_s[-1] < deck.samples[-1] * (1 - 1e-9):
            raise Rejected(f"{points} points up to {time_s[-1:]} s, expected up to {deck.samples[-1]} s", log)
        if time_s[0] > deck.samples[0] or (np.diff(time_s) < 0).any():
            raise Rejected("the points of time do not rise from the start", log)
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
