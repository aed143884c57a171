"""Quantizers for 1 to 3 bits, whose integers multiply by XNOR or shift."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from cosim.errors import NetworkError
from cosim.network.quantizers import SMALLEST_STEP, Quantizer, Shown

Estimator = Literal["expected", "straight-through"]

# Width of the noise in steps at the beginning of training and at its end. From 0.5 on the expected staircase is close
# to a straight line; below 0.1 hardly a value has a gradient left.
_WIDE, _NARROW = 0.5, 0.1


class _Expected(torch.autograd.Function):
    """A rounded value, with the gradient of what it would be on average under noise."""

    @staticmethod
    def forward(ctx, scaled: Tensor, rounded: Tensor, width: float, low: float, high: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(scaled)
        ctx.width, ctx.low, ctx.high = width, low, high
        return rounded.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        (scaled,) = ctx.saved_tensors
        return gradient * expected_slope(scaled, ctx.width, ctx.low, ctx.high), None, None, None, None


def expected_slope(scaled: Tensor, width: float, low: float, high: float) -> Tensor:
    """Derivative of E[clip(round(x + noise), low, high)] by x for logistic noise.

        sum over the decision points t = low + 1/2, ..., high - 1/2 of sigmoid'((x - t) / w) / w

    Args:
        scaled: x in steps.
        width: w in steps, > 0.
    """
    slope = torch.zeros_like(scaled)
    for number in range(round(high - low)):
        above = torch.sigmoid((scaled - (low + number + 0.5)) / width)
        slope += above * (1 - above)
    return slope / width


class ExpectedGradientQuantizer(Quantizer):
    """Low-bit quantizer with a trained step and an estimator that follows the expected staircase.

    Weights (signed) lie on the odd integers, which have no zero and are as many below it as above:

        v^ = s w,   w in {+-1, +-3, ..., +-(2^b - 1)}:  +-1 for one bit,

    so that w is a sum of +-2^j and every product of bits an XNOR. Activations lie on 0..2^b - 1. The backward pass sees
    E[v^(v + noise)], which is smooth; the noise narrows from half a step to a tenth while training comes to its end,
    and what the backward pass sees becomes the staircase. With estimator "straight-through" it sees a clip instead.
    The gradient of the step is that of LSQ.

    Source: the idea of a backward graph that is smooth and becomes quantized is that of J. Chen et al., "Propagating
    asymptotic-estimated gradients for low bitwidth quantized neural networks", 2020, arXiv 2003.04296; the logistic
    noise is this project's choice.
    """

    def __init__(
        self, bits: int, *, signed: bool, channels: int | None = None, estimator: Estimator = "expected"
    ) -> None:
        super().__init__(bits, signed=signed, channels=channels)
        if bits > 3:
            raise NetworkError(f"the expected-gradient quantizer is for 1 to 3 bits, found {bits}: take another")
        if signed:  # on the grid of odd integers a step of the staircase is two units
            self.low, self.high = 1 - 2**bits, 2**bits - 1
        self.signed, self.estimator, self.width = signed, estimator, _WIDE
        self.step = nn.Parameter(torch.ones(self.shape))

    @property
    def stored_bits(self) -> int:
        return self.bits + 1 if self.signed else self.bits

    def cover(self, value: Tensor) -> None:
        self.step.copy_((self._largest(value) / self.high).clamp_min(SMALLEST_STEP))

    def stretch(self, factor: Tensor) -> None:
        self.step.data.mul_(factor)

    def anneal(self, progress: float) -> None:
        self.width = _WIDE * (_NARROW / _WIDE) ** progress

    def quantize(self, value: Tensor) -> Tensor:
        sharing = value.numel() / self.step.numel()
        step = self.positive_step()
        step = Shown.apply(step, step, 1 / math.sqrt(sharing * max(self.high, 1)))
        # Staircase in its own steps: from low to high by one.
        unit, shift = (2, 0.5) if self.signed else (1, 0.0)
        low, high = (self.low / unit, self.high / unit)
        scaled = value / (unit * step)
        rounded = ((scaled.detach() + shift).round() - shift).clamp(low, high)
        if self.estimator == "straight-through":
            clipped = scaled.clamp(low, high)
            return Shown.apply(clipped, rounded, 1.0) * (unit * step)
        return _Expected.apply(scaled, rounded, self.width, low, high) * (unit * step)

    def positive_step(self) -> Tensor:
        return self.step.abs().clamp_min(SMALLEST_STEP)

    def integers(self, value: Tensor) -> Tensor:
        if not self.signed:
            return super().integers(value)
        odd = 2 * (value / (2 * self.positive_step()) + 0.5).round() - 1
        return odd.clamp(self.low, self.high).to(torch.int32)


class PowerOfTwoQuantizer(Quantizer):
    """Weights that are zero or a signed power of two times a trained step, so that a product is a shift.

        v^ = s w,   w in {0, +-1, +-2, ..., +-2^(2^(b-1) - 2)}:  {0, +-1} for 2 bits, {0, +-1, +-2, +-4} for 3

    |v| / s below 1/2 is zero, above it takes the power nearest on a logarithmic scale. The gradient is straight through
    inside the range, that of the step is LSQ's.

    Source: Miyashita et al., "Convolutional neural networks using logarithmic data representation", 2016,
    arXiv 1603.01025, for the grid; arXiv 2003.04296 for the use of shifts with 1 to 3 bits.
    """

    def __init__(self, bits: int, *, channels: int | None = None) -> None:
        if not 2 <= bits <= 4:
            raise NetworkError(f"powers of two need 2 to 4 bits (a sign, and an exponent or zero), found {bits}")
        super().__init__(bits, signed=True, channels=channels)
        self.high = 2 ** (2 ** (bits - 1) - 2)
        self.low = -self.high
        self.step = nn.Parameter(torch.ones(self.shape))

    @property
    def stored_bits(self) -> int:
        return (2 * self.high).bit_length()

    def cover(self, value: Tensor) -> None:
        self.step.copy_((self._largest(value) / self.high).clamp_min(SMALLEST_STEP))

    def stretch(self, factor: Tensor) -> None:
        self.step.data.mul_(factor)

    def quantize(self, value: Tensor) -> Tensor:
        step = self.positive_step()
        step = Shown.apply(step, step, 1 / math.sqrt(value.numel() / self.step.numel() * self.high))
        scaled = value / step
        return Shown.apply(scaled.clamp(self.low, self.high), self._powers(scaled.detach()), 1.0) * step

    def positive_step(self) -> Tensor:
        return self.step.abs().clamp_min(SMALLEST_STEP)

    def integers(self, value: Tensor) -> Tensor:
        return self._powers(value / self.positive_step()).to(torch.int32)

    def _powers(self, scaled: Tensor) -> Tensor:
        size = scaled.abs()
        powers = torch.exp2(size.clamp(1, self.high).log2().round())
        return torch.where(size < 0.5, torch.zeros_like(size), powers) * scaled.sign()
