"""Partial sums as an array's converter sees them: in software exactly, and in training.

A group of open wordlines sums levels, the converter makes a code of the sum, and codes are added over groups and bit
planes. A network that is to run on few code bits can be trained with that in the forward pass (IMCQ, IMCAQ: Wei et
al., IEEE JXCDC 2020, 10.1109/JXCDC.2020.2992306). What is digitized here is what `cosim.readout` digitizes, so an
ideal circuit gives the same codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosim.config import Config
from cosim.errors import ConfigError, NetworkError
from cosim.network.bit_planes import add_partial_sums, bit_planes, pattern_kernels, plane_patterns
from cosim.network.quantizers import Shown

Rounding = Literal["straight-through", "concrete"]

# Every pattern of a group is a table row, so groups must be small.
_MOST_WORDLINES = 12
# Images that share the noise of a pattern: few, so that noise averages over a batch as it does over reads.
_IMAGES_A_DRAW = 32


@dataclass(frozen=True)
class PartialSums:
    """How an array digitizes the sums of its groups.

    Attributes:
        open_wordlines: rows of the unrolled kernel in one sum, 1 to 12.
        cell_bits: a cell holds levels 0..2^cell_bits - 1, and a weight must fit one cell.
        offset_units: units that level 0 conducts.
        lsb_units: width of a code in units of a level.
        highest: the largest code, or None for no limit.
    """

    open_wordlines: int
    cell_bits: int
    lsb_units: float
    highest: int | None
    offset_units: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.open_wordlines <= _MOST_WORDLINES:
            raise NetworkError(
                f"partial sums are held in tables of groups of 1 to {_MOST_WORDLINES} wordlines, found "
                f"{self.open_wordlines}: lower array.open_wordlines"
            )
        if not 1 <= self.cell_bits <= 6 or not 0 < self.lsb_units < math.inf or (self.highest or 1) < 1:
            raise NetworkError(
                f"partial sums need cells of 1 to 6 bits, lsb_units > 0 and a highest code >= 1 or none, found {self}"
            )

    @classmethod
    def from_config(cls, config: Config) -> PartialSums:
        """Those of the arrays of a configuration.

        Raises:
            ConfigError: its arrays digitize other sums.
        """
        check_digitized(config)
        lsb_units, highest = config.code_units()
        return cls(config.array.open_wordlines, config.cell.bits, lsb_units, highest, config.cell.offset_units)

    def in_lsb(self, sums: Tensor) -> Tensor:
        """Sums of levels in units of a code, so that the nearest integer is the code."""
        return sums / self.lsb_units + decision_offset(self.lsb_units)

    def codes(self, lsb: Tensor) -> Tensor:
        """Codes of what `in_lsb` gives, without noise."""
        return lsb.round().clamp(0, self.highest)


def check_digitized(config: Config) -> None:
    """Refuse arrays that digitize other sums than those of levels, less a reference, a bit plane at a time.

    Raises:
        ConfigError: the arrays of the configuration are such.
    """
    for key, found, expected in (
        ("array.encoding", config.array.encoding, "offset"),
        ("read.mode", config.read.mode, "bit-serial"),
    ):
        if found != expected:
            raise ConfigError(
                f'networks trained for digitized partial sums need {key} = "{expected}", found "{found}": set it back, '
                "or quantize the network without arrays"
            )


def decision_offset(lsb_units: float) -> float:
    """What a converter adds to a sum before it rounds, in codes.

    Where a code is an even number of units wide, every other whole sum would lie exactly between two codes and the
    least disturbance decide; such a converter decides half a unit lower.
    """
    return 0.5 / lsb_units if lsb_units % 2 == 0 else 0.0


@dataclass(frozen=True, eq=False)
class Columns:
    """A layer as the columns of an array.

    Attributes:
        levels: (streams, outputs / groups + 1, wordlines) float, in units with the offset; the last column is the
            reference, missing rows hold 0.
        zero_points: (groups, outputs / groups) float64 units that stand for weight 0.
        reference_level: of the reference column.
        kernels: `pattern_kernels` of the layer.
        geometry: stride, dilation and groups.
        bits: of an activation.
    """

    levels: Tensor
    zero_points: Tensor
    reference_level: int
    kernels: Tensor
    geometry: dict[str, Any]
    bits: int

    @classmethod
    def of(
        cls,
        levels: Tensor,
        zero_points: Tensor,
        how: PartialSums,
        geometry: dict[str, Any],
        bits: int,
    ) -> Columns:
        """Columns of levels (outputs, inputs / groups, kernel height, kernel width) and zero points (outputs,)."""
        outputs, inputs, height, width = levels.shape
        groups = geometry["groups"]
        depth, chunks = inputs * height * width, math.ceil(inputs * height * width / how.open_wordlines)
        reference_level = reference_level_for(zero_points, 2**how.cell_bits) + how.offset_units
        flat = levels.reshape(groups, outputs // groups, depth).to(torch.float32) + how.offset_units
        reference = torch.full_like(flat[:, :1], float(reference_level))
        columns = F.pad(torch.cat([flat, reference], 1), (0, chunks * how.open_wordlines - depth))
        columns = columns.reshape(groups, -1, chunks, how.open_wordlines).transpose(1, 2).flatten(0, 1)
        kernels = pattern_kernels((inputs, height, width), how.open_wordlines, groups).to(levels.device, torch.float32)
        per_group = zero_points.reshape(groups, -1).to(torch.float64) + how.offset_units
        return cls(columns, per_group, reference_level, kernels, geometry, bits)

    @property
    def chunks(self) -> int:
        return len(self.levels) // len(self.zero_points)

    def every_sum(self) -> Tensor:
        """Sums of levels for every pattern of every stream: (streams, patterns, columns)."""
        return pattern_states(self.levels.shape[2], self.levels.device) @ self.levels.transpose(1, 2)

    def rows(self, activations: Tensor) -> Tensor:
        """Which row of a group's table answers each read: (groups, chunks, bits, n, height, width)."""
        patterns = plane_patterns(bit_planes(activations, self.bits), self.kernels, self.geometry).to(torch.int64)
        slots = 2 ** self.levels.shape[2]
        rows = patterns.unflatten(2, (len(self.zero_points), self.chunks)).permute(2, 3, 0, 1, 4, 5)
        return rows + slots * torch.arange(self.chunks, device=rows.device)[:, None, None, None, None]

    def less_reference(self, codes: Tensor) -> Tensor:
        """Partial sums (groups, chunks * patterns, outputs / groups) of codes (streams, patterns, columns)."""
        grouped = codes.unflatten(0, (len(self.zero_points), self.chunks)).to(torch.float64)
        reference = grouped[..., -1:] * self.zero_points[:, None, None] / self.reference_level
        return (grouped[..., :-1] - reference).to(torch.float32).flatten(1, 2)


