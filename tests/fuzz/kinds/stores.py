"""Stores of simulation results: their files are damaged, forged, or replaced by links, pipes and folders."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import shutil
import socket
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cosim
from cosim.device import load_card
from cosim.errors import CosimError
from cosim.netlist import curve_deck
from cosim.spice import Reading, Store
from cosim.spice.ngspice import Rejected
from tests.conftest import make_network, random_images
from tests.fuzz.kind import Finding, Kind, Place, command
from tests.fuzz.values import any_value, damage_bytes

_SIGNATURES = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY", b"'descr'", b"'shape'", b"identity")
_SETTINGS = ["run.fidelity=dc", "array.open_wordlines=3", "run.patterns_per_deck=32"]
_UNKNOWN = "0123456789abcdef" * 4
# Share of stores that are used by `cosim infer`, which takes a second. All others are read from Python.
_RUNS = 1 / 50


class Stores(Kind):
    """The store of a small run, with one failure, damaged at one to three places."""

    programs = frozenset({"timeout", "ngspice", "uname"})

    def prepare(self, originals: Path) -> None:
        store = originals / "store"
        np.save(originals / "logits.npy", _logits(store))
        deck = curve_deck(load_card("nor65"), np.zeros(1), np.ones(1), cosim.Config())
        Store(store).record_failure(_UNKNOWN, deck, Rejected("no answer", "log"))
        (store / "scratch" / "run-abcdefgh").mkdir()
        (store / "scratch" / "run-abcdefgh" / "alive").touch()
        truth: dict[str, Any] = {
            "results": [path.stem for path in (store / "results").rglob("*.npz")],
            "answers": {path.name: list(_answer(path).shape) for path in (store / "answers").iterdir()},
            "index": {path.stem: path.read_text() for path in (store / "index").rglob("*.txt")},
        }
        (originals / "truth.json").write_text(json.dumps(truth))

    def mutate(self, place: Place, rng: np.random.Generator) -> str:
        shutil.rmtree(place.store, ignore_errors=True)
        shutil.copytree(place.originals / "store", place.store)
        users = place.work / "run-thesis01"
        users.mkdir(exist_ok=True)
        for name in ("alive", "chapter1"):
            (users / name).write_text("years of work")
        done = []
        for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
            done.append(_CHANGES[int(rng.integers(len(_CHANGES)))](place, rng))
        forged = any(what.startswith("forged") for what in done)
        how = "run" if rng.random() < _RUNS else _pick(rng, ("load", "load", "save", "clear", "fail"))
        (place.inputs / "how").write_text(json.dumps({"how": how, "forged": forged}))
        return f"{how}: {'; '.join(done)}"

    def run(self, place: Place) -> None:
        asked = json.loads((place.inputs / "how").read_text())
        if asked["how"] == "run":
            command("store")
            found = _logits(place.store)
            if not asked["forged"] and not np.array_equal(found, np.load(place.originals / "logits.npy")):
                raise Finding("a run with other logits")
            return
        store, refusals = Store(place.store), []
        truth = json.loads((place.originals / "truth.json").read_text())
        steps: list[Callable[[], None]] = [
            *(lambda name=name: _load(store, name, place, asked["forged"]) for name in truth["results"]),
            *(lambda name=name, shape=shape: _load_answer(store, name, shape, place, asked["forged"])
              for name, shape in truth["answers"].items()),
            *(lambda name=name, text=text: _look_up(store, name, text, asked["forged"])
              for name, text in truth["index"].items()),
        ]  # fmt: skip
        if asked["how"] == "save":
            steps += [lambda name=name: _save(store, name, place) for name in list(truth["results"])[:5]]
        if asked["how"] == "fail":
            deck = curve_deck(load_card("nor65"), np.zeros(1), np.ones(1), cosim.Config())
            steps.append(lambda: store.record_failure(_UNKNOWN, deck, Rejected("no answer", "log")) and None)
        if asked["how"] == "clear":
            steps.append(store.clear)
        for step in (*steps, store.size):
            try:
                step()
            except CosimError as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]


def _logits(store: Path) -> np.ndarray:
    """Logits of a small run."""
    images = (random_images(4) * 255).to(torch.uint8)
    dataset = cosim.Dataset("digits", images, 255, torch.arange(4) % 3, "md5:0")
    circuit = cosim.CircuitNetwork(make_network(float_weights=True), cosim.Config.load(None, _SETTINGS), store=store)
    return cosim.infer(circuit, dataset).logits_circuit


@functools.cache
def _true(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an undamaged result."""
    with np.load(path) as archive:
        return dict(archive)


def _answer(path: Path) -> np.ndarray:
    return np.load(io.BytesIO(path.read_bytes()[32:]))


def _load(store: Store, identity: str, place: Place, forged: bool) -> None:
    true = _true(place.originals / "store" / "results" / identity[:2] / f"{identity}.npz")
    reads, bitlines = true["currents"].shape
    found = store.load(identity, reads, bitlines)
    if found is None:
        return
    same = all(np.array_equal(true[name], value) for name, value in vars(found).items())
    if not same and not forged:
        raise Finding(f"other numbers of {identity}")
    if not np.isfinite(found.currents).all():
        raise Finding(f"numbers of {identity} that are not finite")


