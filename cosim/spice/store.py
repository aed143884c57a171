"""Results of decks on disk, addressed by content.

    cosim-store             marks the folder as a store
    results/ab/ab12….npz    one accepted deck: its currents, checked by the archive's own checksums
    index/ab/ab12….txt      one group: which deck answers which reads (`cosim.spice.index`)
    answers/ab12…           what was computed: logits in software, a programmed design; behind its SHA-256
    failures/ab12…/         one failed deck: deck, cards, log, reason.txt with a command that repeats it
    locks/, scratch/        who is simulating what, and where

A result is written as a whole or not at all. Any number of processes may share a store. A process that needs a deck
that another one is simulating waits for the result. A damaged result is simulated again, and the new one replaces it.
What cannot be read for another reason ends the run, and nothing is removed. No link in a store is followed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from cosim.errors import OutputError
from cosim.files import disk_error, kind_of, read_regular, write_whole
from cosim.netlist.deck import Deck
from cosim.spice.archive import Damaged, packed, packed_array, unpacked, unpacked_array
from cosim.spice.index import Index
from cosim.spice.ngspice import Reading, Rejected, write_deck

_MARK = "cosim-store"
_ROOMS = ("results", "index", "answers", "failures", "locks", "scratch")
# Names of the folders and files in each room that `clear` empties.
_TWO, _IDENTITY = re.compile("[0-9a-f]{2}"), "[0-9a-f]{64}"
_FAILURE = re.compile(_IDENTITY)
_LAYOUT = {
    "results": (_TWO, re.compile(_IDENTITY + r"\.npz")),
    "index": (_TWO, re.compile(_IDENTITY + r"\.txt")),
    "answers": (re.compile(_IDENTITY),),
    "failures": (_FAILURE, re.compile(".+")),
}
# Of one result or answer: the logits of 60,000 images in a thousand classes.
_MOST_BYTES = 256 << 20
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
        try:
            self._make_rooms()
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

    def _make_rooms(self) -> None:
        """Make missing folders, and refuse a folder that is not a store of cosim's."""
        if not is_store(self.root):
            # Another process may have made the store just now; it made the mark first.
            if self.root.is_dir() and any(self.root.iterdir()) and not is_store(self.root):
                raise OutputError(f"{self.root} has other files and is not a store: name an empty or a new folder")
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / _MARK).touch()
        for room in _ROOMS:
            if not os.path.lexists(self.root / room):
                (self.root / room).mkdir(exist_ok=True)
            _check_folder(self.root / room)
        for room in ("results", "index"):
            for entry in os.scandir(self.root / room):
                if entry.is_symlink():
                    _check_folder(Path(entry))

    def _sweep_scratch(self) -> None:
        """Remove the folders that dead processes left behind."""
        for folder in os.scandir(self.root / "scratch"):
            if not folder.is_dir(follow_symlinks=False) or not _SCRATCH_NAME.fullmatch(folder.name):
                continue
            try:
                alive = os.open(Path(folder) / "alive", os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                continue  # being made just now, another user's, or none of cosim's
            try:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stat.S_ISREG(os.fstat(alive).st_mode):
                    shutil.rmtree(folder, ignore_errors=True)
            except BlockingIOError:
                pass
            finally:
                os.close(alive)

    def _path(self, identity: str) -> Path:
        return self.root / "results" / identity[:2] / f"{identity}.npz"

    def load(self, identity: str, reads: int, bitlines: int) -> Reading | None:
        """The stored reading of a deck with the given reads and bitlines, or None if it is missing or damaged.

        Raises:
            InputError: there is something else than a file of a result's size.
            MachineError: it cannot be read.
        """
        try:
            return unpacked(read_regular(self._path(identity), _MOST_BYTES), identity, reads, bitlines)
        except (FileNotFoundError, Damaged):
            return None

    def save(self, identity: str, reading: Reading) -> None:
        """Store a reading."""
        self._write(self._path(identity), packed(reading, identity))
        shutil.rmtree(self.root / "failures" / identity, ignore_errors=True)

    def _write(self, path: Path, content: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, path) from error
        write_whole(path, content, scratch=self.scratch)

    def load_answer(self, identity: str, shape: tuple[int | None, ...]) -> np.ndarray | None:
        """The array of floats that `save_answer` kept under an identity, or None if there is nothing, or it is damaged.

        Args:
            identity: what it was kept under.
            shape: lengths of its axes; None for any.

        Raises:
            InputError: there is something else than a file of an answer's size.
            MachineError: it cannot be read.
        """
        try:
            content = read_regular(self.root / "answers" / identity, _MOST_BYTES)
        except FileNotFoundError:
            return None
        digest, answer = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if _answer_digest(identity, answer) != digest:
            return None
        try:
            array = unpacked_array(answer).copy()
        except Damaged:
            return None
        fits = len(shape) == array.ndim and all(map(_fits, shape, array.shape))
        return array if fits and array.dtype.kind == "f" and np.isfinite(array).all() else None

    def save_answer(self, identity: str, array: np.ndarray) -> None:
        """Keep an array of floats, unless it is too large, behind the SHA-256 of its identity and content."""
        answer = packed_array(array)
        if len(answer) <= _MOST_BYTES - _DIGEST_BYTES:
            self._write(self.root / "answers" / identity, _answer_digest(identity, answer) + answer)

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
            kept = [path for path in failures.iterdir() if _FAILURE.fullmatch(path.name)]
            kept.sort(key=_changed_at)
        except OSError as error:
            raise disk_error(error, folder) from error
        for old in kept[:-_KEPT_FAILURES]:
            shutil.rmtree(old, ignore_errors=True)
        return folder, repeat

    def size(self) -> tuple[int, int, int]:
        """Number of results, number of failures, and bytes of both, of the index and of answers."""
        files = {room: self._entries(room)[0] for room in _LAYOUT}
        failures = {Path(file).parent for file in files["failures"]}
        sizes = (file.stat(follow_symlinks=False).st_size for found in files.values() for file in found)
        return len(files["results"]), len(failures), sum(sizes)

    def _entries(self, room: str) -> tuple[list[os.DirEntry[str]], list[Path]]:
        """The files that cosim wrote into a room, and whatever else is there."""
        own, strange = list(os.scandir(self.root / room)), []
        for depth, name in enumerate(_LAYOUT[room], start=1):
            last = depth == len(_LAYOUT[room])
            entries, own = own, []
            for entry in entries:
                right = entry.is_file(follow_symlinks=False) if last else entry.is_dir(follow_symlinks=False)
                if not right or not name.fullmatch(entry.name):
                    strange.append(Path(entry))
                elif last:
                    own.append(entry)
                else:
                    own.extend(os.scandir(entry))
        return own, strange

    def clear(self) -> None:
        """Remove every result, answer and failure, and the index, but nothing else.

        Raises:
            OutputError: the directory holds things that do not belong to a store.
        """
        strange = [entry for entry in self.root.iterdir() if entry.name not in (*_ROOMS, _MARK)]
        strange += [entry for room in _LAYOUT for entry in self._entries(room)[1]]
        if strange:
            raise OutputError(f"{min(strange)} is not part of a store: move it away, or remove the rest by hand")
        for room in _LAYOUT:
            shutil.rmtree(self.root / room, ignore_errors=True)
            (self.root / room).mkdir(exist_ok=True)


def _changed_at(path: Path) -> float:
    """When a file or folder was changed; long ago if another process has just removed it."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _fits(wanted: int | None, found: int) -> bool:
    return wanted is None or wanted == found


def _answer_digest(identity: str, answer: bytes) -> bytes:
    return hashlib.sha256(identity.encode() + b"\0" + answer).digest()


def _check_folder(path: Path) -> None:
    """Raise OutputError unless there is a folder, and no link to one."""
    kind = kind_of(path)
    if kind != "a directory":
        raise OutputError(f"{path} is {kind}, expected a folder, since a store follows no links: put the folder there")


def is_store(root: Path) -> bool:
    """Whether a folder is a store."""
    return kind_of(root / _MARK) == "a file"


def _leave(scratch: Path, alive: int) -> None:
    """Remove a process's scratch folder when the process is done with the store."""
    shutil.rmtree(scratch, ignore_errors=True)
    os.close(alive)
