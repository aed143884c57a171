"""Results of decks on disk, addressed by content.

    results/ab/ab12….npz    one accepted deck: its currents, checked by the archive's own checksums
    failures/ab12…/         one failed deck: deck, cards, log, reason.txt with a command that repeats it
    locks/, scratch/        who is simulating what, and where

A result is written whole or not at all, any number of processes may share a store, and one that finds another
simulating the deck it wants waits for it. A result that cannot be read is removed and simulated again.
"""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from filelock import FileLock

from cosim.errors import OutputError
from cosim.files import disk_error, write_whole
from cosim.netlist.deck import Deck
from cosim.spice.ngspice import Reading, Rejected, write_deck

_ROOMS = ("results", "failures", "locks", "scratch")


def default_store() -> Path:
    """$COSIM_STORE, else the user's cache directory."""
    named = os.environ.get("COSIM_STORE")
    return Path(named) if named else platformdirs.user_cache_path("cosim") / "store"


class Store:
    """A directory of simulation results.

    Raises:
        OutputError, MachineError: the directory cannot be made.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = Path(root) if root is not None else default_store()
        try:
            for room in _ROOMS:
                (self.root / room).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.root) from error
        self._sweep_scratch()

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"

    def _sweep_scratch(self) -> None:
        """Remove what processes that no longer live left behind."""
        for folder in self.scratch.iterdir():
            pid = folder.name.partition("-")[0]
            if not pid.isdigit() or not Path(f"/proc/{pid}").exists():
                shutil.rmtree(folder, ignore_errors=True)

    def _path(self, identity: str) -> Path:
        return self.root / "results" / identity[:2] / f"{identity}.npz"

    def load(self, identity: str, deck: Deck) -> Reading | None:
        """The stored reading of a deck, or None if there is none that can be trusted."""
        path = self._path(identity)
        try:
            with np.load(path, allow_pickle=False) as archive:
                content = {field.name: archive[field.name] for field in fields(Reading)}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            path.unlink(missing_ok=True)
            return None
        seconds, attempts = float(content.pop("seconds")), int(content.pop("attempts"))
        reading = Reading(**content, seconds=seconds, attempts=attempts)
        if reading.currents.shape != (deck.reads, len(deck.sources)) or not np.isfinite(reading.currents).all():
            path.unlink(missing_ok=True)
            return None
        return reading

    def save(self, identity: str, reading: Reading) -> None:
        """Store a reading."""
        content = BytesIO()
        arrays: dict[str, Any] = {field.name: np.asarray(getattr(reading, field.name)) for field in fields(Reading)}
        np.savez(content, allow_pickle=False, **arrays)
        path = self._path(identity)
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise disk_error(error, path) from error
        write_whole(path, content.getvalue())
        shutil.rmtree(self.root / "failures" / identity, ignore_errors=True)

    @contextmanager
    def claim(self, identity: str) -> Iterator[None]:
        """Hold the right to simulate a deck; another holder is waited for, a dead one holds nothing."""
        with FileLock(self.root / "locks" / identity[:3]):
            yield

    def record_failure(self, identity: str, deck: Deck, failure: Rejected) -> Path:
        """Keep a failed deck with its log and the command that repeats it; returns its folder."""
        folder = self.root / "failures" / identity
        try:
            folder.mkdir(exist_ok=True)
            write_deck(deck, folder)
            (folder / "log.txt").write_text(failure.log)
            (folder / "reason.txt").write_text(f"{failure.reason}\nrepeat: cd {folder} && ngspice -n -b deck.cir\n")
        except OSError as error:
            raise disk_error(error, folder) from error
        return folder

    def size(self) -> tuple[int, int, int]:
        """Results, failures, and bytes of both."""
        results = list((self.root / "results").glob("*/*.npz"))
        failures = list((self.root / "failures").iterdir())
        files = results + [file for folder in failures for file in folder.iterdir()]
        return len(results), len(failures), sum(file.stat().st_size for file in files)

    def clear(self) -> None:
        """Remove every result and failure, and nothing else.

        Raises:
            OutputError: the directory holds things that are no part of a store.
        """
        strange = sorted({entry.name for entry in self.root.iterdir()} - set(_ROOMS))
        if strange:
            raise OutputError(f"{self.root} holds {strange[0]!r}, which is no part of a store: remove the rest by hand")
        for room in ("results", "failures"):
            shutil.rmtree(self.root / room, ignore_errors=True)
            (self.root / room).mkdir(exist_ok=True)