def _load_answer(store: Store, identity: str, shape: list[int], place: Place, forged: bool) -> None:
    found = store.load_answer(identity, tuple(shape))
    if found is None or forged:
        return
    if not np.array_equal(found, _answer(place.originals / "store" / "answers" / identity)):
        raise Finding(f"other numbers of the answer {identity}")


def _look_up(store: Store, group: str, text: str, forged: bool) -> None:
    for deck in store.index.decks(group):
        if f"{deck.identity} {deck.reads} " not in text and not forged:
            raise Finding(f"a deck that is not in the index of {group}")


def _save(store: Store, identity: str, place: Place) -> None:
    """Save a result as a run does that found none. It must be found afterwards."""
    true = _true(place.originals / "store" / "results" / identity[:2] / f"{identity}.npz")
    reads, bitlines = true["currents"].shape
    own = Reading(np.full((reads, bitlines), 1e-9), np.zeros(reads), np.zeros(0), np.zeros((0, bitlines)), 0.0)
    with store.claim(identity, lambda: None):
        store.save(identity, own)
    found = store.load(identity, reads, bitlines)
    if found is None or not np.array_equal(found.currents, own.currents):
        raise Finding(f"{identity} was saved and is not there")


def _pick(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _any_file(place: Place, rng: np.random.Generator, room: str = "") -> Path | None:
    found = ((path, path.lstat()) for path in (place.store / room).rglob("*"))
    # Files that were made large before are left unchanged.
    files = sorted(path for path, seen in found if stat.S_ISREG(seen.st_mode) and seen.st_size < 1 << 20)
    return _pick(rng, files) if files else None


def _bytes(place: Place, rng: np.random.Generator) -> str:
    path, other = _any_file(place, rng, _pick(rng, ("results", "answers", "index", ""))), _any_file(place, rng)
    if path is None or other is None or not path.stat().st_size:
        return "nothing to damage"
    content, what = damage_bytes(path.read_bytes(), other.read_bytes() or b"0", rng, _SIGNATURES)
    path.write_bytes(content)
    return f"{path.parent.parent.name}: {what}"


def _taken(place: Place, rng: np.random.Generator) -> str:
    path, other = _any_file(place, rng), _any_file(place, rng)
    if path is None or other is None:
        return "nothing to replace"
    path.write_bytes(other.read_bytes())
    return f"{path.name} has the content of {other.name}"


def _put(path: Path, place: Place, rng: np.random.Generator) -> str:
    """Replace a file or folder by something else."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    what = _pick(rng, ("pipe", "socket", "folder", "full folder", "users", "user's file", "dangling", "itself", "zeros",
                       "terabytes", "gibibyte", "empty", "nothing", "unreadable"))  # fmt: skip
    links = {"users": place.work / "run-thesis01", "user's file": place.work / "users.txt", "dangling": "nowhere",
             "itself": path.name, "zeros": "/dev/zero"}  # fmt: skip
    if what in links:
        path.symlink_to(links[what])
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        _bind(path)
    elif what in ("folder", "full folder"):
        path.mkdir()
        if what != "folder":
            (path / "inside").write_text("years of work")
    elif what != "nothing":
        path.touch(0o000 if what == "unreadable" else 0o644)
        os.truncate(path, {"terabytes": 1 << 42, "gibibyte": 1 << 30}.get(what, 0))
    return what


def _bind(path: Path) -> None:
    """Make a socket, or a pipe if the name is too long for a socket."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"/proc/self/fd/{folder}/{path.name}")
    except OSError:
        os.mkfifo(path)
    finally:
        os.close(folder)


def _file(place: Place, rng: np.random.Generator) -> str:
    path = _any_file(place, rng, _pick(rng, ("results", "answers", "index", "failures", "")))
    if path is None:
        return "nothing to replace"
    return f"{path.relative_to(place.store)} is replaced by: {_put(path, place, rng)}"


def _folder(place: Place, rng: np.random.Generator) -> str:
    folders = [place.store / name for name in ("results", "index", "answers", "failures", "locks", "scratch")]
    folders += sorted(path for path in place.store.glob("*/*") if path.is_dir())
    path = _pick(rng, folders)
    return f"{path.relative_to(place.store)} is replaced by: {_put(path, place, rng)}"


def _lock(place: Place, rng: np.random.Generator) -> str:
    truth = json.loads((place.originals / "truth.json").read_text())
    path = place.store / "locks" / _pick(rng, sorted(truth["results"])[:5])[:3]
    if not path.parent.is_dir():
        return "no locks"
    return f"the lock {path.name} is replaced by: {_put(path, place, rng)}"


def _added(place: Place, rng: np.random.Generator) -> str:
    rooms = [path for path in (place.store, *place.store.glob("*"), *place.store.glob("*/*")) if path.is_dir()]
    room = _pick(rng, rooms)
    name = _pick(rng, ("run-thesis01", "thesis.tex", "aa", _UNKNOWN, f"{_UNKNOWN}.npz", ".hidden", "a\nb", "é" * 100))
    path = room / name
    if os.path.lexists(path):
        return "nothing to add"
    what = _put(path, place, rng)
    return f"{name!r:.20} in {room.name} is added: {what}"


def _dead(place: Place, rng: np.random.Generator) -> str:
    """A folder that looks like that of a dead process."""
    if not (place.store / "scratch").is_dir() or (place.store / "scratch").is_symlink():
        return "no scratch"
    folder = place.store / "scratch" / f"run-{'abcdefgh'[int(rng.integers(8))]}2345678"
    if os.path.lexists(folder):
        return "there already"
    if rng.integers(3) == 0:
        folder.symlink_to(place.work / "run-thesis01")
        return "a dead process's folder is a link"
    folder.mkdir()
    return f"a dead process's mark is: {_put(folder / 'alive', place, rng)}"


def _forged_result(place: Place, rng: np.random.Generator) -> str:
    """An archive with correct checksums and wrong content."""
    path = _any_file(place, rng, "results")
    if path is None or not zipfile.is_zipfile(path):
        return "nothing to forge"
    try:
        with np.load(path) as archive:
            content: dict[str, Any] = dict(archive)
    except Exception:  # forged before
        return "nothing to forge"
    name = _pick(rng, sorted(content))
    values = content[name]
    changes: dict[str, Callable[[], Any]] = {
        "nan": lambda: np.full(values.shape, np.nan),
        "text": lambda: np.full(values.shape, "a" * 300),
        "objects": lambda: np.array([{"a": print}], object),
        "records": lambda: np.zeros(values.shape, "i4,f8"),
        "complex": lambda: np.zeros(values.shape, complex),
        "bytes": lambda: np.zeros(values.shape, "S3"),
        "dates": lambda: np.zeros(values.shape, "M8[s]"),
        "another shape": lambda: np.zeros((*values.shape, 2)),
        "flat": lambda: np.ravel(values),
        "nothing": lambda: np.zeros(0),
        "swapped": lambda: values.astype(values.dtype.newbyteorder()),
        "anything": lambda: np.asarray(any_value(rng), object).astype("U"),
    }
    change = _pick(rng, (*changes, "removed", "renamed", "added", "packed"))
    if change in changes:
        content[name] = changes[change]()
    elif change in ("removed", "renamed"):
        content.pop(name)
        if change == "renamed":
            content[_pick(rng, ("../../evil", "\x00", "a" * 5000))] = values
    elif change == "added":
        content["more"] = np.zeros(3)
    (np.savez_compressed if change == "packed" else np.savez)(path, **content)
    return f"forged: {name} of a result is {change}"


def _forged_header(place: Place, rng: np.random.Generator) -> str:
    """An array with a wrong header and a correct checksum."""
    path = _any_file(place, rng, "results")
    if path is None or not zipfile.is_zipfile(path):
        return "nothing to forge"
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # damaged before
        return "nothing to forge"
    name = _pick(rng, sorted(members))
    if rng.integers(2):
        members[name], what = damage_bytes(members[name], members[name], rng, (b"'descr'", b"'shape'"))
    else:
        huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 99999999999), }"
        header = _pick(rng, (huge, "(" * 9000, "{" * 9000, "[0] * 10 ** 9", "9" * 5000, "'\\x00'", ""))
        members[name] = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header.encode() + b"\n"
        what = f"{header:.30}"
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in members.items():
            archive.writestr(each, content)
    return f"forged: the array {name}: {what}"


