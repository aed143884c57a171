"""Pattern tables: what each group's bitlines answer to each pattern, applied to whole images by gathers and sums."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cosim.arithmetic.codes import less_reference
from cosim.arithmetic.partial_sums import add_partial_sums
from cosim.arithmetic.planes import plane_counts
from cosim.mapping import Group, ReadScheme, TilePlan, input_states
from cosim.readout.adc import Converter
from cosim.readout.noise import ReadNoise

# Numbers that noise is added to at a time: what is made of them stays in cached memory.
_NOISY_BLOCK = 1 << 18


def ideal_sums(group: Group, patterns: np.ndarray) -> np.ndarray:
    """Column sums in unit currents that an ideal array gives: (n, bitlines), integers if inputs are 0 or 1.

    Args:
        patterns: (n,) integers, or (n, wordlines) shares, as `input_states` takes them.
    """
    return input_states(patterns, group.inputs) @ group.units.astype(np.int64)


@dataclass(frozen=True, eq=False)
class GroupReads:
    """Every pattern of a group that occurred: how often, and what the circuit and an ideal array answer.

    Attributes:
        patterns: (n,) int64, reads as `ReadScheme` numbers them; uses: (n,) reads of it, pulses that hold it, or
            conversions of several amplitudes that are put together of it.
        lsb: (n, bitlines) float32 positions in codes, unrounded and without noise; where a conversion adds the charge
            of pulses, as if all of them held the pattern.
        codes: (n, bitlines) int32.
        ideal: (n, bitlines) float32 positions of an ideal array's currents at converters without errors.
        ideal_codes: (n, bitlines) int32 of those.
    """

    patterns: np.ndarray
    uses: np.ndarray
    lsb: np.ndarray
    codes: np.ndarray
    ideal: np.ndarray
    ideal_codes: np.ndarray

    def clipped(self, lsb: np.ndarray, highest: int | None) -> np.ndarray:
        """Which of the positions (n, bitlines) lose a code at an end of the converter's range, bool.

        A current below nothing that ought to be nothing loses none.
        """
        below = (np.rint(lsb) < 0) & (self.ideal_codes > 0)
        return below if highest is None else below | (np.rint(lsb) > highest)


@dataclass(frozen=True, eq=False)
class Met:
    """The distinct patterns of some reads, by stream: (n,) patterns, and (n,) how often each occurred."""

    patterns: list[np.ndarray]
    counts: list[np.ndarray]


class LayerTable:
    """The pattern table of one layer.

    Patterns are held in slots: with few wordlines the slot is the pattern itself, with many each stream
    keeps a sorted list of those it has met.

    Args:
        plan: of the layer.
        scheme: how it is read.
        converters: of its tiles.
        noise: what is added to every read, None for nothing.
    """

    def __init__(
        self, plan: TilePlan, scheme: ReadScheme, converters: Sequence[Converter], noise: ReadNoise | None = None
    ) -> None:
        self.plan = plan
        self.scheme = scheme
        self.converters = converters
        self.noise = noise
        self.columns = plan.layer.outputs // plan.layer.groups
        slots = scheme.amplitudes << scheme.inputs if plan.enumerated else 0
        self._keys = [np.arange(slots) for _ in range(plan.streams)]
        self._uses = [np.zeros(slots, np.int64) for _ in range(plan.streams)]
        self._known = [np.zeros(slots, bool) for _ in range(plan.streams)]
        # numpy's zeros take no memory until they are written to; torch's do.
        self._partial = torch.from_numpy(np.zeros((plan.streams, slots, self.columns), np.float32))
        self._lsb = [np.zeros((slots, g.units.shape[1]), np.float32) for g in plan.groups]

    def converter(self, index: int) -> Converter:
        """The converters that read the plan's group `index`."""
        return self.converters[self.plan.groups[index].tile]

    def meet(self, patterns: Tensor) -> Met:
        """The distinct patterns among reads (planes, n, streams, h, w)."""
        streams = self.plan.streams
        if not self.plan.enumerated:
            found = [np.unique(patterns[:, :, stream].numpy(), return_counts=True) for stream in range(streams)]
            return self._met([met for met, _ in found], [counts for _, counts in found], patterns)
        slots = self._partial.shape[1]
        offsets = torch.arange(streams, dtype=patterns.dtype)[:, None, None] * slots
        counts = (
            torch.bincount((patterns + offsets).flatten(), minlength=streams * slots).reshape(streams, slots).numpy()
        )
        met = [np.flatnonzero(row) for row in counts]
        return self._met(met, [row[chosen] for row, chosen in zip(counts, met, strict=True)], patterns)

    def _met(self, met: list[np.ndarray], counts: list[np.ndarray], patterns: Tensor) -> Met:
        if self.scheme.mode == "amplitude":  # each conversion takes the read of no input once; other uses cancel
            for row in counts:
                row[0] = patterns[0, :, 0].numel()
        return Met(met, counts)

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
        group, converter = self.plan.groups[index], self.converter(index)
        keys = self._keys[group.stream]
        slots = np.searchsorted(keys, patterns)
        met = keys[np.minimum(slots, len(keys) - 1)] == patterns  # a deck may read more than was asked for
        slots, lsb = slots[met], converter.in_lsb(currents[met]).astype(np.float32)
        self._lsb[index][slots] = lsb
        self._known[group.stream][slots] = True
        first = group.outputs[0] % self.columns
        partial = torch.from_numpy(self.partial_sums(group, converter.quantized(lsb) * converter.lsb_units))
        self._partial[group.stream, torch.from_numpy(slots), first : first + partial.shape[1]] = partial

    def partial_sums(self, group: Group, units: np.ndarray) -> np.ndarray:
        """Codes in unit currents (n, bitlines) as partial sums (n, outputs), float32; integers for an ideal array."""
        outputs, places = group.outputs[1] - group.outputs[0], self.plan.places
        sums = units[:, : outputs * len(places)].reshape(len(units), outputs, len(places)) @ places
        if self.plan.reference_units is not None:
            zeros = self.plan.zero_units[slice(*group.outputs)]
            sums = less_reference(sums, units[:, -1:].astype(np.float64), zeros, self.plan.reference_units)
        return sums.astype(np.float32)

    def apply(self, patterns: Tensor) -> Tensor:
        """Layer sums (n, outputs, h, w), in float32, of `patterns` (planes, n, streams, h, w).

        Adds partial sums over the chunks of a kernel and, weighted by powers of two, over bit planes; or, where a
        conversion holds several planes, the positions, weighted by the scheme, before they are converted.
        """
        if self.scheme.weights is not None:
            return self._apply_weighted(patterns, torch.from_numpy(self.scheme.weights))
        if self.noise is not None:
            return self._apply_with_noise(patterns, self.noise)
        chunks, room = self.plan.chunks, self._partial.shape[1]
        results = []
        for conv in range(self.plan.layer.groups):
            streams = range(conv * chunks, (conv + 1) * chunks)
            table = self._partial[streams.start : streams.stop].reshape(chunks * room, self.columns)
            results.append(add_partial_sums(self._slots(patterns, streams), table))
        return torch.cat(results, 1)

    def _apply_with_noise(self, patterns: Tensor, noise: ReadNoise) -> Tensor:
        """The same with noise of its own on every read, added before the converter rounds.

        The sum over bit planes is taken of codes, since partial sums are linear in them.
        """
        bits, n, _, height, width = patterns.shape
        reads, outputs = bits * height * width, self.plan.layer.outputs
        weights = plane_counts(bits).numpy()
        widest = max(group.units.shape[1] for group in self.plan.groups)
        step = max(1, _NOISY_BLOCK // (reads * widest))
        sums, sigmas = np.zeros((n, height * width, outputs), np.float32), self._sigmas(noise)
        for first in range(0, n, step):
            images = patterns[:, first : first + step]
            for index, codes in self._noisy_codes(images, noise, sigmas):
                group, converter = self.plan.groups[index], self.converter(index)
                summed = np.matmul(weights, codes.reshape(len(codes), bits, -1)).reshape(-1, codes.shape[2])
                partial = self.partial_sums(group, summed * converter.lsb_units)
                sums[first : first + step, :, slice(*group.outputs)] += partial.reshape(len(codes), height * width, -1)
        return torch.from_numpy(sums).permute(0, 2, 1).reshape(n, outputs, height, width).contiguous()

    def codes(self, patterns: Tensor) -> Iterator[tuple[int, np.ndarray]]:
        """Group index and its codes (n, conversions, h, w, bitlines) for reads (planes, n, streams, h, w), noise
        included."""
        _, n, _, height, width = patterns.shape
        if self.scheme.weights is not None:
            found = self._weighted_codes(patterns, torch.from_numpy(self.scheme.weights))
        elif self.noise is not None:
            found = self._noisy_codes(patterns, self.noise, self._sigmas(self.noise))
        else:
            by_image = _by_image(patterns)
            found = (
                (index, self.converter(index).quantized(self.lookup(index, by_image[:, group.stream])))
                for index, group in enumerate(self.plan.groups)
            )
        for index, codes in found:
            yield index, codes.reshape(n, -1, height, width, codes.shape[-1])

    def _sigmas(self, noise: ReadNoise) -> list[np.ndarray]:
        """Of the normal part of the noise of every pattern and bitline of each group [LSB]; empty if all are alike."""
        per_units = [c.gain / c.lsb_units for c in map(self.converter, range(len(self.plan.groups)))]
        return [
            np.sqrt(noise.normal_variance(index, self._keys[group.stream], per_units[index])).astype(np.float32)
            for index, group in enumerate(self.plan.groups)
            if noise.per_cell
        ]

    def _noisy_codes(
        self, patterns: Tensor, noise: ReadNoise, sigmas: list[np.ndarray]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Group index and its codes (n, bits * h * w, bitlines), as floats, with noise of its own on every read."""
        images = _by_image(patterns)
        generators = [noise.generator(image) for image in images]
        for index, group in enumerate(self.plan.groups):
            converter, met = self.converter(index), images[:, group.stream]
            per_unit = converter.gain / converter.lsb_units
            rows = met if self.plan.enumerated else np.searchsorted(self._keys[group.stream], met)
            lsb, sigma = self._lsb[index][rows], sigmas[index][rows] if sigmas else noise.input_lsb
            noise.add(index, lsb, sigma, met, per_unit, generators)
            yield index, converter.quantized(lsb)

    def _apply_weighted(self, patterns: Tensor, weights: Tensor) -> Tensor:
        """The same for planes that are converted together."""
        _, n, _, height, width = patterns.shape
        outputs = self.plan.layer.outputs
        sums = np.zeros((n, height * width, outputs), np.float32)
        for index, codes in self._weighted_codes(patterns, weights):
            group = self.plan.groups[index]
            units = (codes * self.converter(index).lsb_units).reshape(n * height * width, -1)
            sums[:, :, slice(*group.outputs)] += self.partial_sums(group, units).reshape(n, height * width, -1)
        return torch.from_numpy(sums).permute(0, 2, 1).reshape(n, outputs, height, width).contiguous()

    def _weighted_codes(self, patterns: Tensor, weights: Tensor) -> Iterator[tuple[int, np.ndarray]]:
        """Group index and its codes (n, h * w, bitlines), as floats, of planes that are converted together.

        Their position is the sum of the planes', weighted: the mean of pulses is the position of their charge.
        """
        planes, n, _, height, width = patterns.shape
        by_image = _by_image(patterns)
        generators = [self.noise.generator(image) for image in by_image] if self.noise is not None else []
        for index, group in enumerate(self.plan.groups):
            converter = self.converter(index)
            rows = self._slots(patterns, range(group.stream, group.stream + 1))[0]
            bags = rows.permute(1, 2, 3, 0).reshape(-1, planes)
            # Sums of many planes are exact in float64 only.
            table = torch.from_numpy(self._lsb[index].astype(np.float64))
            total = F.embedding_bag(bags, table, mode="sum", per_sample_weights=weights.expand(bags.shape))
            lsb = total.to(torch.float32).numpy().reshape(n, height * width, -1)
            if self.noise is not None:
                per_unit = converter.gain / converter.lsb_units
                self.noise.add(index, lsb, self.noise.input_lsb, by_image[:, group.stream], per_unit, generators)
            yield index, converter.quantized(lsb)

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

    def occurred(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(n,) distinct reads that occurred on the plan's group `index`, and (n,) how often."""
        stream = self.plan.groups[index].stream
        used = self._uses[stream] > 0
        return self._keys[stream][used], self._uses[stream][used]

    def reads(self, index: int) -> GroupReads:
        """What occurred on the plan's group `index`."""
        patterns, uses = self.occurred(index)
        lsb, converter = self.lookup(index, patterns), self.converter(index)
        ideal = converter.ideal_lsb(self.ideal_sums(index, patterns)).astype(np.float32)
        return GroupReads(
            patterns,
            uses,
            lsb,
            converter.codes(lsb),
            ideal,
            replace(converter, weights=None).codes(ideal),
        )

    def ideal_sums(self, index: int, reads: np.ndarray) -> np.ndarray:
        """What an ideal array gives in reads of the plan's group `index`: (reads, bitlines) in unit currents."""
        group = self.plan.groups[index]
        return ideal_sums(group, self.scheme.drive(reads, group.inputs))

    def noise_lsb(self) -> float:
        """Root mean square of the noise at the converters' inputs over all reads [LSB]."""
        if self.noise is None:
            return 0.0
        total = conversions = 0.0
        for index, group in enumerate(self.plan.groups):
            converter, uses = self.converter(index), self._uses[group.stream]
            used = uses > 0
            per_unit = converter.gain / converter.lsb_units
            variance = self.noise.variance(index, self._keys[group.stream][used], per_unit)
            total += float(uses[used] @ variance.sum(axis=1))
            conversions += float(uses.sum()) * variance.shape[1]
        return math.sqrt(total / max(conversions, 1))

    def lookup(self, index: int, patterns: np.ndarray) -> np.ndarray:
        """Positions in LSB (..., bitlines) that the table holds for answered patterns (...) of group `index`."""
        return self._lsb[index][np.searchsorted(self._keys[self.plan.groups[index].stream], patterns)]


def _by_image(patterns: Tensor) -> np.ndarray:
    """Reads (bits, n, streams, h, w) as (n, streams, bits * h * w)."""
    bits, n, streams, height, width = patterns.shape
    return patterns.permute(1, 2, 0, 3, 4).reshape(n, streams, bits * height * width).numpy()


def _spread(values: np.ndarray, places: np.ndarray, length: int) -> np.ndarray:
    """A zero array of `length` rows with `values` at `places`."""
    result = np.zeros((length, *values.shape[1:]), values.dtype)
    result[places] = values
    return result
