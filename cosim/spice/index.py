"""Which deck answers which reads of a group, so that no deck is written only to be looked up.

A group has a file, named by what decides its decks but the reads (`ArrayDecks.identity`), with a line a deck:

    identity of the deck, its reads in their order, checksum

A line is added when a deck is about to be simulated. One whose deck has no result tells other runs, and the next one,
how these reads were cut into decks. Lines are added by any number of processes; one that is damaged is none.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosim.files import disk_error


@dataclass(frozen=True)
class IndexedDeck:
    """A line of the index.

    Attributes:
        identity: of the deck, under which the store holds its reading.
        reads: in their order, as `read_keys` names them, with spaces between.
    """

    identity: str
    reads: str


class Index:
    """The index of a store.

    Args:
        folder: where its files lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, group: str) -> Path:
        return self.folder / group[:2] / f"{group}.txt"

    def decks(self, group: str) -> list[IndexedDeck]:
        """The decks of a group, given its identity, in the order in which they were added."""
        try:
            lines = self._path(group).read_text(errors="replace").split("\n")
        except OSError:
            return []
        return [deck for deck in map(_parsed, lines) if deck is not None]

    def add(self, group: str, decks: Iterable[IndexedDeck]) -> None:
        """Add decks of a group.

        Raises:
            MachineError: the disk is full.
            OutputError: the file cannot be written to.
        """
        path = self._path(group)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written at the file's end in one go. A line that was cut short stays alone: the next begins with a break.
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(file, "".join(f"\n{_line(deck)}" for deck in decks).encode())
            finally:
                os.close(file)
        except OSError as error:
            raise disk_error(error, path) from error


def read_keys(drive: np.ndarray) -> list[str]:
    """A name for each read (reads, inputs) of shares of the full voltage, the same for equal reads.

    It is hexadecimal: of inputs that are 0 or 1 their bits, eight a byte, the first input lowest; of others the bytes
    of their shares as float64.
    """
    full = drive == 1
    digital = (full | (drive == 0)).all(axis=1)
    bits, shares = np.packbits(full, axis=1, bitorder="little"), drive.astype("<f8")
    return [(bits if whole else shares)[read].tobytes().hex() for read, whole in enumerate(digital.tolist())]


def _line(deck: IndexedDeck) -> str:
    content = f"{deck.identity} {deck.reads}"
    return f"{content} {zlib.crc32(content.encode()):08x}"


def _parsed(line: str) -> IndexedDeck | None:
    """The deck of a line, None of one that is damaged or empty."""
    content, _, checksum = line.rpartition(" ")
    if checksum != f"{zlib.crc32(content.encode()):08x}":
        return None
    identity, _, reads = content.partition(" ")
    return IndexedDeck(identity, reads)