def _forged_answer(place: Place, rng: np.random.Generator) -> str:
    path = _any_file(place, rng, "answers")
    if path is None:
        return "nothing to forge"
    written = io.BytesIO()
    np.save(written, _pick(rng, (np.zeros((3, 0)), np.zeros(()), np.full((3, 8), np.nan), np.zeros((3, 8), "M8[s]"),
                                 np.full((3, 8), "x"), np.array([print, None], object))))  # fmt: skip
    answer = written.getvalue()
    if rng.integers(2):
        answer = damage_bytes(answer, answer, rng)[0]
    path.write_bytes(hashlib.sha256(path.name.encode() + b"\0" + answer).digest() + answer)
    return "forged: an answer"


def _forged_index(place: Place, rng: np.random.Generator) -> str:
    path = _any_file(place, rng, "index")
    if path is None:
        return "nothing to forge"
    contents = ("", " ", "a" * 64, f"{_UNKNOWN} 00", _UNKNOWN + " zz" * 1000, "../../evil 00", "\0 \0", f"{_UNKNOWN} é")
    content = _pick(rng, contents)
    with path.open("ab") as file:
        checksum = zlib.crc32(f"{path.stem} {content}".encode())
        file.write(f"\n{content} {checksum:08x}".encode() * _pick(rng, (1, 1000)))
    return "forged: lines of the index"


_CHANGES: tuple[Callable[[Place, np.random.Generator], str], ...] = (
    _bytes, _bytes, _bytes, _bytes, _taken, _file, _file, _folder, _lock, _added, _dead, _forged_result, _forged_header,
    _forged_answer, _forged_index,
)  # fmt: skip

KIND = Stores()
