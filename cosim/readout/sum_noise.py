"""Noise that is drawn once for each sum of a layer, instead of once for each read that the sum consists of.

A sum adds the codes of many reads, whose noise is independent. Its distribution is nearly normal, and therefore given
by the means and variances of the codes. Tables hold these for every pattern, and they are added up like the codes
themselves. All outputs of a block share a reference column, whose noise is drawn once for all of them.

Two approximations are made: sums of few reads are taken as normal, and all outputs of a block have the mean of their
variances.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cosim.mapping import TilePlan
from cosim.readout.adc import Converter
from cosim.readout.noise import ReadNoise

# Number of positions per code at which codes are known. Noise of only a few of these steps is smoothed too much.
_STEPS = 32
# Number of sigmas for which moments are computed, if reads differ in their noise.
_SIGMAS = 8
# Distance to which positions below the first code and above the last are considered [codes].
_MARGIN = 2


class CodeMoments:
    """Means and variances of corrected codes whose positions have normal noise.

    The codes of a fine grid of positions are smoothed with the distribution of the noise, once for each bitline. Then
    means and variances are looked up.

    Args:
        converter: the converters.
        last: the largest code that occurs.
        sigmas: (n,) rising standard deviations of the noise [LSB]. For any other sigma, the nearest of them is used.
    """

    def __init__(self, converter: Converter, last: int, sigmas: np.ndarray) -> None:
        from scipy.ndimage import gaussian_filter1d  # slow to import, and most runs do not need it

        self._sigmas = sigmas
        # Half a step aside, so that no position lies on a decision of an ideal converter.
        steps = np.arange(-_MARGIN * _STEPS, (last + _MARGIN) * _STEPS) + 0.5
        bitlines = max(len(each) for each in (converter.decision_lsb, converter.weights, converter.factor)
                       if each is not None)  # fmt: skip
        codes = converter.corrected(converter.quantized(np.repeat(steps[:, None] / _STEPS, bitlines, axis=1)))
        smoothed = [
            [
                gaussian_filter1d(values, sigma * _STEPS, axis=0, mode="nearest", truncate=5) if sigma > 0 else values
                for values in (codes, codes**2)
            ]
            for sigma in sigmas
        ]
        # (sigmas, steps, bitlines) each
        self._mean = np.array([mean for mean, _ in smoothed], np.float32)
        self._variance = np.array([np.maximum(square - mean**2, 0) for mean, square in smoothed], np.float32)

    def __call__(self, lsb: np.ndarray, sigma: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Means [LSB] and variances [LSB^2], (n, bitlines) float32 each.

        Args:
            lsb: (n, bitlines) positions without noise [LSB].
            sigma: standard deviation of the noise [LSB], of a shape that broadcasts to that of `lsb`.
        """
        places = np.clip((lsb + _MARGIN) * _STEPS - 0.5, 0, self._mean.shape[1] - 1.001)
        step = places.astype(np.int64)
        share = (places - step).astype(np.float32)
        line = np.arange(lsb.shape[1]) if self._mean.shape[2] > 1 else np.zeros(1, np.int64)
        if len(self._sigmas) == 1:
            kind, beyond = np.zeros((1, 1), np.int64), 0.0
        else:
            kind = np.abs(np.subtract.outer(np.asarray(sigma) ** 2, self._sigmas**2)).argmin(-1)
            beyond = sigma**2 - self._sigmas[kind] ** 2
        below = self._mean[kind, step, line]
        mean = below + (self._mean[kind, step + 1, line] - below) * share
        return mean, np.maximum(self._variance[kind, step, line] + beyond, 0)


