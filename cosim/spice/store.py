"""Results of decks on disk, addressed by content.

    cosim-store             marks the folder as a store
    results/ab/ab12….npz    one accepted deck: its currents, checked by the archive's own checksums
    index/ab/ab12….txt      one group: which deck answers which reads (`cosim.spice.index`)
    answers/ab12…           what was computed: logits in software, a programmed design; behind its SHA-256
    failures/ab12…/         one failed deck: deck, cards, log, reason.txt with a command that repeats it
    locks/, scratch/        who is simulating what, and where

A result is written as a whole or not at all. Any number of processes may share a store. A process that needs a deck
that another one is simulating waits for the result. A result that cannot be read is removed and simulated again.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shlex
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from cosim.errors import OutputError
from cosim.files import disk_error, write_whole
from cosim.netlist.deck import Deck
from cosim.spice.index import Index
from cosim.spice.ngspice import Reading, Rejected, write_deck

_MARK = "cosim-store"
_ROOMS = ("results", "index", "answers", "failures", "locks", "scratch")
_DIGEST_BYTES = hashlib.sha256().digest_size
# Failures that are kept, and how much of each log: its end [bytes].
_KEPT_FAILURES, _KEPT_LOG = 100, 1 << 20
_SCRATCH_NAME = re.compile(r"run-[A-Za-z0-9_]{8}")


def default_store() -> Path:
    """The folder that $COSIM_STORE names, or else a folder in the user's cache directory."""
    named = os.environ.get("COSIM_STORE")
    return Path(named) if named else platformdirs.user_cache_path("cosim") / "store"


