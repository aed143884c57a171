"""Every exception cosim raises on purpose.

    CosimError                      exit status
    ├── InputError                  2   what the user gave is wrong
    │   ├── ConfigError                 a configuration key or value
    │   ├── NetworkError                a network, its weights or its layers
    │   ├── DatasetError                a data file
    │   ├── CardError                   a SPICE card
    │   └── OutputError                 a file that cannot be written
    ├── MachineError                2   something this machine lacks (ngspice, disk space)
    └── SimulationError             3   ngspice did not give an acceptable answer

A message says what was expected, what was found and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_COMPARED = 200
_MOST_COMPARED = 1000
_MOST_LISTED = 40


class CosimError(Exception):
    """Root of everything cosim raises on purpose."""

    exit_status = 2


class InputError(CosimError):
    """What the user gave is wrong."""


class ConfigError(InputError):
    """A configuration key or value is wrong."""


class NetworkError(InputError):
    """A network file, its weights or one of its layers is wrong."""


class DatasetError(InputError):
    """A data file is missing or has the wrong content."""


class CardError(InputError):
    """A SPICE card does not hold what is needed, or holds more than model statements."""


class OutputError(InputError):
    """A file cannot be written, or exists already."""


class MachineError(CosimError):
    """Something is missing on this machine: a program, a version, room on the disk."""


class SimulationError(CosimError):
    """The simulator gave no acceptable answer; the failure is recorded with its deck and log."""

    exit_status = 3


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the known word nearest to `word`, else listing them.

    Words may be those of a stranger's file: only so many are compared and listed, as text that is safe to show.
    """
    known = sorted(known)
    close = difflib.get_close_matches(word[:_LONGEST_COMPARED], known[:_MOST_COMPARED], n=1, cutoff=0.5)
    return f"did you mean {plain(close[0])!r}?" if close else f"known: {listed(known)}"


def listed(words: Iterable[str]) -> str:
    """Words of a file as text that is safe to show, the first ones if there are many."""
    words = list(words)
    more = [f"and {len(words) - _MOST_LISTED} more"] if len(words) > _MOST_LISTED else []
    return ", ".join([*map(plain, words[:_MOST_LISTED]), *more]) or "none"


def plain(text: object, longest: int = 80) -> str:
    """Text of a file or of another program as one line that is safe to show."""
    line = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() else "?" for letter in line[:longest])
