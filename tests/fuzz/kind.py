"""The interface of a kind of input, and the folders in which inputs are tried."""

from __future__ import annotations

import io
import sys
from abc import ABC, abstractmethod
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from cosim.errors import CosimError


class Finding(Exception):
    """An input was accepted, and had an effect that must never occur, such as smuggled text in a deck."""


@dataclass(frozen=True)
class Place:
    """The folders of one worker. Those that are not said to change must not change while an input is tried.

    Attributes:
        root: the folder that holds all others but `originals`.
        originals: valid inputs, made once and shared by all workers.
    """

    root: Path
    originals: Path

    @property
    def inputs(self) -> Path:
        """The folder for the mutated input; emptied before each input."""
        return self.root / "inputs"

    @property
    def outputs(self) -> Path:
        """The folder for outputs; emptied before each input. It may change."""
        return self.root / "outputs"

    @property
    def store(self) -> Path:
        """The store of simulation results ($COSIM_STORE), kept from input to input. It may change."""
        return self.root / "store"

    @property
    def temporary(self) -> Path:
        """The folder for temporary files ($TMPDIR, $HOME); emptied before each input. It may change."""
        return self.root / "temporary"

    @property
    def work(self) -> Path:
        """The working directory, which holds a user's file."""
        return self.root / "work"

    @property
    def canary(self) -> Path:
        """A program that must never be started: a name to smuggle into inputs. It makes a file in `work`."""
        return self.work / "canary"


class Kind(ABC):
    """A kind of input. An input is decided by its number and the seed alone, so that each can be repeated alone."""

    programs: frozenset[str] = frozenset({sys.executable})
    """Names or paths of the programs that may be started."""

    @abstractmethod
    def prepare(self, originals: Path) -> None:
        """Make valid inputs in an empty folder. This is done once, in a separate process."""

    @abstractmethod
    def mutate(self, place: Place, rng: np.random.Generator) -> str:
        """Write one mutated input to `place.inputs`.

        Returns:
            the damage, in a few words.
        """

    @abstractmethod
    def run(self, place: Place) -> None:
        """Give the input to a public command or function.

        Raises:
            CosimError: the input is refused.
            Finding: it is accepted, and has an effect that must never occur.
        """


class _Refused(CosimError):
    """The command line ended with a message."""


def command(*words: object) -> str:
    """Run the command line in this process, as a user would, and return what it printed.

    Raises:
        CosimError: it ended with status 2 or 3 and a message.
        Finding: it ended with another status, or without a message.
    """
    from cosim.cli import main

    told, printed = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", ["cosim", *map(str, words)]), redirect_stdout(printed), redirect_stderr(told):
        try:
            main()
        except SystemExit as end:
            status = end.code
    if status in (2, 3) and told.getvalue().strip():
        raise _Refused(told.getvalue().strip())
    if status not in (0, None):
        raise Finding(f"exit status {status} with the message {told.getvalue()!r:.200}")
    return printed.getvalue()
