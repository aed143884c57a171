"""Training with digitized partial sums in the forward pass, so that a network can run with converters of few bits.

IMCQ and IMCAQ: Wei et al., IEEE JXCDC 2020, 10.1109/JXCDC.2020.2992306. The sums and codes are those of
`cosim.arithmetic.partial_sums`.
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

from cosim.arithmetic.codes import nearest_codes
from cosim.arithmetic.partial_sums import Columns, PartialSums, add_partial_sums
from cosim.arithmetic.patterns import every_pattern, plane_counts
from cosim.errors import NetworkError
from cosim.training.quantizers import Shown

Rounding = Literal["straight-through", "concrete"]

# Images that share the noise of a pattern: few, so that the noise averages out over a batch as it does over reads.
_IMAGES_A_DRAW = 32


class PartialSumQuantizer(nn.Module):
    """Digitizes the partial sums of a layer in the forward pass of training.

    In evaluation mode, sums are rounded to the nearest codes. In training, noise of the converter is added, with a new
    draw for every pattern and every 32 images. The gradient of a code by its sum is

        straight-through  1 (IMCQ)
        concrete          that of a Concrete sample (IMCAQ): a code g has the probability
                              p(g) ~ sigmoid((g + 1/2 - x) / w) - sigmoid((g - 1/2 - x) / w)
                          for a sum x in codes and logistic noise of width w; the sample is sum z g with
                          z = softmax((log p + Gumbel noise) / temperature), over the codes near x.

    On average over all x, the slope of a Concrete sample is 1. However, sums are whole numbers of units, and at whole
    numbers the slope is close to 0 if the noise is much narrower than a unit. With noise of 0.1 codes and temperature
    0.5, the slope is 0.28 on average, with a standard deviation of 1.1, if a code is two units wide, and 0.006 if it is
    one unit wide.

    The gradient of an activation is the mean over its bit planes, weighted by what each plane counts, 2^j.

    Source: Wei et al. (above); the Concrete quantizer is Louizos et al., "Relaxed Quantization for Discretized Neural
    Networks", ICLR 2019, arXiv 1810.01875, equations 5-9, with its local grid.

    Args:
        how: how the arrays digitize partial sums.
        rounding: the gradient of a code by its sum, as above.
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
                f"noise_lsb must be >= 0, and > 0 for concrete rounding, which draws this noise, found {noise_lsb}"
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
        """Yield the codes of sums (both in LSB), with new noise each time in training; for "concrete" also the slopes.

        The slopes are the derivatives of the codes by the sums, or None.
        """
        if self.training and self.rounding == "concrete":
            yield from concrete_codes(lsb, self.noise_lsb, self.temperature, self.how.highest)
        while self.training and self.noise_lsb > 0:
            yield self.how.codes(lsb + self.noise_lsb * torch.randn_like(lsb)), None
        yield self.how.codes(lsb), None


