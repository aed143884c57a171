"""Answers of the simulator: damaged raw files and logs, and programs that hang, flood, leave children or worse.

Every input goes through a program that stands in for ngspice.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest import mock

import numpy as np

from cosim.config import Config
from cosim.device import load_card
from cosim.netlist import Deck, curve_deck
from cosim.spice import Reading, Simulator, Store
from cosim.spice.ngspice import find_ngspice
from tests.fuzz.kind import Finding, Kind, Place
from tests.fuzz.values import NUMBERS, TEXTS, damage_bytes

_SIGNATURES = (b"Binary:\n", b"No. Points:", b"No. Variables:", b"Variables:\n", b"Flags:", b"Plotname:", b"i(v")
_WORDS = ("singular matrix", "Aborted", "ERROR", "fatal", "Timestep too small", "unrecognized parameter (toxx)",
          "unrecognized parameter (" + "x" * 5000 + ")", "Warning: nothing", "\x1b[2J\x07", "é漢\u202e")  # fmt: skip
# Share of inputs that are programs. Some of them take as long as they may.
_PROGRAMS = 0.08
# Seconds after which a simulator is stopped, and during which processes that were killed may still be visible.
_TIMEOUT_S, _GRACE_S = 1.0, 3.0
_VERSION = "echo '** ngspice-39 : Circuit level simulation program'"
# What stands in for ngspice; {raw} is a true raw file, {users} a user's file.
_SCRIPTS = {
    "a status": "cp {raw} .; exit {number}",
    "a signal": "cp {raw} .; kill -{signal} $$",
    "sleeps": "sleep 30",
    "sleeps and answers": "cp {raw} .; sleep 30",
    "sleeps without output": "exec >&- 2>&-; sleep 30",
    "ignores signals": "trap '' TERM INT HUP QUIT; sleep 30",
    "stops": "kill -STOP $$",
    "stops its group": "kill -STOP 0",
    "ends its group": "cp {raw} .; kill -TERM 0",
    "ends its parent": "cp {raw} .; kill -KILL $PPID; sleep 30",
    "leaves a child": "sleep 30 & cp {raw} .",
    "leaves children": "for i in $(seq 50); do sleep 30 & done; cp {raw} .",
    "leaves a child that floods": "yes & cp {raw} .",
    "leaves a child with a session": "setsid sleep 3 & cp {raw} .",
    "answers after its end": "(sleep 0.2; cp {raw} .) &",
    "floods": "cp {raw} .; exec yes",
    "floods errors": "exec yes >&2",
    "one long line": "head -c 30M /dev/zero; cp {raw} .",
    "noise": "head -c 100k /dev/urandom; cp {raw} .",
    "waits for input": "cat; read line; cp {raw} .",
    "a pipe": "mkfifo out.raw",
    "a folder": "mkdir out.raw",
    "a link to a user's file": "ln -s {users} out.raw",
    "a link to the answer": "ln -s {raw} out.raw",
    "a link to itself": "ln -s out.raw out.raw",
    "a link to zeros": "ln -s /dev/zero out.raw",
    "terabytes": "cp {raw} .; truncate -s 4T out.raw",
    "a gibibyte of head": "(head -c 60 {raw}; head -c 1000M /dev/zero) > out.raw",
    "two plots": "cat {raw} {raw} > out.raw",
    "nothing": ": > out.raw",
    "unreadable": "cp {raw} .; chmod 0 out.raw",
    "removes its folder": 'cp {raw} .; rm -rf "$PWD"',
    "moves its folder": 'cp {raw} .; mv "$PWD" "$PWD.moved"',
    "closes its folder": "cp {raw} .; mkdir -p a/b; chmod 0 a .",
    "changes the deck": "cp {raw} .; echo > deck.cir; rm *.card",
    "many files": "touch $(seq 3000); cp {raw} .",
    "deep folders": "for i in $(seq 300); do mkdir a; cd a; done",
    "strange names": "touch -- \"$(printf 'a\\nb\\377')\" -rf; cp {raw} .",
}
_VERSIONS = (
    "exit 0", "sleep 30", "exec yes", "head -c 1M /dev/urandom", "echo ngspice-34", "echo ngspice-", "kill -SEGV $$",
    "echo ngspice-99999999999999999999999", "echo 'ngspice-39; touch executed'", "printf 'ngspice-\\377\\0'",
    "echo 'ngspice-４５'", "sleep 30 & echo ngspice-39", "echo ngspice-39; exit 3", "exec >&- 2>&-; sleep 30",
)  # fmt: skip


def _decks() -> dict[str, Deck]:
    """A deck for each analysis."""
    card, shifts = load_card("nor65"), np.array([0.3, 0.9])
    line = "vin b 0 pwl(0 0 1e-12 1)\nr1 b c 1k\nc1 c 0 1e-12\n"
    return {
        "op": curve_deck(card, shifts, np.full(2, 0.1), Config()),
        "dc": Deck("dc", ".dc vin 0 3 1", "vin b 0 0\nr1 b 0 1k\n", {}, {}, ("vin",), np.arange(4.0)),
        "tran": Deck("tran", ".tran 0.05n 5n", line, {}, {}, ("vin",), np.array([1e-9, 5e-9]), 0.5e-9, 1),
    }


class Answers(Kind):
    """Answers to three decks, one for each analysis."""

    programs = frozenset({"timeout", "ngspice"})

    def prepare(self, originals: Path) -> None:
        for name, deck in _decks().items():
            folder = originals / name
            folder.mkdir()
            for file, text in {"deck.cir": deck.text(), **deck.cards}.items():
                (folder / file).write_text(text)
            log = subprocess.run(["ngspice", "-n", "-b", "deck.cir"], cwd=folder, capture_output=True, check=True)
            (folder / "log.txt").write_bytes(log.stdout)
            store = Store(originals / f"{name}-store")
            (reading,) = Simulator(Config().run, store).simulate([deck])
            np.savez(folder / "truth.npz", currents=reading.currents, unsettled=reading.unsettled)

    def mutate(self, place: Place, rng: np.random.Generator) -> str:
        shutil.rmtree(place.store, ignore_errors=True)  # what it holds would not be simulated
        name = _pick(rng, ("op", "dc", "tran"))
        (place.inputs / "deck").write_text(name)
        original = place.originals / name
        raw, other = (original / "out.raw").read_bytes(), (place.originals / "tran" / "out.raw").read_bytes()
        version = _VERSION
        if rng.random() < _PROGRAMS:
            damaged, log, status = raw, b"", 0
            if rng.integers(4) == 0:
                version = what = _pick(rng, _VERSIONS)
                script = f"cp {shlex.quote(str(place.inputs / 'out.raw'))} ."
            else:
                what = _pick(rng, tuple(_SCRIPTS))
                script = _SCRIPTS[what].format(
                    raw=shlex.quote(str(place.inputs / "out.raw")),
                    users=shlex.quote(str(place.work / "users.txt")),
                    number=int(rng.integers(1, 256)),
                    signal=_pick(rng, ("KILL", "TERM", "SEGV", "HUP", "INT", "QUIT", "ABRT", "PIPE", "BUS", "FPE")),
                )
            what = f"program: {what}"
        else:
            damaged, what = _damaged(raw, other, rng)
            log, status, more = _log((original / "log.txt").read_bytes(), rng)
            what = f"{what}{more}"
            script = f"cp {place.inputs}/out.raw .; cat {place.inputs}/log; exit {status}"
        (place.inputs / "out.raw").write_bytes(damaged)
        (place.inputs / "log").write_bytes(log)
        program = place.inputs / "ngspice"
        program.write_text(f'#!/bin/sh\ncase "$*" in *--version*) {version}; exit;; esac\n{script}\n')
        program.chmod(0o755)
        return f"{name}: {what}"

    def run(self, place: Place) -> None:
        name = (place.inputs / "deck").read_text()
        find_ngspice.cache_clear()
        run = Config().run.model_copy(
            update={"ngspice": str(place.inputs / "ngspice"), "workers": 1, "timeout_s": _TIMEOUT_S}
        )
        try:
            with mock.patch("cosim.spice.ngspice._VERSION_TIMEOUT_S", _TIMEOUT_S):
                (reading,) = Simulator(run, Store(place.store)).simulate([_decks()[name]])
        finally:
            _check_processes(place)
        _check_reading(reading, name, place)


def _check_reading(reading: Reading, name: str, place: Place) -> None:
    deck = _decks()[name]
    if reading.currents.shape != (deck.reads, len(deck.sources)) or reading.unsettled.shape != (deck.reads,):
        raise Finding(f"currents of shape {reading.currents.shape}")
    if not all(np.isfinite(values).all() for values in (reading.currents, reading.unsettled, reading.wave_currents)):
        raise Finding("values that are not finite")
    true = (place.originals / name / "out.raw").read_bytes().partition(b"Binary:\n")[2]
    given = (place.inputs / "out.raw").read_bytes().partition(b"Binary:\n")[2]
    with np.load(place.originals / name / "truth.npz") as truth:
        if true == given and not np.array_equal(reading.currents, truth["currents"]):
            raise Finding("other currents of the same points")


def _check_processes(place: Place) -> None:
    """Every process that works in the worker's folders must have been stopped."""
    until = time.monotonic() + _GRACE_S
    while left := [int(process.name) for process in Path("/proc").glob("[0-9]*") if _works_in(process, place)]:
        if time.monotonic() > until:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if b"setsid" not in (place.inputs / "ngspice").read_bytes():
                raise Finding(f"{len(left)} processes are left behind")
            return
        time.sleep(0.01)


