"""Pattern tables: what each group's bitlines answer to each pattern, applied to whole images by gathers and sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cosim.mapping import Group, TilePlan
from cosim.mapping.patterns import ENUMERATED_WORDLINES
from cosim.readout.adc import Converter


def pattern_bits(patterns: np.ndarray, wordlines: int) -> np.ndarray:
    """State of each wordline: (patterns, wordlines) of 0 and 1."""
    return (patterns[:, None] >> np.arange(wordlines)) & 1


def ideal_sums(group: Group, patterns: np.ndarray) -> np.ndarray:
    """Column sums in unit currents that an ideal array gives: (patterns, bitlines) integers."""
    return pattern_bits(patterns, group.wordlines) @ group.levels.astype(np.int64)


@dataclass(frozen=True, eq=False)
class GroupReads:
    """Every pattern of a group that occurred: how often, and what the circuit and an ideal array answer.

    Attributes:
        patterns: (n,) int64; uses: (n,) reads of it.
        lsb: (n, bitlines) float32 currents in LSB, the last bitline the reference.
        codes: (n, bitlines) int32; ideal: (n, bitlines) float32 ideal currents in LSB.
    """

    patterns: np.ndarray
    uses: np.ndarray
    lsb: np.ndarray
    codes: np.ndarray
    ideal: np.ndarray


class LayerTable:
    """The pattern table of one layer.

    Patterns are held in slots: with few wordlines the slot is the pattern itself, with many each stream
    keeps a sorted list of those it has met.
    """

    def __init__(self, plan: TilePlan, converter: Converter) -> None:
        self.plan = plan
        self.converter = converter
        self.columns = plan.layer.outputs // plan.layer.groups
        wordlines = max(plan.stream_wordlines())
        self.enumerated = wordlines <= ENUMERATED_WORDLINES
        slots = 2**wordlines if self.enumerated else 0
        self._keys = [np.arange(slots) for _ in range(plan.streams)]
        self.uses = [np.zeros(slots, np.int64) for _ in range(plan.streams)]
        self._known = [np.zeros(slots, bool) for _ in range(plan.streams)]
        self._partial = torch.zeros(plan.streams, slots, self.columns)
        self._lsb = [np.zeros((slots, g.levels.shape[1]), np.float32) for g in plan.groups]

    def meet(self, patterns: Tensor) -> list[np.ndarray]:
        """Count the reads of `patterns` (bits, n, streams, h, w); returns each stream's patterns without an answer."""
        streams = self.plan.streams
        if self.enumerated:
            slots = self._partial.shape[1]
            offsets = torch.arange(streams, dtype=patterns.dtype)[:, None, None] * slots
            counts = torch.bincount((patterns + offsets).flatten(), minlength=streams * slots)
            for stream, met in enumerate(counts.reshape(streams, slots).numpy()):
                self.uses[stream] += met
        else:
            for stream in range(streams):
                met, counted = np.unique(patterns[:, :, stream].numpy(), return_counts=True)
                self._grow(stream, met)
                self.uses[stream][np.searchsorted(self._keys[stream], met)] += counted
        return [keys[(uses > 0) & ~known] for keys, uses, known in zip(self._keys, self.uses, self._known, strict=True)]

    def _grow(self, stream: int, met: np.ndarray) -> None:
        """Make slots for patterns a stream has not met before, keeping its list sorted."""
        old = self._keys[stream]
        keys = np.union1d(old, met)
        if len(keys) == len(old):
            return
        moved = np.searchsorted(keys, old)
        self._keys[stream] = keys
        self.uses[stream] = _spread(self.uses[stream], moved, len(keys))
        self._known[stream] = _spread(self._known[stream], moved, len(keys))
        for index, group in enumerate(self.plan.groups):
            if group.stream == stream:
                self._lsb[index] = _spread(self._lsb[index], moved, len(keys))
        room = max(len(k) for k in self._keys)
        partial = torch.zeros(self.plan.streams, room, self.columns)
        partial[:, : self._partial.shape[1]] = self._partial
        partial[stream] = 0
        partial[stream, torch.from_numpy(moved)] = self._partial[stream, : len(old)]
        self._partial = partial

    def fill(self, index: int, patterns: np.ndarray, currents: np.ndarray) -> None:
        """Enter the bitline currents [A] (patterns, bitlines) of the plan's group `index`."""
        group = self.plan.groups[index]
        lsb = self.converter.in_lsb(currents).astype(np.float32)
        codes = self.converter.codes(lsb)
        if not self.enumerated:
            self._grow(group.stream, patterns)
        slots = np.searchsorted(self._keys[group.stream], patterns)
        self._lsb[index][slots] = lsb
        self._known[group.stream][slots] = True
        first = group.outputs[0] % self.columns
        partial = torch.from_numpy(self._partial_sums(group, codes))
        self._partial[group.stream, torch.from_numpy(slots), first : first + partial.shape[1]] = partial

    def _partial_sums(self, group: Group, codes: np.ndarray) -> np.ndarray:
        """Codes (patterns, bitlines) as partial sums (patterns, outputs), float32; integers for an ideal array."""
        slices = codes[:, :-1].reshape(len(codes), -1, len(self.plan.places))
        zero_points = self.plan.layer.zero_point[slice(*group.outputs)].numpy()
        # Multiplied before it is divided, so that an exact reference gives an exact integer.
        reference = codes[:, -1:].astype(np.float64) * zero_points / self.plan.reference_level
        return (slices @ self.plan.places - reference).astype(np.float32)

    def apply(self, patterns: Tensor) -> Tensor:
        """Layer sums (n, outputs, h, w), in float32, of `patterns` (bits, n, streams, h, w).

        Adds partial sums over the chunks of a kernel and, weighted by powers of two, over bit planes.
        """
        bits, n, _, height, width = patterns.shape
        chunks, room = self.plan.chunks, self._partial.shape[1]
        weights = torch.pow(2.0, torch.arange(bits)).repeat(chunks)
        results = []
        for conv in range(self.plan.layer.groups):
            streams = range(conv * chunks, (conv + 1) * chunks)
            slots = self._slots(patterns, streams)  # chunks, bits, n, h, w
            bags = slots.permute(2, 3, 4, 0, 1).reshape(n * height * width, chunks * bits)
            table = self._partial[streams.start : streams.stop].reshape(chunks * room, self.columns)
            summed = F.embedding_bag(bags, table, mode="sum", per_sample_weights=weights.expand(bags.shape))
            results.append(summed.reshape(n, height, width, self.columns).permute(0, 3, 1, 2))
        return torch.cat(results, 1) * self.converter.lsb_units

    def _slots(self, patterns: Tensor, streams: range) -> Tensor:
        """Rows of the flattened table for the patterns of one conv group: (chunks, bits, n, h, w)."""
        room = self._partial.shape[1]
        chosen = patterns[:, :, streams.start : streams.stop].permute(2, 0, 1, 3, 4)
        offsets = torch.arange(len(streams), dtype=patterns.dtype)[:, None, None, None, None] * room
        if self.enumerated:
            return chosen + offsets
        found = [
            torch.searchsorted(torch.from_numpy(self._keys[s]), chosen[i].contiguous()) for i, s in enumerate(streams)
        ]
        return torch.stack(found) + offsets

    def reads(self, index: int) -> GroupReads:
        """What occurred on the plan's group `index`."""
        group = self.plan.groups[index]
        used = self.uses[group.stream] > 0
        patterns, lsb = self._keys[group.stream][used], self._lsb[index][used]
        ideal = (ideal_sums(group, patterns) / self.converter.lsb_units).astype(np.float32)
        return GroupReads(patterns, self.uses[group.stream][used], lsb, self.converter.codes(lsb), ideal)

    def lookup(self, index: int, patterns: np.ndarray) -> np.ndarray:
        """Currents in LSB (patterns, bitlines) that the table holds for group `index`."""
        return self._lsb[index][np.searchsorted(self._keys[self.plan.groups[index].stream], patterns)]


def _spread(values: np.ndarray, places: np.ndarray, length: int) -> np.ndarray:
    """A zero array of `length` rows with `values` at `places`."""
    result = np.zeros((length, *values.shape[1:]), values.dtype)
    result[places] = values
    return result