def pattern_states(wordlines: int, device: torch.device) -> Tensor:
    """State of each wordline under every pattern: (2^wordlines, wordlines) of 0 and 1, float32."""
    patterns = torch.arange(2**wordlines, device=device)
    return ((patterns[:, None] >> torch.arange(wordlines, device=device)) & 1).to(torch.float32)


def reference_level_for(zero_points: Tensor, cell_levels: int, place: int = 1) -> int:
    """The reference column's level: close to the zero points, so that wires take from both alike.

    Args:
        zero_points: (outputs,) levels that stand for weight 0.
        place: what a unit of the most significant slice counts.
    """
    return min(max(round(float(zero_points.to(torch.float64).median()) / place), 1), cell_levels - 1)


def digitized_sums(columns: Columns, how: PartialSums, activations: Tensor) -> Tensor:
    """Layer sums (n, outputs, height, width), float32, from the codes of a converter without noise.

    Args:
        activations: (n, inputs, height, width) unsigned integers, padded.
    """
    table = columns.less_reference(how.codes(how.in_lsb(columns.every_sum())))
    rows = columns.rows(activations)
    sums = [add_partial_sums(of_group, entries) for of_group, entries in zip(rows, table, strict=True)]
    return torch.cat(sums, 1) * how.lsb_units


