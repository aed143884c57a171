"""What is asked of a source of currents, and what it answers."""

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
    """Reads of a group, in their order.

    Attributes:
        group: which.
        drive: (reads, inputs) what share of its full voltage each input has in a read, 0..1.
        cells: (inputs, output lines) threshold shift of each cell [V]; None for those of the units it holds.
        careful: every edge of an input is followed in time, and the waveforms of the first reads are kept.
        comments: what a person should know who looks at the deck.
    """

    group: Group
    drive: np.ndarray
    cells: np.ndarray | None = None
    careful: bool = False
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class GroupCurrents:
    """What a source answers.

    Attributes:
        currents: (reads, output lines) [A].
        unsettled_a: (reads,) how far the least settled line's current still moved [A]; 0 from a source without time.
        measurements: what else was found, by name. A transient with waveforms gives `wave_time_s` (points,),
            `wave_currents_a` (points, output lines) and `sample_s` (reads,).
    """

    currents: np.ndarray
    unsettled_a: np.ndarray
    measurements: Mapping[str, np.ndarray] = field(default_factory=dict)


class CurrentSource(Protocol):
    """Where the currents of arrays come from.

    Attributes:
        identity: of the source and its version, as "ngspice-39"; part of every stored result's identity.
        cell: the cell that groups are programmed with, None where cells are ideal.
        usage: what was simulated so far, a counter that its holder may take.
        store: where results are kept, None where nothing is.
    """

    identity: str
    cell: ProgrammedCell | None

    @property
    def usage(self) -> Usage: ...

    @property
    def store(self) -> Store | None: ...

    def batches(self, needed: np.ndarray, inputs: int) -> list[np.ndarray]:
        """The patterns to ask for where some are needed, a request each: those, and what comes along at no cost.

        Args:
            needed: distinct numbers of reads (`cosim.mapping.ReadScheme`); inputs: of the group.
        """
        ...

    def currents(self, requests: Sequence[ReadRequest], title: str) -> Iterator[GroupCurrents]:
        """The answers, in the order of the requests.

        Args:
            title: what they are for, shown while they are worked on.
        """
        ...