def concrete_codes(
    lsb: Tensor, noise_lsb: float, temperature: float, highest: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield endless Concrete samples of the code of each sum, with their derivatives by the sum, shaped as `lsb`."""
    width = noise_lsb * math.sqrt(3) / math.pi  # scale of the logistic distribution with this standard deviation
    reach = max(1, math.ceil(3 * noise_lsb))
    nearest = nearest_codes(lsb, highest).flatten()
    # Codes near each sum lie along the first axis, counted from the nearest code.
    steps = torch.arange(-reach, reach + 2, device=lsb.device, dtype=lsb.dtype)
    ends = (steps[:, None] + (nearest - 0.5 - lsb.flatten())) / width  # ends of the noise interval that gives each code
    below = torch.sigmoid(ends)
    steps = steps[:-1]
    grid = steps[:, None] + nearest
    allowed = (grid >= 0) if highest is None else (grid >= 0) & (grid <= highest)
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)). The last factor is the same for all codes.
    # Logarithms keep the codes apart for a sum far above the highest code, where every probability underflows.
    log_odds = F.logsigmoid(ends[1:]) + F.logsigmoid(-ends[:-1])
    log_odds = torch.where(allowed, log_odds, -math.inf)
    probability = (log_odds - log_odds.amax(0)).exp_().clamp_min_(1e-12) * allowed
    # d log p / dx = (below + above - 1) / width, where the 1 cancels.
    tilt = below[1:] + below[:-1]
    moments = torch.stack([torch.ones_like(steps), steps])
    while True:
        # With exponential noise E, the odds (p / E)^(1/temperature) are distributed as with Gumbel noise on log p.
        odds = probability / torch.rand_like(probability).clamp_min_(1e-9).log_()
        odds = odds.div_(odds.amin(0)).pow_(1 / temperature)  # log() is negative, so the minimum has the largest size
        total, first = moments @ odds
        tilt_total, tilt_first = moments @ odds.mul_(tilt)
        mean = first / total
        slope = (tilt_first - mean * tilt_total) / (total * (temperature * width))
        yield (nearest + mean).view_as(lsb), slope.view_as(lsb)


@dataclass(frozen=True, eq=False)
class LayerFacts:
    """The current state of a layer's quantizers, and the layer's geometry.

    Attributes:
        input_step: step of the input quantizer.
        input_zero: zero point of the input quantizer.
        input_bits: bits of the input quantizer.
        weight_step: step of the weight quantizer, one for all outputs, or (outputs, 1, 1, 1).
        weight_zero: zero point of the weight quantizer, of the same shape.
        padding: padding of the convolution.
        geometry: stride, dilation and groups of the convolution.
    """

    input_step: Tensor
    input_zero: Tensor
    input_bits: int
    weight_step: Tensor
    weight_zero: Tensor
    padding: tuple[int, int]
    geometry: dict[str, Any]


class _Run:
    """One forward pass of a layer whose partial sums are digitized: integers, tables of codes, and rows in them."""

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
        groups, per_group = columns.zero_units.shape
        by_sum = (gradient * run.scale[:, None, None]).permute(0, 2, 3, 1).flatten(1, 2)  # n, places, outputs
        by_sum = by_sum.unflatten(2, (groups, per_group))
        shares = (columns.zero_units / columns.reference_units).to(gradient.dtype)
        by_column = torch.cat([by_sum, -(by_sum * shares).sum(3, keepdim=True)], 3).permute(2, 0, 1, 3)
        counts = plane_counts(columns.bits, gradient.device)
        units = columns.units.unflatten(0, (groups, -1))
        by_unit, by_row = torch.zeros_like(units), []
        parts = zip(run.rows.split(run.images, 3), by_column.split(run.images, 1), run.slopes, strict=True)
        for rows, given, slope in parts:
            assert slope is not None
            by_group = []
            tables = slope.unflatten(0, (groups, -1))
            for group in range(groups):
                asked = given[group].flatten(0, 1)
                of_units, of_rows = _through_tables(rows[group].flatten(2), asked, tables[group], units[group], counts)
                by_unit[group] += of_units
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
        by_weight = by_unit[:, :, :-1].transpose(1, 2).flatten(2)[..., :depth]
        by_weight = by_weight.reshape(ctx.kernel) - run.zero * by_sum.sum((0, 1)).reshape(-1, 1, 1, 1)
        return by_input[:, :, high : high + height, wide : wide + width], by_weight / run.facts.weight_step, None


def _through_tables(
    rows: Tensor, given: Tensor, slopes: Tensor, units: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the units of a group's cells, and of the group's inputs in every read, through tables of codes.

    Args:
        rows: (chunks, bits, reads) row of the tables that holds the codes of each read.
        given: (reads, columns) gradient of the value that is read, per unit of the bit.
        slopes: (chunks, patterns, columns) derivative of a code by its sum.
        units: (chunks, columns, inputs) units that cells conduct.
        counts: (bits,) weight of each bit.

    Returns:
        (chunks, columns, inputs) gradient of the units, and (chunks * inputs, reads) gradient of the inputs, summed
        over bits.
    """
    # Gradients are summed over the reads that share a row first. Slopes and patterns are then multiplied by one value
    # for each row of a table instead of one for each read.
    asked = (given * counts[:, None, None]).flatten(0, 1)
    by_table = torch.zeros_like(slopes)
    for answering in rows:  # a chunk at a time, so that its table stays in the cache
        by_table.view(-1, slopes.shape[2]).index_add_(0, answering.flatten(), asked)
    by_unit = (by_table * slopes).transpose(1, 2) @ every_pattern(units.shape[2], units.device)
    bags = rows.transpose(1, 2).flatten(0, 1)
    weights = counts.expand(bags.shape)
    by_read = F.embedding_bag(bags, slopes.flatten(0, 1), mode="sum", per_sample_weights=weights)
    by_read = by_read.unflatten(0, (len(rows), -1)).mul_(given)
    return by_unit, (units.transpose(1, 2) @ by_read.transpose(1, 2)).flatten(0, 1)