def _works_in(process: Path, place: Place) -> bool:
    try:
        return process.name != str(os.getpid()) and str((process / "cwd").readlink()).startswith(f"{place.root}/")
    except OSError:
        return False


def _damaged(raw: bytes, other: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    if rng.integers(2):
        return damage_bytes(raw, other, rng, _SIGNATURES)
    change = _CHANGES[int(rng.integers(len(_CHANGES)))]
    head, _, body = raw.partition(b"Binary:\n")
    return change(head, body, rng)


def _log(log: bytes, rng: np.random.Generator) -> tuple[bytes, int, str]:
    """A log, an exit status, and a description of their damage. In most cases there is none."""
    choice = rng.random()
    if choice < 0.8:
        return log, 0, ""
    if choice < 0.9:
        word = _pick(rng, _WORDS)
        return log + word.encode() + b"\n", 0, f"; the log says {word!r:.40}"
    if choice < 0.95:
        return damage_bytes(log, log, rng)[0], 0, "; a damaged log"
    return log, int(rng.integers(256)), "; another status"


def _header(head: bytes, body: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    lines = head.split(b"\n")
    at = int(rng.integers(len(lines)))
    key, colon, _ = lines[at].partition(b":")
    value = _pick(rng, (*map(str, NUMBERS), *TEXTS, "complex", "real padded", "１２", "1_0", "+4", " 4 "))
    lines[at] = key + colon + b" " + value.encode(errors="surrogatepass")
    return b"\n".join(lines) + b"Binary:\n" + body, f"line {at} = {value!r:.40}"


def _points(head: bytes, body: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    count = int(head.partition(b"No. Variables:")[2].split()[0])
    values = np.frombuffer(body).reshape(-1, count).copy()
    what = _pick(rng, ("swapped", "repeated", "fewer", "none", "reversed", "not finite", "huge", "late"))
    if what == "swapped":
        values = rng.permutation(values)
    elif what == "repeated":
        values = np.concatenate([values, values])
    elif what == "fewer":
        values = values[:: int(rng.integers(2, 9))]
    elif what == "none":
        values = values[:0]
    elif what == "reversed":
        values = values[::-1]
    elif what == "late":
        values[:, 0] += 1e-9
    else:
        place = tuple(int(rng.integers(length)) for length in values.shape)
        values[place] = _pick(rng, (np.nan, np.inf, -np.inf) if what == "not finite" else (1e308, -1e308, 5e-324))
    head = b"\n".join(
        b"No. Points: %d" % len(values) if line.startswith(b"No. Points:") else line for line in head.split(b"\n")
    )
    return head + b"Binary:\n" + values.tobytes(), f"points {what}"


def _lines(head: bytes, body: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    lines = head.split(b"\n")
    at, to = (int(rng.integers(len(lines))) for _ in range(2))
    what = _pick(rng, ("removed", "doubled", "moved", "multiplied"))
    if what == "removed":
        del lines[at]
    elif what == "doubled":
        lines.insert(at, lines[at])
    elif what == "moved":
        lines[at], lines[to] = lines[to], lines[at]
    else:
        lines[at:at] = [lines[at]] * 100_000
    return b"\n".join(lines) + b"Binary:\n" + body, f"line {at} {what}"


_CHANGES: tuple[Callable[[bytes, bytes, np.random.Generator], tuple[bytes, str]], ...] = (_header, _points, _lines)


def _pick(rng: np.random.Generator, values: tuple[str, ...] | tuple[float, ...]) -> str:
    return values[int(rng.integers(len(values)))]  # type: ignore[return-value]


KIND = Answers()
