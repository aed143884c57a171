"""The index of a store: it tells which deck answers which reads of a group, without writing decks to look them up.

Each group has a file. Its name is `ArrayDecks.identity`, the digest of everything that decides the group's decks except
the reads. The file has one line for each deck:

    identity of the deck, its reads in order, checksum

A line is added when a deck is about to be simulated. If the deck has no result, the line still tells other runs, and
the next run, how these reads were divided among decks. Any number of processes may add lines, and damaged lines are
ignored.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosim.files import disk_error, read_regular

# Ten million reads of a hundred inputs.
_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class IndexedDeck:
    """A line of the index.

    Attributes:
        identity: identity of the deck, under which the store holds its reading.
        reads: its reads in order, as `read_keys` names them, separated by spaces.
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
        """The decks of a group, given its identity, in the order in which they were added.

        Raises:
            InputError: there is something else than a file of an index's size.
            MachineError: it cannot be read.
        """
        try:
            lines = read_regular(self._path(group), _MOST_BYTES).decode(errors="replace").split("\n")
        except FileNotFoundError:
            return []
        return [deck for line in lines if (deck := _parsed(group, line)) is not None]

    def add(self, group: str, decks: Iterable[IndexedDeck]) -> None:
        """Add decks of a group.

        Raises:
            MachineError: the disk is full.
            OutputError: the file cannot be written to.
        """
        path = self._path(group)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written at the file's end at once. Every line begins with a line break, so that a line that was cut short
            # does not damage the next.
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
            try:
                os.write(file, "".join(f"\n{_line(group, deck)}" for deck in decks).encode())
            finally:
                os.close(file)
        except OSError as error:
            raise disk_error(error, path) from error


def read_keys(drive: np.ndarray) -> list[str]:
    """A name for each read, given as shares of the full voltage (reads, inputs). Equal reads have equal names.

    The name is hexadecimal. If all inputs are 0 or 1, it holds them as bits, eight in a byte, with the first input in
    the lowest bit. Otherwise it holds the bytes of the shares as float64.
    """
    full = drive == 1
    digital = (full | (drive == 0)).all(axis=1)
    bits, shares = np.packbits(full, axis=1, bitorder="little"), drive.astype("<f8")
    return [(bits if whole else shares)[read].tobytes().hex() for read, whole in enumerate(digital.tolist())]


def _line(group: str, deck: IndexedDeck) -> str:
    content = f"{deck.identity} {deck.reads}"
    return f"{content} {_checksum(group, content)}"


def _parsed(group: str, line: str) -> IndexedDeck | None:
    """The deck of a line, or None if the line is empty, damaged or of another group."""
    content, _, checksum = line.rpartition(" ")
    if checksum != _checksum(group, content):
        return None
    identity, _, reads = content.partition(" ")
    return IndexedDeck(identity, reads)


def _checksum(group: str, content: str) -> str:
    return f"{zlib.crc32(f'{group} {content}'.encode()):08x}"
