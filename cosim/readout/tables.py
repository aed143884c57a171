"""Pattern tables: they hold the answer of each group's lines to each read.

A layer's sums for whole images are computed by looking up answers and adding them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cosim.arithmetic.codes import less_reference
from cosim.arithmetic.patterns import plane_counts
from cosim.mapping import Group, ReadScheme, TilePlan
from cosim.readout.adc import Converter
from cosim.readout.noise import ReadNoise
from cosim.readout.slots import Met, Slots
from cosim.readout.sum_noise import SumNoise

# How many numbers noise is added to at a time. Intermediate results of this size stay in cached memory.
_NOISY_BLOCK = 1 << 18
# Bytes of the tables that are summed over together. Tables of this size stay in the processor's cache.
_TABLE_BYTES = 4 << 20


def ideal_sums(group: Group, drive: np.ndarray) -> np.ndarray:
    """Sums that an ideal array gives, in unit currents: (reads, lines), integers if inputs are 0 or 1.

    Args:
        group: the group that is read.
        drive: (reads, inputs) share of its full voltage that each input has.
    """
    return drive @ group.units.astype(np.int64)


@dataclass(frozen=True, eq=False)
class _NoisyCells:
    """What noise needs to know of cells; empty where it needs nothing.

    Attributes:
        drives: for each stream, the share of its full voltage that each input has, (slots, inputs) float32.
        variances: for each group, the variance of its reads, (slots, lines) [LSB^2].
    """

    drives: list[np.ndarray]
    variances: list[np.ndarray]


@dataclass(frozen=True, eq=False)
class GroupReads:
    """Every pattern of a group that occurred, with the answers of the circuit and of an ideal array.

    Attributes:
        patterns: (n,) int64 numbers of the reads, as `ReadScheme` gives them.
        uses: (n,) how often each occurred: as a read, as a pulse of a conversion, or as a part of a conversion that
            combines several amplitudes.
        lsb: (n, bitlines) float32 positions in codes, unrounded and without noise. If a conversion adds the charge of
            several pulses, the position is the one that would result if all of them held the pattern.
        codes: (n, bitlines) int32 codes of these positions.
        ideal: (n, bitlines) float32 positions of an ideal array's currents in front of converters without errors.
        ideal_codes: (n, bitlines) int32 codes of the ideal positions.
    """

    patterns: np.ndarray
    uses: np.ndarray
    lsb: np.ndarray
    codes: np.ndarray
    ideal: np.ndarray
    ideal_codes: np.ndarray

    def clipped(self, lsb: np.ndarray, highest: int | None) -> np.ndarray:
        """Which positions (n, bitlines) lose a code because they lie beyond an end of the converter's range, bool.

        A position below zero loses nothing if the ideal array's code is zero as well.
        """
        below = (np.rint(lsb) < 0) & (self.ideal_codes > 0)
        return below if highest is None else below | (np.rint(lsb) > highest)


def _combined(table: np.ndarray, slots: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Rows of a table for conversions, float32: (images, conversions, lines).

    Args:
        table: (slots, lines) what each read gives.
        slots: (images, planes * places) the slot of each read.
        weights: (planes,) what each plane counts in a conversion; None if each plane is converted by itself.
    """
    if weights is None:
        return table[slots].astype(np.float32, copy=False)
    images, planes = len(slots), len(weights)
    bags = np.ascontiguousarray(slots.reshape(images, planes, -1).swapaxes(1, 2)).reshape(-1, planes)
    # Only float64 adds many planes exactly.
    values, counts = torch.from_numpy(table.astype(np.float64)), torch.from_numpy(weights).expand(bags.shape)
    total = F.embedding_bag(torch.from_numpy(bags), values, mode="sum", per_sample_weights=counts)
    return total.to(torch.float32).numpy().reshape(images, -1, table.shape[1])


