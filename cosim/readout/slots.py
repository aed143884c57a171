"""Slots: where the reads of a layer lie in its tables.

Each stream of patterns has slots of its own. With few inputs, every pattern has a slot from the beginning, which is the
pattern's number. With many inputs, a pattern gets the next free slot of its stream when it first occurs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosim.arithmetic.patterns import NUMBERED_BITS
from cosim.errors import ConfigError, NetworkError
from cosim.mapping import ReadScheme, TilePlan

# Rows of a layer's tables are numbered in 32 bits.
_MOST_ROWS = 1 << 31


@dataclass(frozen=True, eq=False)
class Met:
    """The reads that some images cause.

    Attributes:
        rows: (n, out height, out width, streams, planes) int32, the table row of each read: stream * room + slot.
        counts: (streams, room) how many of the reads lie in each slot.
    """

    rows: Tensor
    counts: np.ndarray


class Slots:
    """The slots of a layer's streams.

    Args:
        plan: the tiles and groups of the layer.
        scheme: how the layer is read.

    Attributes:
        listed: whether every pattern has a slot from the beginning.
        room: number of slots of each stream; it grows unless the patterns are listed.
        uses: (streams, room) how often each slot was read.
        known: (streams, room) whether each slot has an answer.

    Raises:
        ConfigError: reads by amplitude open too many inputs for an integer to number the patterns.
        NetworkError: images cause more different reads than tables can number.
    """

    def __init__(self, plan: TilePlan, scheme: ReadScheme) -> None:
        self.plan, self.scheme = plan, scheme
        self.listed = scheme.listed
        if scheme.nested and scheme.inputs + scheme.bits > NUMBERED_BITS:
            most = NUMBERED_BITS - scheme.bits
            raise ConfigError(
                f'read.mode = "amplitude" numbers its reads, expected at most {most} inputs of {scheme.bits} bits in '
                f"one, found array.open_wordlines = {scheme.inputs}: open at most {most}, "
                'or set read.mixed = "direct"'
            )
        self.room = scheme.amplitudes << scheme.inputs if self.listed else 0
        self.uses = np.zeros((plan.streams, self.room), np.int64)
        self.known = np.zeros((plan.streams, self.room), bool)
        self._inputs = plan.stream_inputs()
        # Used if slots are not listed: numbers in the order of slots; the same sorted, each with its slot; and states.
        self._numbers = [np.zeros(0, np.int64) for _ in range(plan.streams)]
        self._sorted = [(np.zeros(0, np.int64), np.zeros(0, np.int64)) for _ in range(plan.streams)]
        self._states = [np.zeros((0, inputs), np.uint8) for inputs in self._inputs]

    def meet(self, reads: Tensor, activations: Tensor) -> Met:
        """Find the rows and counts of reads, and give slots to reads that have none yet.

        Args:
            reads: (n, out height, out width, streams, planes).
            activations: the activations that caused them.
        """
        if not self.listed:
            self._learn(reads, activations)
        rows = self.rows(reads)
        size = self.plan.streams * self.room
        counts = torch.bincount(rows.flatten(), minlength=size).numpy().reshape(-1, self.room)
        if self.scheme.nested:  # each conversion reads without any input once; other uses cancel
            for stream, row in enumerate(counts):
                row[self.slot(stream, np.zeros(1, np.int64))] = reads[..., 0, 0].numel()
        return Met(rows, counts)

    def rows(self, reads: Tensor) -> Tensor:
        """The rows, stream * room + slot, int32, of reads that have slots."""
        planes = reads.shape[-1]
        starts = self.room * torch.arange(self.plan.streams, dtype=torch.int32)
        if self.listed:  # flattened, so that each addition covers many elements
            rows = reads.flatten(3).to(torch.int32, copy=True).add_(starts.repeat_interleave(planes))
            return rows.view(reads.shape)
        found = [
            torch.from_numpy(self.slot(stream, reads[..., stream, :].numpy()).astype(np.int32))
            for stream in range(self.plan.streams)
        ]
        return torch.stack(found, -2) + starts[:, None]

    def slot(self, stream: int, numbers: np.ndarray) -> np.ndarray:
        """Slots of a stream's reads (...).

        Raises:
            RuntimeError: a read has no slot.
        """
        if self.listed:
            return numbers
        known, slots = self._sorted[stream]
        places = np.minimum(np.searchsorted(known, numbers), max(len(known) - 1, 0))
        if not len(known) or not (known[places] == numbers).all():
            raise RuntimeError("reads that were not met: run the circuit on these activations first")
        return slots[places]

    def used(self, stream: int) -> np.ndarray:
        """The slots of a stream that were read at least once."""
        return np.flatnonzero(self.uses[stream])

    def numbers(self, stream: int, slots: np.ndarray) -> np.ndarray:
        """Numbers of the reads that lie in the given slots, as `ReadScheme` numbers them."""
        return slots if self.listed else self._numbers[stream][slots]

    def drive(self, stream: int, slots: np.ndarray) -> np.ndarray:
        """Share of its full voltage, 0..1, that each input has in the reads of the given slots: (slots, inputs)."""
        if self.listed or self.scheme.nested:
            return self.scheme.drive(self.numbers(stream, slots), self._inputs[stream])
        return self.scheme.shares(self._states[stream][slots].astype(np.int64))

    def drives(self, stream: int) -> np.ndarray:
        """Shares as `drive` gives them, of every slot of a stream: (slots, inputs) float32."""
        slots = np.arange(self.room if self.listed else len(self._numbers[stream]))
        return self.drive(stream, slots).astype(np.float32)

    def _learn(self, reads: Tensor, activations: Tensor) -> None:
        """Give slots to reads that have none."""
        n, height, width, _, planes = reads.shape
        for stream, inputs in enumerate(self._inputs):
            mine = reads[..., stream, :].numpy().astype(np.int64)
            numbers, first = np.unique(mine, return_index=True)
            new = ~np.isin(numbers, self._sorted[stream][0])
            numbers, first = numbers[new], first[new]
            if self.scheme.direct or self.scheme.inputs > NUMBERED_BITS:
                places = np.stack(np.unravel_index(first, (n, height, width, planes)), axis=1)
                states = self.scheme.states_at(self.plan, activations, stream, torch.from_numpy(places)).numpy()
            else:
                states = ((numbers[:, None] >> np.arange(inputs)) & 1).astype(np.uint8)
            self._numbers[stream] = np.concatenate([self._numbers[stream], numbers])
            self._states[stream] = np.concatenate([self._states[stream], states])
            order = np.argsort(self._numbers[stream])
            self._sorted[stream] = self._numbers[stream][order], order
        needed = max(map(len, self._numbers))
        if needed > self.room:  # twice the need, so that the next images do not copy everything again
            if 2 * needed * self.plan.streams >= _MOST_ROWS:
                most = _MOST_ROWS // (2 * self.plan.streams)
                raise NetworkError(
                    f"layer {self.plan.layer.name!r}: images cause {needed:,} different reads of a group of "
                    f"{self.scheme.inputs} inputs, expected fewer than {most:,}, as many as tables can number: "
                    "classify fewer images at a time, or lower array.open_wordlines"
                )
            grown = ((0, 0), (0, 2 * needed - self.room))
            self.uses, self.known = np.pad(self.uses, grown), np.pad(self.known, grown)
            self.room = 2 * needed