class Store:
    """A directory of simulation results. It is made if it does not exist.

    Args:
        root: the directory; None for `default_store`.

    Attributes:
        index: tells which deck answers which reads.

    Raises:
        OutputError: the directory cannot be made, or holds other things than a store.
        MachineError: the disk is full.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (Path(root) if root is not None else default_store()).absolute()
        if not is_store(self.root) and self.root.is_dir() and any(self.root.iterdir()):
            raise OutputError(f"{self.root} holds other things and is no store: name an empty folder, or a new one")
        try:
            for room in _ROOMS:
                (self.root / room).mkdir(parents=True, exist_ok=True)
            (self.root / _MARK).touch()
            self._sweep_scratch()
            self.scratch = Path(tempfile.mkdtemp(prefix="run-", dir=self.root / "scratch"))
            # The lock is held as long as this process lives, however it ends. A folder whose lock is free is thus that
            # of a dead process.
            alive = os.open(self.scratch / "alive", os.O_CREAT | os.O_WRONLY)
            fcntl.flock(alive, fcntl.LOCK_EX)
        except OSError as error:
            raise disk_error(error, self.root) from error
        weakref.finalize(self, _leave, self.scratch, alive)
        self.index = Index(self.root / "index")

    def _sweep_scratch(self) -> None:
        """Remove the folders that dead processes left behind."""
        for folder in (self.root / "scratch").iterdir():
            if not _SCRATCH_NAME.fullmatch(folder.name):
                continue
            try:
                alive = os.open(folder / "alive", os.O_WRONLY)
            except FileNotFoundError:
                continue  # being made just now
            try:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            except BlockingIOError:
                pass
            finally:
                os.close(alive)

    def _path(self, identity: str) -> Path:
        return self.root / "results" / identity[:2] / f"{identity}.npz"

    def load(self, identity: str, reads: int, bitlines: int) -> Reading | None:
        """The stored reading of a deck with the given reads and bitlines, or None if it is missing or damaged."""
        path = self._path(identity)
        try:
            content = _arrays(path.read_bytes())
            if str(content.pop("identity")) == identity:
                return _checked(content, reads, bitlines)
        except FileNotFoundError:
            return None
        except Exception:  # a damaged result may raise anything
            pass
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        return None

    def save(self, identity: str, reading: Reading) -> None:
        """Store a reading."""
        content = BytesIO()
        arrays: dict[str, Any] = {field.name: np.asarray(getattr(reading, field.name)) for field in fields(Reading)}
        np.savez(content, allow_pickle=False, identity=np.asarray(identity), **arrays)
        path = self._path(identity)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, path) from error
        write_whole(path, content.getvalue(), scratch=self.scratch)
        shutil.rmtree(self.root / "failures" / identity, ignore_errors=True)

    def load_answer(self, identity: str) -> np.ndarray | None:
        """The array that `save_answer` kept under an identity, or None if there is nothing, or it is damaged."""
        path = self.root / "answers" / identity
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, answer = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(answer).digest() != digest:
            return None
        return np.load(BytesIO(answer), allow_pickle=False)

    def save_answer(self, identity: str, array: np.ndarray) -> None:
        """Keep an array that was computed. Its SHA-256 goes before it."""
        answer = BytesIO()
        np.save(answer, array, allow_pickle=False)
        content = hashlib.sha256(answer.getvalue()).digest() + answer.getvalue()
        path = self.root / "answers" / identity
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, path) from error
        write_whole(path, content, scratch=self.scratch)

    @contextmanager
    def claim(self, identity: str, keep_waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the right to simulate a deck. Another holder is waited for, and a dead process holds nothing.

        Args:
            identity: identity of the deck.
            keep_waiting: called while waiting; it raises to give up.
        """
        try:
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / "locks" / identity[:3])
            while not lock.is_locked:
                keep_waiting()
                try:
                    lock.acquire(timeout=0.2)
                except Timeout:
                    continue
        except OSError as error:
            raise disk_error(error, self.root / "locks") from error
        try:
            yield
        finally:
            lock.release()

    def record_failure(self, identity: str, deck: Deck, failure: Rejected) -> tuple[Path, str]:
        """Keep a failed deck with the end of its log, and the last failures only.

        Returns:
            its folder, and the command that repeats it.
        """
        failures = self.root / "failures"
        folder = failures / identity
        repeat = f"cd {shlex.quote(str(folder))} && ngspice -n -b deck.cir"
        try:
            new = Path(tempfile.mkdtemp(dir=self.scratch))
            write_deck(deck, new)
            (new / "log.txt").write_bytes(failure.log.encode()[-_KEPT_LOG:])
            (new / "reason.txt").write_text(f"{failure.reason}\nrepeat: {repeat}\n", encoding="utf-8")
            new.chmod(0o755)
            failures.mkdir(exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            new.replace(folder)
            oldest_last = sorted(failures.iterdir(), key=lambda path: path.lstat().st_mtime, reverse=True)
        except OSError as error:
            raise disk_error(error, folder) from error
        for old in oldest_last[_KEPT_FAILURES:]:
            shutil.rmtree(old, ignore_errors=True)
        return folder, repeat

    def size(self) -> tuple[int, int, int]:
        """Number of results, number of failures, and bytes of both, of the index and of answers."""
        results = list((self.root / "results").glob("*/*.npz"))
        failures = [folder for folder in (self.root / "failures").iterdir() if folder.is_dir()]
        files = results + [file for folder in failures for file in folder.iterdir()]
        files += [*(self.root / "index").glob("*/*.txt"), *(self.root / "answers").glob("*")]
        return len(results), len(failures), sum(file.stat().st_size for file in files)

    def clear(self) -> None:
        """Remove every result, answer and failure, and the index, but nothing else.

        Raises:
            OutputError: the directory holds things that do not belong to a store.
        """
        strange = sorted({entry.name for entry in self.root.iterdir()} - {*_ROOMS, _MARK})
        if strange:
            raise OutputError(f"{self.root} holds {strange[0]!r}, which is no part of a store: remove the rest by hand")
        for room in ("results", "index", "answers", "failures"):
            shutil.rmtree(self.root / room, ignore_errors=True)
            (self.root / room).mkdir(exist_ok=True)


def _arrays(archive: bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, read-only. This does what `numpy.load` does, in a third of the time.

    Raises:
        Exception: of any kind, if the content is not such a file, or is damaged.
    """
    arrays = {}
    with zipfile.ZipFile(BytesIO(archive)) as file:
        for name in file.namelist():
            member = file.read(name)
            start = 10 + int.from_bytes(member[8:10], "little")
            shape, fortran, dtype = _array_header(member[:start])
            values = np.frombuffer(member, dtype, offset=start)
            arrays[name.removesuffix(".npy")] = values.reshape(shape, order="F" if fortran else "C")
    return arrays


@functools.lru_cache(maxsize=256)
def _array_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type of an array. Equal headers are parsed once, since parsing takes longer than reading."""
    stream = BytesIO(header)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of another version than 1.0")
    return np.lib.format.read_array_header_1_0(stream)


def _checked(content: dict[str, np.ndarray], reads: int, bitlines: int) -> Reading:
    """Make a reading from stored arrays. Raises ValueError unless such a deck can have given them."""
    points = len(content["wave_time"])
    shapes = {
        "currents": (reads, bitlines),
        "unsettled": (reads,),
        "wave_time": (points,),
        "wave_currents": (points, bitlines),
        "seconds": (),
    }
    for name, shape in shapes.items():
        values = content[name]
        if values.dtype != np.float64 or values.shape != shape or not np.isfinite(values).all():
            raise ValueError(f"{name} is no finite float64 array of shape {shape}")
    seconds, attempts = float(content.pop("seconds")), int(content.pop("attempts"))
    return Reading(**content, seconds=seconds, attempts=attempts)


def is_store(root: Path) -> bool:
    """Whether a folder is a store."""
    return (root / _MARK).is_file()


def _leave(scratch: Path, alive: int) -> None:
    """Remove a process's scratch folder when the process is done with the store."""
    shutil.rmtree(scratch, ignore_errors=True)
    os.close(alive)