class LayerTable:
    """The pattern table of one layer.

    Args:
        plan: the tiles and groups of the layer.
        scheme: how the layer is read.
        converters: the converters of each tile.
        noise: the noise that is added to every read, or None.

    Attributes:
        slots: where each read lies in the table.
    """

    def __init__(
        self, plan: TilePlan, scheme: ReadScheme, converters: Sequence[Converter], noise: ReadNoise | None = None
    ) -> None:
        self.plan = plan
        self.scheme = scheme
        self.converters = converters
        self.noise = noise
        self.slots = Slots(plan, scheme)
        self.columns = plan.layer.outputs // plan.layer.groups
        # numpy's zeros take no memory until they are written to; torch's do.
        self._partial = torch.from_numpy(np.zeros((plan.streams, self.slots.room, self.columns), np.float32))
        self._lsb = [np.zeros((self.slots.room, g.units.shape[1]), np.float32) for g in plan.groups]
        self._sum_noise = SumNoise(plan, self.slots.room, noise) if noise is not None and noise.of_sums else None

    def converter(self, index: int) -> Converter:
        """The converters that read the plan's group `index`."""
        return self.converters[self.plan.groups[index].tile]

    def meet(self, reads: Tensor, activations: Tensor) -> Met:
        """Find the slots of reads, as `Slots.meet` does, and make room for new ones in the table."""
        met = self.slots.meet(reads, activations)
        missing = self.slots.room - self._partial.shape[1]
        if missing > 0:
            self._partial = F.pad(self._partial, (0, 0, 0, missing))
            self._lsb = [np.pad(table, ((0, missing), (0, 0))) for table in self._lsb]
            if self._sum_noise is not None:
                self._sum_noise.grow(missing)
        return met

    def missing(self, met: Met) -> list[np.ndarray]:
        """For each stream, the slots of `met` that have no answer yet."""
        return [np.flatnonzero(row) for row in (met.counts > 0) & ~self.slots.known]

    def count(self, met: Met) -> None:
        """Add reads to the uses of their slots."""
        self.slots.uses += met.counts

    def forget_uses(self) -> None:
        """Count uses from zero again; answers stay."""
        self.slots.uses[:] = 0

    def fill(self, index: int, slots: np.ndarray, currents: np.ndarray) -> None:
        """Enter the currents (slots, lines) [A] that the plan's group `index` gave for the reads in `slots`."""
        group, converter = self.plan.groups[index], self.converter(index)
        lsb = converter.in_lsb(currents).astype(np.float32)
        self._lsb[index][slots] = lsb
        self.slots.known[group.stream, slots] = True
        first = group.outputs[0] % self.columns
        if self._sum_noise is None:
            codes = converter.corrected(converter.quantized(lsb))
        else:
            codes = self._sum_noise.fill(index, converter, slots, lsb, self.slots.drive(group.stream, slots))
        partial = torch.from_numpy(self.partial_sums(group, codes * converter.lsb_units))
        self._partial[group.stream, torch.from_numpy(slots), first : first + partial.shape[1]] = partial

    def partial_sums(self, group: Group, units: np.ndarray) -> np.ndarray:
        """Turn codes in unit currents (n, bitlines) into partial sums (n, outputs), float32.

        The sums of an ideal array are integers.
        """
        outputs, places = group.outputs[1] - group.outputs[0], self.plan.places
        sums = units[:, : outputs * len(places)].reshape(len(units), outputs, len(places)) @ places
        if self.plan.reference_units is not None:
            zeros = self.plan.zero_units[slice(*group.outputs)]
            sums = less_reference(sums, units[:, -1:].astype(np.float64), zeros, self.plan.reference_units)
        return sums.astype(np.float32)

    def apply(self, met: Met) -> Tensor:
        """Compute the layer's sums (n, outputs, h, w), float32, from reads that all have answers.

        Partial sums are added over the chunks of a kernel and, weighted by powers of two, over bit planes. If a
        conversion covers several planes, their positions are added instead, weighted as the scheme says, before they
        are converted.
        """
        if self.scheme.weights is not None or (self.noise is not None and self._sum_noise is None):
            return self._apply_converting(met.rows)
        counts = plane_counts(met.rows.shape[-1])
        sums = self._summed(met.rows, self._partial, counts)
        if self._sum_noise is not None:
            self._sum_noise.add(sums, self._summed(met.rows, self._sum_noise.variance, counts**2))
        return sums

    def _summed(self, rows: Tensor, partial: Tensor, counts: Tensor) -> Tensor:
        """Sums (n, groups of channels * columns, h, w) of a table (streams, room, columns) over chunks and planes.

        Args:
            rows: (n, h, w, streams, planes) rows of the table.
            partial: the table.
            counts: (planes,) what each plane counts.
        """
        n, height, width, _, bits = rows.shape
        table = partial.flatten(0, 1)
        step = max(1, _TABLE_BYTES // max(1, 4 * self.slots.room * table.shape[1]))
        results = []
        for conv in range(self.plan.layer.groups):
            chunks = self.plan.chunks.count
            first, last = conv * chunks, (conv + 1) * chunks
            summed: Tensor | None = None
            for start in range(first, last, step):
                bags = rows[..., start : min(start + step, last), :].reshape(n * height * width, -1)
                weights = counts.repeat(bags.shape[1] // bits).expand(bags.shape).contiguous()
                part = F.embedding_bag(bags, table, mode="sum", per_sample_weights=weights)
                summed = part if summed is None else summed.add_(part)
            assert summed is not None
            results.append(summed.view(n, height, width, -1).permute(0, 3, 1, 2))
        return results[0] if len(results) == 1 else torch.cat(results, 1)

    def _apply_converting(self, rows: Tensor) -> Tensor:
        """Do what `apply` does if tables hold no codes: with noise, or if several planes are converted together.

        Codes are added over bit planes first, since partial sums are linear in them.
        """
        n, height, width, _, planes = rows.shape
        places, outputs = height * width, self.plan.layer.outputs
        counts = plane_counts(planes if self.scheme.weights is None else 1).numpy()
        widest = max(group.units.shape[1] for group in self.plan.groups)
        step = max(1, _NOISY_BLOCK // (planes * places * widest)) if self.noise is not None else n
        sums, cells = np.zeros((n, places, outputs), np.float32), self._noisy_cells()
        for first in range(0, n, step):
            images = rows[first : first + step]
            for index, codes in self._converted(images, cells):
                group, converter = self.plan.groups[index], self.converter(index)
                by_plane = converter.corrected(codes).reshape(len(codes), len(counts), -1)
                summed = np.matmul(counts, by_plane).reshape(-1, codes.shape[2])
                partial = self.partial_sums(group, summed * converter.lsb_units)
                sums[first : first + step, :, slice(*group.outputs)] += partial.reshape(len(codes), places, -1)
        return torch.from_numpy(sums).permute(0, 2, 1).reshape(n, outputs, height, width).contiguous()

    def codes(self, reads: Tensor) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each group's index and its codes (n, conversions, h, w, lines), noise included.

        Args:
            reads: (n, h, w, streams, planes).
        """
        rows = self.slots.rows(reads)
        n, height, width, _, _ = rows.shape
        for index, codes in self._converted(rows, self._noisy_cells()):
            yield index, codes.reshape(n, -1, height, width, codes.shape[-1])

    def _by_image(self, rows: Tensor) -> np.ndarray:
        """Slots (n, streams, planes * h * w) of rows (n, h, w, streams, planes)."""
        n, _, _, streams, _ = rows.shape
        offsets = torch.arange(streams, dtype=rows.dtype)[:, None] * self.slots.room
        return (rows - offsets).permute(0, 3, 4, 1, 2).reshape(n, streams, -1).numpy()

    def _noisy_cells(self) -> _NoisyCells:
        """Look up what noise needs to know of cells."""
        noise, streams, groups = self.noise, self.plan.streams, self.plan.groups
        if noise is None or not (noise.per_cell or noise.has_traps):
            return _NoisyCells([], [])
        drives = [self.slots.drives(stream) for stream in range(streams)]
        if not noise.per_cell:
            return _NoisyCells(drives, [])
        per_a = [self.converter(index).lsb_per_a for index in range(len(groups))]
        variances = [noise.read_variance(i, drives[group.stream], per_a[i]) for i, group in enumerate(groups)]
        return _NoisyCells(drives, variances)

    def _converted(self, rows: Tensor, cells: _NoisyCells) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each group's index and its codes (n, conversions * h * w, lines), as floats, with noise."""
        images, weights = self._by_image(rows), self.scheme.weights
        drawn = None if self.noise is None else self.noise.of_images([self._numbers(image) for image in images])
        for index, group in enumerate(self.plan.groups):
            converter, slots = self.converter(index), images[:, group.stream]
            lsb = _combined(self._lsb[index], slots, weights)
            if self.noise is not None and drawn is not None:
                variance, opened = np.zeros(1), None
                if cells.variances:
                    each = None if weights is None else weights / self.scheme.averaged
                    variance = np.maximum(_combined(cells.variances[index], slots, each), 0)
                if self.noise.has_traps:
                    drives = cells.drives[group.stream][slots].reshape(len(slots), rows.shape[-1], -1, group.inputs)
                    opened = self.scheme.opened(drives).reshape(len(slots), -1, group.inputs)
                drawn.add(index, lsb, variance, opened, converter.lsb_per_a)
            yield index, converter.quantized(lsb)

    def _numbers(self, slots: np.ndarray) -> np.ndarray:
        """Numbers (streams, reads) of one image's reads. They seed its noise, which must not depend on slots."""
        return np.stack([self.slots.numbers(stream, mine) for stream, mine in enumerate(slots)])

    def occurred(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The distinct reads (n,) that occurred on the plan's group `index`, and how often each did (n,)."""
        stream = self.plan.groups[index].stream
        used = self.slots.used(stream)
        return self.slots.numbers(stream, used), self.slots.uses[stream, used]

    def reads(self, index: int) -> GroupReads:
        """The patterns that occurred on the plan's group `index`, with their answers."""
        numbers, uses = self.occurred(index)
        used = self.slots.used(self.plan.groups[index].stream)
        lsb, converter = self._lsb[index][used], self.converter(index)
        ideal = converter.ideal_lsb(self.ideal_sums(index, used)).astype(np.float32)
        return GroupReads(
            numbers,
            uses,
            lsb,
            converter.codes(lsb),
            ideal,
            replace(converter, weights=None).codes(ideal),
        )

    def ideal_sums(self, index: int, slots: np.ndarray) -> np.ndarray:
        """Sums that an ideal array gives for the reads in `slots` of the plan's group `index`, as `ideal_sums`."""
        group = self.plan.groups[index]
        return ideal_sums(group, self.slots.drive(group.stream, slots))

    def noise_lsb(self) -> float:
        """Root mean square of the noise at the converters' inputs over all reads [LSB]."""
        if self.noise is None:
            return 0.0
        total = conversions = 0.0
        for index, group in enumerate(self.plan.groups):
            uses = self.slots.uses[group.stream, self.slots.used(group.stream)]
            variance = self.noise_variance(index)
            total += float(uses @ variance.sum(axis=1))
            conversions += float(uses.sum()) * variance.shape[1]
        return math.sqrt(total / max(conversions, 1))

    def noise_variance(self, index: int) -> np.ndarray:
        """Variance of the noise on the plan's group `index`, for each slot that was read: (slots, lines) [LSB^2]."""
        group, converter = self.plan.groups[index], self.converter(index)
        drive = self.slots.drives(group.stream)[self.slots.used(group.stream)]
        assert self.noise is not None
        return self.noise.variance(index, drive, converter.lsb_per_a)

    def drive(self, index: int, reads: np.ndarray) -> np.ndarray:
        """Share of its full voltage, 0..1, that each input has in answered reads (n,) of group `index`: (n, inputs)."""
        stream = self.plan.groups[index].stream
        return self.slots.drive(stream, self.slots.slot(stream, reads))

    def lookup(self, index: int, reads: np.ndarray) -> np.ndarray:
        """Positions (..., lines) [LSB] that the table holds for answered reads (...) of group `index`."""
        return self._lsb[index][self.slots.slot(self.plan.groups[index].stream, reads)]
