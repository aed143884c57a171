"""Asks a source for reads of one layer's groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cosim.config import Config
from cosim.currents import CurrentSource, GroupCurrents, ReadRequest
from cosim.evaluate.stopwatch import Stopwatch
from cosim.mapping import Group, ReadScheme, TilePlan


@dataclass(frozen=True, eq=False)
class LayerReader:
    """Reads a layer's arrays through a source.

    Attributes:
        config: the configuration.
        network: the network's name, for comments in decks.
        number: number of the layer in its network.
        plan: the tiles and groups of the layer.
        scheme: how the layer is read.
        source: the source of the currents.
        stopwatch: measures how long the source takes.
    """

    config: Config
    network: str
    number: int
    plan: TilePlan
    scheme: ReadScheme
    source: CurrentSource
    stopwatch: Stopwatch

    def listed(self, needed: list[np.ndarray], title: str) -> Iterator[tuple[int, np.ndarray, GroupCurrents]]:
        """Yield group, reads and currents, for the needed reads of each group or more. Patterns must be listed."""
        groups = self.plan.groups
        wanted = [
            (index, reads)
            for index, few in enumerate(needed)
            for reads in self.source.batches(few, groups[index].inputs)
        ]
        # Groups with the same reads share one array of drives.
        drives: dict[tuple[int, bytes], np.ndarray] = {}
        for index, reads in wanted:
            inputs = groups[index].inputs
            if (inputs, reads.tobytes()) not in drives:
                drives[inputs, reads.tobytes()] = self.scheme.drive(reads, inputs)
        return self.driven(wanted, [drives[groups[index].inputs, reads.tobytes()] for index, reads in wanted], title)

    def driven(
        self, wanted: list[tuple[int, np.ndarray]], drives: list[np.ndarray], title: str
    ) -> Iterator[tuple[int, np.ndarray, GroupCurrents]]:
        """Ask the source for the given drives. Yields each group, its entry in `wanted`, and its currents."""
        with self.stopwatch("currents"):
            requests = [self.request(index, drive) for (index, _), drive in zip(wanted, drives, strict=True)]
            answers = self.source.currents(requests, title)
        for index, named in wanted:
            with self.stopwatch("currents"):
                found = next(answers)
            yield index, named, found

    def every_request(self) -> Iterator[tuple[int, ReadRequest]]:
        """Yield requests that together answer every pattern of every group, each after its group's number."""
        for index, group in enumerate(self.plan.groups):
            for amplitude in range(self.scheme.amplitudes):
                every = np.arange(2**group.inputs) + (amplitude << self.scheme.inputs)
                for patterns in self.source.batches(every, group.inputs):
                    yield index, self.request(index, self.scheme.drive(patterns, group.inputs))

    def request(self, index: int, drive: np.ndarray, *, careful: bool = False) -> ReadRequest:
        """Make the request to the source for reads of group `index`.

        Args:
            index: number of the group in the plan.
            drive: (reads, inputs) share of its full voltage that each input has, as `ReadScheme.drive` gives it.
            careful: whether to follow every edge, as audits and certificates do.
        """
        group = self.plan.groups[index]
        first, last = group.outputs
        comments = (
            f"network {self.network}, layer {self.plan.layer.name}, tile {group.tile}, group {index}",
            f"weights: outputs {first}..{last - 1}, rows {group.rows[0]}..{group.rows[1] - 1} of the unrolled kernel "
            "(input channel, row, column)",
            self._encoding(),
        )
        return replace(self.request_of(group, drive, self.number), careful=careful, comments=comments)

    def request_of(self, group: Group, drive: np.ndarray, number: int) -> ReadRequest:
        """Make the request for reads of any group, whose cells are drawn as those of layer `number`."""
        cell = self.source.cell
        return ReadRequest(group, drive, cell.cell_shifts(number, group) if cell is not None else None)

    def _encoding(self) -> str:
        """A description of the layout of weights on bitlines."""
        line = "wordline" if self.scheme.mode == "amplitude" else "bitline"
        places = f"a weight takes {len(self.plan.places)} {line}(s), most significant first"
        if self.plan.reference_units is None:
            return f"{places}, each slice a pair for positive and negative weights"
        return f"the last {line} is the reference column, of level {self.plan.reference_units}; {places}"
