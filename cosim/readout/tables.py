"""Pattern tables: what each group's bitlines answer to each pattern, applied to whole images by gathers and sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosim.mapping import Group, TilePlan, pattern_bits
from cosim.network.bit_planes import add_partial_sums
from cosim.readout.adc import Converter


def ideal_sums(group: Group, patterns: np.ndarray) -> np.ndarray:
    """Column sums in unit currents that an ideal array gives: (patterns, bitlines) integers."""
    return pattern_bits(patterns, group.wordlines) @ group.levels.astype(np.int64)


@dataclass(frozen=True, eq=False)
class GroupReads:
    """Every pattern of a group that occurred: how often, and what the circuit and an ideal array answer.

    Attributes:
        patterns: (n,) int64; uses: (n,) reads of it.
        lsb: (n, bitlines) float32 currents in LSB, the last bitline the reference.
        codes: (n, bitlines) int32.
        ideal: (n, bitlines) float32 currents in LSB of an ideal array.
        ideal_codes: (n, bitlines) int32, what the same converter makes of those.
    """

    patterns: np.ndarray
    uses: np.ndarray
    lsb: np.ndarray
    codes: np.ndarray
    ideal: np.ndarray
    ideal_codes: np.ndarray


@dataclass(frozen=True, eq=False)
class Met:
    """The distinct patterns of some reads, by stream: (n,) patterns, and (n,) how often each occurred."""

    patterns: list[np.ndarray]
    counts: list[np.ndarray]


class LayerTable:
    """The pattern table of one layer.

    Patterns are held in slots: with few wordlines the slot is the pattern itself, with many each stream
    keeps a sorted list of those it has met.
    """

    def __init__(self, plan: TilePlan, converter: Converter) -> None:
        self.plan = plan
        self.converter = converter
        self.columns = plan.layer.outputs // plan.layer.groups
        slots = 2 ** max(plan.stream_wordlines()) if plan.enumerated else 0
        self._keys = [np.arange(slots) for _ in range(plan.streams)]
        self._uses = [np.zeros(slots, np.int64) for _ in range(plan.streams)]
        self._known = [np.zeros(slots, bool) for _ in range(plan.streams)]
        # numpy's zeros take no memory until they are written to; torch's do.
        self._partial = torch.from_numpy(np.zeros((plan.streams, slots, self.columns), np.float32))
        self._lsb = [np.zeros((slots, g.levels.shape[1]), np.float32) for g in plan.groups]

    def meet(self, patterns: Tensor) -> Met:
        """The distinct patterns among reads (bits, n, streams, h, w)."""
        streams = self.plan.streams
        if not self.plan.enumerated:
            found = [np.unique(patterns[:, :, stream].numpy(), return_counts=True) for stream in range(streams)]
            return Met([met for met, _ in found], [counts for _, counts in found])
        slots = self._partial.shape[1]
        offsets = torch.arange(streams, dtype=patterns.dtype)[:, None, None] * slots
        counts = (
            torch.bincount((patterns + offsets).flatten(), minlength=streams * slots).reshape(streams, slots).numpy()
        )
        met = [np.flatnonzero(row) for row in counts]
        return Met(met, [row[chosen] for row, chosen in zip(counts, met, strict=True)])

    def missing(self, met: Met) -> list[np.ndarray]:
        """Each stream's patterns among `met` that have no answer yet."""
        if not self.plan.enumerated:
            self._make_room(met.patterns)
        return [
            patterns[~self._known[stream][np.searchsorted(self._keys[stream], patterns)]]
            for stream, patterns in enumerate(met.patterns)
        ]

    def count(self, met: Met) -> None:
        """Add reads to the uses of their patterns."""
        for stream, (patterns, counts) in enumerate(zip(met.patterns, met.counts, strict=True)):
            self._uses[stream][np.searchsorted(self._keys[stream], patterns)] += counts

    def forget_uses(self) -> None:
        """Count uses from nought again; answers stay."""
        for uses in self._uses:
            uses[:] = 0

    def _make_room(self, met: list[np.ndarray]) -> None:
        """Make slots for patterns that streams have not met before, keeping their lists sorted."""
        merged = [np.union1d(old, new) for old, new in zip(self._keys, met, strict=True)]
        room = self._partial.shape[1]
        needed = max(len(keys) for keys in merged)
        if needed > room:  # twice what is needed, so that images to come do not copy everything again
            grown = torch.from_numpy(np.zeros((self.plan.streams, 2 * needed, self.columns), np.float32))
            grown[:, :room] = self._partial
            self._partial = grown
        for stream, (old, keys) in enumerate(zip(self._keys, merged, strict=True)):
            if len(keys) == len(old):
                continue
            moved = np.searchsorted(keys, old)
            self._keys[stream] = keys
            self._uses[stream] = _spread(self._uses[stream], moved, len(keys))
            self._known[stream] = _spread(self._known[stream], moved, len(keys))
            self._partial[stream, torch.from_numpy(moved)] = self._partial[stream, : len(old)].clone()
            for index, group in enumerate(self.plan.groups):
                if group.stream == stream:
                    self._lsb[index] = _spread(self._lsb[index], moved, len(keys))

    def fill(self, index: int, patterns: np.ndarray, currents: np.ndarray) -> None:
        """Enter the bitline currents [A] (patterns, bitlines) of the plan's group `index`."""
        group = self.plan.groups[index]
        keys = self._keys[group.stream]
        slots = np.searchsorted(keys, patterns)
        met = keys[np.minimum(slots, len(keys) - 1)] == patterns  # a deck may read more than was asked for
        slots, lsb = slots[met], self.converter.in_lsb(currents[met]).astype(np.float32)
        self._lsb[index][slots] = lsb
        self._known[group.stream][slots] = True
        first = group.outputs[0] % self.columns
        partial = torch.from_numpy(self._partial_sums(group, self.converter.codes(lsb)))
        self._partial[group.stream, torch.from_numpy(slots), first : first + partial.shape[1]] = partial

    def _partial_sums(self, group: Group, codes: np.ndarray) -> np.ndarray:
        """Codes (patterns, bitlines) as partial sums (patterns, outputs), float32; integers for an ideal array."""
        zero_points = self.plan.layer.zero_point[slice(*group.outputs)].numpy()
        slices = codes[:, :-1].reshape(len(codes), len(zero_points), len(self.plan.places))
        # Multiplied before it is divided, so that an exact reference gives an exact integer.
        reference = codes[:, -1:].astype(np.float64) * zero_points / self.plan.reference_level
        return (slices @ self.plan.places - reference).astype(np.float32)

    def apply(self, patterns: Tensor) -> Tensor:
        """Layer sums (n, outputs, h, w), in float32, of `patterns` (bits, n, streams, h, w).

        Adds partial sums over the chunks of a kernel and, weighted by powers of two, over bit planes.
        """
        chunks, room = self.plan.chunks, self._partial.shape[1]
        results = []
        for conv in range(self.plan.layer.groups):
            streams = range(conv * chunks, (conv + 1) * chunks)
            table = self._partial[streams.start : streams.stop].reshape(chunks * room, self.columns)
            results.append(add_partial_sums(self._slots(patterns, streams), table))
        return torch.cat(results, 1) * self.converter.lsb_units

    def _slots(self, patterns: Tensor, streams: range) -> Tensor:
        """Rows of the flattened table for the patterns of one conv group: (chunks, bits, n, h, w)."""
        room = self._partial.shape[1]
        chosen = patterns[:, :, streams.start : streams.stop].permute(2, 0, 1, 3, 4)
        offsets = torch.arange(len(streams), dtype=patterns.dtype)[:, None, None, None, None] * room
        if self.plan.enumerated:
            return chosen + offsets
        found = [
            torch.searchsorted(torch.from_numpy(self._keys[s]), chosen[i].contiguous()) for i, s in enumerate(streams)
        ]
        return torch.stack(found) + offsets

    def reads(self, index: int) -> GroupReads:
        """What occurred on the plan's group `index`."""
        group = self.plan.groups[index]
        used = self._uses[group.stream] > 0
        patterns, lsb = self._keys[group.stream][used], self._lsb[index][used]
        ideal = (ideal_sums(group, patterns) / self.converter.lsb_units).astype(np.float32)
        return GroupReads(
            patterns,
            self._uses[group.stream][used],
            lsb,
            self.converter.codes(lsb),
            ideal,
            self.converter.codes(ideal),
        )

    def lookup(self, index: int, patterns: np.ndarray) -> np.ndarray:
        """Currents in LSB (patterns, bitlines) that the table holds for answered patterns of group `index`."""
        return self._lsb[index][np.searchsorted(self._keys[self.plan.groups[index].stream], patterns)]


def _spread(values: np.ndarray, places: np.ndarray, length: int) -> np.ndarray:
    """A zero array of `length` rows with `values` at `places`."""
    result = np.zeros((length, *values.shape[1:]), values.dtype)
    result[places] = values
    return result
