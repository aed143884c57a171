"""Requests to a source of currents, and its answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cosim.currents.programming import ProgrammedCell
from cosim.mapping import Group
from cosim.spice import Store, Usage


@dataclass(frozen=True, eq=False)
class ReadRequest:
    """A request for reads of a group, in order.

    Attributes:
        group: the group.
        drive: (reads, inputs) share of its full voltage, 0..1, that each input has in each read.
        cells: (inputs, output lines) threshold shift of each cell [V]; None if it follows from the cell's units.
        careful: whether to follow every edge of an input in time, and keep the waveforms of the first reads.
        comments: explanations for a person who reads the deck.
    """

    group: Group
    drive: np.ndarray
    cells: np.ndarray | None = None
    careful: bool = False
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class GroupCurrents:
    """The answer of a source.

    Attributes:
        currents: (reads, output lines) currents [A].
        unsettled_a: (reads,) how far the current of the least settled line still moved [A]; 0 if the source has no
            time.
        measurements: other measurements, by name. A transient with waveforms gives `wave_time_s` (points,),
            `wave_currents_a` (points, output lines) and `sample_s` (reads,).
    """

    currents: np.ndarray
    unsettled_a: np.ndarray
    measurements: Mapping[str, np.ndarray] = field(default_factory=dict)


class CurrentSource(Protocol):
    """A source of the currents of arrays.

    Attributes:
        identity: names the source and its version, such as "ngspice-39"; part of the identity of stored results.
        cell: the cell that groups are programmed with, or None if cells are ideal.
        usage: counters of what was simulated so far, which `Usage.take` resets.
        store: where results are kept, or None if they are not.
    """

    identity: str
    cell: ProgrammedCell | None

    @property
    def usage(self) -> Usage: ...

    @property
    def store(self) -> Store | None: ...

    def batches(self, needed: np.ndarray, inputs: int) -> list[np.ndarray]:
        """Divide the needed patterns into requests. These may include further patterns that cost nothing extra.

        Args:
            needed: distinct numbers of reads (`cosim.mapping.ReadScheme`).
            inputs: number of inputs of the group.

        Returns:
            the numbers of the reads to ask for in each request.
        """
        ...

    def currents(self, requests: Sequence[ReadRequest], title: str) -> Iterator[GroupCurrents]:
        """The answers, in the order of the requests.

        Args:
            requests: the requests.
            title: shown while the source works on them.
        """
        ...