class SumNoise:
    """The noise of a layer's sums.

    Args:
        plan: the tiles and groups of the layer.
        room: number of slots of each stream.
        noise: the noise of the layer's reads.

    Attributes:
        variance: (streams, slots, 2 * blocks) variances that each read adds to a sum [unit currents^2]. For each block
            of outputs that share a tile, the first is that of the outputs' codes, and the second that of the reference
            column's codes.
    """

    def __init__(self, plan: TilePlan, room: int, noise: ReadNoise) -> None:
        self._plan, self._noise = plan, noise
        self._most_units = max(int(group.units.max()) for group in plan.groups)
        columns = plan.layer.outputs // plan.layer.groups
        starts = sorted({group.outputs[0] % columns for group in plan.groups})
        self._block = {start: block for block, start in enumerate(starts)}
        # For each output of a channel group, its block.
        self._of_output = torch.from_numpy(np.searchsorted(starts, np.arange(columns), side="right") - 1)
        self.variance = torch.zeros(plan.streams, room, 2 * len(starts))
        self._moments: tuple[int, CodeMoments] | None = None  # of the most recent tile

    def grow(self, more: int) -> None:
        """Make room for more slots."""
        self.variance = F.pad(self.variance, (0, 0, 0, more))

    def fill(
        self, index: int, converter: Converter, slots: np.ndarray, lsb: np.ndarray, drive: np.ndarray
    ) -> np.ndarray:
        """Enter the variances of reads of group `index`.

        Args:
            index: number of the group.
            converter: its converters.
            slots: (n,) slots of the reads.
            lsb: (n, bitlines) positions of the reads [LSB].
            drive: (n, inputs) share of its full voltage that each input has.

        Returns:
            (n, bitlines) mean codes.
        """
        group, places = self._plan.groups[index], self._plan.places
        sigma = np.sqrt(self._noise.variance(index, drive, converter.lsb_per_a))
        mean, variance = self._of_tile(index, converter)(lsb, sigma)
        units = variance * converter.lsb_units**2
        lines = (group.outputs[1] - group.outputs[0]) * len(places)
        own = units[:, :lines].reshape(len(units), -1, len(places)) @ places**2
        shared = units[:, -1] if self._plan.reference_units is not None else np.zeros(len(units))
        first = 2 * self._block[group.outputs[0] % len(self._of_output)]
        both = torch.from_numpy(np.stack([own.mean(1), shared], 1).astype(np.float32))
        self.variance[group.stream, torch.from_numpy(slots), first : first + 2] = both
        return mean

    def _of_tile(self, index: int, converter: Converter) -> CodeMoments:
        """The moments of the codes of group `index`, which are those of its tile."""
        group = self._plan.groups[index]
        if self._moments is None or self._moments[0] != group.tile:
            every = np.ones((1, group.inputs))
            extremes = [self._noise.variance(index, drive, converter.lsb_per_a) for drive in (0 * every, every)]
            least, most = (float(fold(each)) for fold, each in zip((np.min, np.max), extremes, strict=True))
            sigmas = np.sqrt(np.linspace(least, most, _SIGMAS if most > least else 1))
            largest = converter.ideal_lsb(np.full(1, 1.5 * group.inputs * self._most_units)).max()
            last = int(largest) if converter.highest is None else converter.highest
            self._moments = group.tile, CodeMoments(converter, last, sigmas)
        return self._moments[1]

    def add(self, sums: Tensor, variance: Tensor) -> None:
        """Add noise to sums, in place.

        Args:
            sums: (n, outputs, height, width) sums of mean codes.
            variance: (n, channel groups * 2 * blocks, height, width) sums of the reads' variances.
        """
        n, outputs, height, width = sums.shape
        sigma = variance.sqrt().view(n, self._plan.layer.groups, -1, 2, height, width)
        own, shared = sigma[..., 0, :, :], sigma[..., 1, :, :]
        drawn = torch.empty(n, outputs + own.shape[1] * own.shape[2], height, width)
        for image, mine in enumerate(sums):
            self._noise.of_sum(mine.numpy()).standard_normal(out=drawn[image].numpy(), dtype=np.float32)
        sums += drawn[:, :outputs] * own[:, :, self._of_output].flatten(1, 2)
        if self._plan.reference_units is not None:
            common = (drawn[:, outputs:].view_as(shared) * shared)[:, :, self._of_output].flatten(1, 2)
            share = torch.from_numpy(self._plan.zero_units / self._plan.reference_units).to(sums.dtype)
            sums -= common * share[:, None, None]