class PartialSumQuantizer(nn.Module):
    """Digitizes the partial sums of a layer in the forward pass of training.

    In evaluation mode codes are the nearest ones. In training the converter's noise is added, drawn anew for every
    pattern and 32 images, and the gradient of a code by its sum is

        straight-through  1 (IMCQ)
        concrete          that of the sample (IMCAQ): a code g has the probability
                              p(g) ~ sigmoid((g + 1/2 - x) / w) - sigmoid((g - 1/2 - x) / w)
                          for a sum x in codes and logistic noise of width w; the sample is sum z g with
                          z = softmax((log p + Gumbel noise) / temperature), over the codes near x.

    A bit plane's share in the gradient of an activation of n bits is 1 / (2^n - 1) of what the plane counts.

    Source: Wei et al. (above); the Concrete quantizer is Louizos et al., "Relaxed Quantization for Discretized Neural
    Networks", ICLR 2019, arXiv 1810.01875, equations 5-9, with its local grid.

    Args:
        how: the arrays.
        rounding: of the gradient.
        noise_lsb: standard deviation of the sense amplifier's noise in codes, >= 0; > 0 for "concrete".
        temperature: of the Concrete distribution, > 0.
    """

    def __init__(
        self,
        how: PartialSums,
        rounding: Rounding = "straight-through",
        noise_lsb: float = 0.0,
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        if rounding not in ("straight-through", "concrete"):
            raise NetworkError(f"rounding must be straight-through or concrete, found {rounding!r}")
        if not 0 <= noise_lsb < math.inf or (rounding == "concrete" and noise_lsb == 0):
            raise NetworkError(
                f"noise_lsb must be >= 0, and > 0 for concrete rounding whose width it is, found {noise_lsb}"
            )
        if not 0 < temperature < math.inf:
            raise NetworkError(f"temperature must be > 0, found {temperature}")
        self.how, self.rounding, self.noise_lsb, self.temperature = how, rounding, noise_lsb, temperature

    def forward(self, x: Tensor, weight: Tensor, facts: LayerFacts) -> Tensor:
        """The layer's output without bias: (n, outputs, height, width).

        Args:
            x: (n, inputs, height, width) on the grid of the input quantizer.
            weight: (outputs, inputs / groups, kernel height, kernel width) on the grid of the weight quantizer.
        """
        with torch.autocast(x.device.type, enabled=False):  # integers are exact in float32 only
            x, weight = x.float(), weight.float()
            run = _Run(self, x.detach(), weight.detach(), facts)
            if self.training and self.rounding == "concrete":
                return _ConcreteSums.apply(x, weight, run)
            exact = F.conv2d(x, weight, padding=facts.padding, **facts.geometry)
            return Shown.apply(exact, run.outputs(), 1.0)

    def draws(self, lsb: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Codes for sums in codes, drawn anew each time where training has noise; for "concrete" their slopes by sum."""
        if self.training and self.rounding == "concrete":
            yield from concrete_codes(lsb, self.noise_lsb, self.temperature, self.how.highest)
        while self.training and self.noise_lsb > 0:
            yield self.how.codes(lsb + self.noise_lsb * torch.randn_like(lsb)), None
        yield self.how.codes(lsb), None


def concrete_codes(
    lsb: Tensor, noise_lsb: float, temperature: float, highest: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless Concrete samples of the code of each sum, with their derivatives by the sum; shapes as `lsb`."""
    width = noise_lsb * math.sqrt(3) / math.pi  # of a logistic distribution with this standard deviation
    reach = max(1, math.ceil(3 * noise_lsb))
    nearest = lsb.round().clamp(0, highest).flatten()
    # The codes lie along the first axis, as steps from the nearest.
    steps = torch.arange(-reach, reach + 2, device=lsb.device, dtype=lsb.dtype)
    below = torch.sigmoid((steps[:, None] + (nearest - 0.5 - lsb.flatten())) / width)  # noise ends below each code
    steps = steps[:-1]
    grid = steps[:, None] + nearest
    allowed = (grid >= 0) if highest is None else (grid >= 0) & (grid <= highest)
    probability = (below[1:] - below[:-1]).clamp_min_(1e-12) * allowed
    # d log p / dx = (below + above - 1) / width, of which the 1 falls out.
    tilt = below[1:] + below[:-1]
    moments = torch.stack([torch.ones_like(steps), steps])
    while True:
        # With exponential noise E the odds (p / E)^(1/temperature) are those of Gumbel noise on log p.
        odds = probability / torch.rand_like(probability).clamp_min_(1e-9).log_()
        odds = odds.div_(odds.amin(0)).pow_(1 / temperature)  # of numbers below zero the least is the largest
        total, first = moments @ odds
        tilt_total, tilt_first = moments @ odds.mul_(tilt)
        mean = first / total
        slope = (tilt_first - mean * tilt_total) / (total * (temperature * width))
        yield (nearest + mean).view_as(lsb), slope.view_as(lsb)


@dataclass(frozen=True, eq=False)
class LayerFacts:
    """What a layer's quantizers and geometry are at the moment.

    Attributes:
        input_step, input_zero, input_bits: of the input quantizer.
        weight_step, weight_zero: of the weight quantizer, for all outputs or (outputs, 1, 1, 1).
        padding: of the convolution; geometry: its stride, dilation and groups.
    """

    input_step: Tensor
    input_zero: Tensor
    input_bits: int
    weight_step: Tensor
    weight_zero: Tensor
    padding: tuple[int, int]
    geometry: dict[str, Any]


class _Run:
    """One forward pass of a layer on columns: integers, tables and rows."""

    def __init__(self, quantizer: PartialSumQuantizer, x: Tensor, weight: Tensor, facts: LayerFacts) -> None:
        self.facts = facts
        self.zero = float(facts.input_zero)
        activations = (x / facts.input_step).round() + self.zero
        (high, wide) = facts.padding
        self.activations = F.pad(activations, (wide, wide, high, high), value=self.zero)
        outputs = len(weight)
        integers = (weight / facts.weight_step).round()
        zero_points = facts.weight_zero.reshape(-1).expand(outputs)
        levels = integers + zero_points[:, None, None, None]
        self.scale = (facts.input_step * facts.weight_step).reshape(-1).expand(outputs).detach()
        self.correction = self.zero * integers.sum(dim=(1, 2, 3))
        self.how = quantizer.how
        self.columns = Columns.of(levels, zero_points, self.how, facts.geometry, facts.input_bits)
        self.rows = self.columns.rows(self.activations)
        lsb = self.how.in_lsb(self.columns.every_sum())
        noisy = quantizer.training and quantizer.noise_lsb > 0
        self.images = _IMAGES_A_DRAW if noisy else len(x)
        draws = list(islice(quantizer.draws(lsb), math.ceil(len(x) / self.images)))
        self.tables = [self.columns.less_reference(codes) for codes, _ in draws]
        self.slopes = [slope for _, slope in draws]

    def outputs(self) -> Tensor:
        """Real outputs (n, outputs, height, width), without bias."""
        parts = []
        for rows, table in zip(self.rows.split(self.images, dim=3), self.tables, strict=True):
            parts.append(torch.cat([add_partial_sums(*group) for group in zip(rows, table, strict=True)], 1))
        sums = torch.cat(parts) * self.how.lsb_units - self.correction[:, None, None]
        return sums * self.scale[:, None, None]


class _ConcreteSums(torch.autograd.Function):
    """Outputs from Concrete samples of codes, with the gradient of every sample."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, run: _Run) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.run, ctx.input_size, ctx.kernel = run, x.shape, weight.shape
        return run.outputs()

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        run: _Run = ctx.run
        columns = run.columns
        groups, per_group = columns.zero_points.shape
        by_sum = (gradient * run.scale[:, None, None]).permute(0, 2, 3, 1).flatten(1, 2)  # n, places, outputs
        by_sum = by_sum.unflatten(2, (groups, per_group))
        shares = (columns.zero_points / columns.reference_level).to(gradient.dtype)
        by_column = torch.cat([by_sum, -(by_sum * shares).sum(3, keepdim=True)], 3).permute(2, 0, 1, 3)
        counts = torch.pow(2.0, torch.arange(columns.bits, device=gradient.device))
        levels = columns.levels.unflatten(0, (groups, -1))
        by_level, by_row = torch.zeros_like(levels), []
        parts = zip(run.rows.split(run.images, 3), by_column.split(run.images, 1), run.slopes, strict=True)
        for rows, given, slope in parts:
            assert slope is not None
            by_group = []
            tables = slope.unflatten(0, (groups, -1))
            for group in range(groups):
                asked = given[group].flatten(0, 1)
                of_levels, of_rows = _through_tables(
                    rows[group].flatten(2), asked, tables[group], levels[group], counts
                )
                by_level[group] += of_levels
                by_group.append(of_rows.unflatten(1, given.shape[1:3]))
            by_row.append(torch.stack(by_group))  # groups, rows of a kernel, n, places
        depth = math.prod(ctx.kernel[1:])
        by_rows = torch.cat(by_row, 2)[:, :depth].permute(2, 0, 1, 3).flatten(1, 2)
        by_input = F.fold(
            by_rows / (float(counts.sum()) * run.facts.input_step),
            run.activations.shape[2:],
            ctx.kernel[2:],
            dilation=run.facts.geometry["dilation"],
            stride=run.facts.geometry["stride"],
        )
        (high, wide), (_, _, height, width) = run.facts.padding, ctx.input_size
        by_weight = by_level[:, :, :-1].transpose(1, 2).flatten(2)[..., :depth]
        by_weight = by_weight.reshape(ctx.kernel) - run.zero * by_sum.sum((0, 1)).reshape(-1, 1, 1, 1)
        return by_input[:, :, high : high + height, wide : wide + width], by_weight / run.facts.weight_step, None


def _through_tables(
    rows: Tensor, given: Tensor, slopes: Tensor, levels: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of a group's levels and of its kernel's rows in every read, through tables of codes.

    Args:
        rows: (chunks, bits, reads) which row of the tables answers each read.
        given: (reads, columns) gradient of what is read, per unit of the bit.
        slopes: (chunks, patterns, columns) of code by sum.
        levels: (chunks, columns, wordlines).
        counts: (bits,) what a bit counts.

    Returns:
        (chunks, columns, wordlines) and (chunks * wordlines, reads), the latter of all bits together.
    """
    # Summed over the reads that a row answers first, so that slopes and patterns meet a table and not every read.
    asked = (given * counts[:, None, None]).flatten(0, 1)
    by_table = torch.zeros_like(slopes)
    for answering in rows:  # a chunk at a time, whose table stays in the cache
        by_table.view(-1, slopes.shape[2]).index_add_(0, answering.flatten(), asked)
    by_level = (by_table * slopes).transpose(1, 2) @ pattern_states(levels.shape[2], levels.device)
    bags = rows.transpose(1, 2).flatten(0, 1)
    weights = counts.expand(bags.shape)
    by_read = F.embedding_bag(bags, slopes.flatten(0, 1), mode="sum", per_sample_weights=weights)
    by_read = by_read.unflatten(0, (len(rows), -1)).mul_(given)
    return by_level, (levels.transpose(1, 2) @ by_read.transpose(1, 2)).flatten(0, 1)
