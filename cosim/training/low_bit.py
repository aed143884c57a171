"""Quantizers for few bits, whose integers can be multiplied with XNOR gates or with shifts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from cosim.errors import NetworkError
from cosim.training.quantizers import SMALLEST_STEP, Quantizer, Shown, sum_like

Estimator = Literal["expected", "straight-through"]
_Function = Callable[[Tensor], Tensor]

# Width of the noise, in steps, at the beginning and at the end of training. At 0.5 and above, the expected staircase is
# close to a straight line; below 0.1, hardly any value has a gradient.
_WIDE, _NARROW = 0.5, 0.1


class _Staircase(torch.autograd.Function):
    """Values on a grid of integers times a step. The backward pass uses a smoother function E of the staircase.

    If q is the integer: d v^ / d v = E'(v / s), d v^ / d s = q - (v / s) E'(v / s).
    """

    @staticmethod
    def forward(ctx, value: Tensor, step: Tensor, grid: _Function, slope: _Function) -> Tensor:  # type: ignore[no-untyped-def]
        scaled = value / step
        integers = grid(scaled)
        ctx.save_for_backward(scaled, integers, step)
        ctx.slope = slope
        return integers * step

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        scaled, integers, step = ctx.saved_tensors
        by_value = gradient * ctx.slope(scaled)
        by_step = torch.addcmul(gradient * integers, by_value, scaled, value=-1)
        return by_value, sum_like(by_step, step), None, None


def expected_slope(scaled: Tensor, width: float, low: float, high: float) -> Tensor:
    """Derivative of E[clip(round(x + noise), low, high)] by x for logistic noise.

        sum over the decision points t = low + 1/2, ..., high - 1/2 of sigmoid'((x - t) / w) / w

    Args:
        scaled: x in steps.
        width: w in steps, > 0.
    """
    slope = torch.zeros_like(scaled)
    for number in range(round(high - low)):
        above = torch.sigmoid(scaled * (1 / width) - (low + number + 0.5) / width)
        slope.addcmul_(above, above.neg().add_(1))
    return slope.div_(width)


def _clip_slope(scaled: Tensor, low: float, high: float) -> Tensor:
    """Derivative of a clip, which is the straight-through estimator."""
    return (scaled >= low) & (scaled <= high)


class ExpectedGradientQuantizer(Quantizer):
    """Low-bit quantizer with a trained step, whose gradient is that of the staircase averaged over noise.

    Weights (signed) lie on the odd integers, which are symmetric about zero and do not include it:

        v^ = s w,   w in {+-1, +-3, ..., +-(2^b - 1)}:  +-1 for one bit.

    Each w is therefore a sum of +-2^j, and every product of two bits is an XNOR. Activations lie on 0..2^b - 1.

    The backward pass uses the expectation E[v^(v + noise)], which is smooth. The noise narrows from half a step to a
    tenth of a step during training, so that the expectation approaches the staircase. With estimator
    "straight-through" the backward pass uses a clip instead. If E' is the slope of the function that the backward pass
    uses, by v / s, and w the integer, then

        dv^/dv = E'(v/s),   dv^/ds = w - (v/s) E'(v/s), scaled by 1 / sqrt(N high).

    For a clip, this is LSQ's gradient of the step.

    Source: the idea of a smooth backward graph that becomes quantized during training is that of J. Chen et al.,
    "Propagating asymptotic-estimated gradients for low bitwidth quantized neural networks", 2020, arXiv 2003.04296;
    the logistic noise is this project's choice.
    """

    def __init__(
        self, bits: int, *, signed: bool, channels: int | None = None, estimator: Estimator = "expected"
    ) -> None:
        super().__init__(bits, signed=signed, channels=channels)
        if bits > 3:
            raise NetworkError(
                f"the expected-gradient quantizer is for 1 to 3 bits, found {bits}: choose another quantizer"
            )
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
        return _Staircase.apply(value, step, self._nearest, self._slope)

    def _nearest(self, scaled: Tensor) -> Tensor:
        if self.signed:  # nearest odd
            scaled = (scaled * 0.5 + 0.5).round_().mul_(2).sub_(1)
            return scaled.clamp_(self.low, self.high)
        return scaled.round().clamp_(self.low, self.high)

    def _slope(self, scaled: Tensor) -> Tensor:
        if self.estimator == "straight-through":
            return _clip_slope(scaled, self.low, self.high)
        unit = 2 if self.signed else 1  # from one odd integer to the next
        return expected_slope(scaled / unit, self.width, self.low / unit, self.high / unit)

    def positive_step(self) -> Tensor:
        return self.step.abs().clamp_min(SMALLEST_STEP)

    def integers(self, value: Tensor) -> Tensor:
        if not self.signed:
            return super().integers(value)
        return self._nearest(value / self.positive_step()).to(torch.int32)


class PowerOfTwoQuantizer(Quantizer):
    """Weights that are zero or a signed power of two times a trained step, so that a product is a shift.

        v^ = s w,   w in {0, +-1, +-2, ..., +-2^(2^(b-1) - 2)}:  {0, +-1} for 2 bits, {0, +-1, +-2, +-4} for 3

    A value with |v| / s < 1/2 becomes zero; others become the nearest power on a logarithmic scale. The gradient of a
    value is that of a clip (straight through), and the gradient of the step is LSQ's.

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
        return _Staircase.apply(value, step, self._powers, self._slope)

    def positive_step(self) -> Tensor:
        return self.step.abs().clamp_min(SMALLEST_STEP)

    def integers(self, value: Tensor) -> Tensor:
        return self._powers(value / self.positive_step()).to(torch.int32)

    def _powers(self, scaled: Tensor) -> Tensor:
        size = scaled.abs()
        powers = torch.exp2(size.clamp(1, self.high).log2_().round_())
        return powers.mul_(size >= 0.5).mul_(scaled.sign())

    def _slope(self, scaled: Tensor) -> Tensor:
        return _clip_slope(scaled, self.low, self.high)
