"""Quantizers whose range is trained with the network.

All have a uniform grid: a value v becomes the integer q = clip(round((v - offset) / step), low, high), which stands for
q step + offset. They differ in the parameters that are trained, and in their gradients:

    LearnedStepQuantizer     the step (LSQ), per layer or per channel
    ThresholdQuantizer       the logarithm of the threshold, per layer or per channel (TQT)
    ClippedQuantizer         the clip of an activation (PACT)
    AsymmetricQuantizer      step and offset, the offset a whole number of steps (LSQ+)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from cosim.errors import NetworkError

SMALLEST_STEP = 1e-8


class _Grid(torch.autograd.Function):
    """Rounds to the grid. Rounding has the gradient 1 (straight through), everything else its exact gradient.

    Passes over memory are what fake quantization costs, so that there are few. In the common case of one step for all
    values, the gradient of a value is that of a clip. The range ends `margin` steps beyond low and high; `scale`
    multiplies the gradients of step and offset.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, value: Tensor, step: Tensor, offset: Tensor | None, low: int, high: int, margin: float, scale: float
    ) -> Tensor:
        rounded = (value if offset is None else value - offset) / step
        rounded = rounded.round_().clamp_(low, high).mul_(step)
        if offset is not None:
            rounded += offset
        ctx.save_for_backward(value, rounded, step, offset)
        ctx.low, ctx.high, ctx.scale = low - margin, high + margin, scale
        return rounded

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        value, rounded, step, offset = ctx.saved_tensors
        if step.ndim == 0:
            begin, width = 0.0 if offset is None else offset.item(), step.item()
            low, high = begin + ctx.low * width, begin + ctx.high * width
            inside = torch.ops.aten.hardtanh_backward(gradient, value, low, high)
        else:
            scaled = (value if offset is None else value - offset) / step
            inside = gradient * ((scaled > ctx.low) & (scaled < ctx.high))
        # With the integer q = (rounded - offset) / step, d rounded / d step is q - (value - offset) / step inside the
        # range and q outside.
        slope = torch.addcmul(gradient * rounded, inside, value, value=-1)
        if offset is None:
            return inside, sum_like(slope, step) / step * ctx.scale, None, None, None, None, None
        of_offset = sum_like(gradient, offset) - sum_like(inside, offset)
        of_step = (sum_like(slope, step) - offset * of_offset) / step
        return inside, of_step * ctx.scale, of_offset * ctx.scale, None, None, None, None


def sum_like(values: Tensor, like: Tensor) -> Tensor:
    """Sum over the axes along which `like` is broadcast, in float32 for values of any precision."""
    if like.ndim == 0:
        return values.sum(dtype=torch.float32)
    return values.to(torch.float32).sum_to_size(like.shape)


class Quantizer(nn.Module, ABC):
    """What all quantizers have in common: integers low..high, and a range that is fitted to a sample of values.

    Args:
        bits: number of bits b, 1 to 8.
        signed: whether the integers are -2^(b-1)..2^(b-1)-1, instead of 0..2^b-1.
        channels: None for one range for the layer, or the length of the first axis for one range for each channel.

    Raises:
        NetworkError: bits are out of range.
    """

    def __init__(self, bits: int, *, signed: bool, channels: int | None = None) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise NetworkError(f"a quantizer needs 1 to 8 bits, found {bits}")
        self.bits = bits
        self.low = -(2 ** (bits - 1)) if signed else 0
        self.high = self.low + 2**bits - 1
        self.shape = () if channels is None else (channels, 1, 1, 1)
        self.started: Tensor
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, value: Tensor) -> Tensor:
        if not self.started:
            with torch.no_grad():
                self.start(value)
                self.started.fill_(True)
        return self.quantize(value)

    @abstractmethod
    def cover(self, value: Tensor) -> None:
        """Set the range so that it covers a sample."""

    def start(self, value: Tensor) -> None:
        """Set the range from which training starts, according to a sample of values."""
        self.cover(value)

    @abstractmethod
    def stretch(self, factor: Tensor) -> None:
        """Make each range `factor` times as wide."""

    def fit(self, value: Tensor) -> None:
        """Set each range to quantize `value` with the least squared error, for use without training.

        The ranges tried go from the one that covers all values down to a tenth of it.
        """
        with torch.no_grad():
            self.cover(value)
            self.started.fill_(True)
            begun = {name: parameter.clone() for name, parameter in self.named_parameters()}
            best = torch.ones(self.shape, device=value.device)
            least = torch.full_like(best, math.inf)
            for tried in torch.linspace(0.1, 1.0, 46):
                self._restore(begun)
                self.stretch(tried)
                error = self._mean((self.quantize(value) - value).square())
                best, least = torch.where(error < least, tried, best), torch.minimum(error, least)
            self._restore(begun)
            self.stretch(best)

    def _restore(self, parameters: dict[str, Tensor]) -> None:
        for name, parameter in self.named_parameters():
            parameter.data.copy_(parameters[name])

    @abstractmethod
    def quantize(self, value: Tensor) -> Tensor:
        """The values on the grid, with the quantizer's gradient."""

    @abstractmethod
    def positive_step(self) -> Tensor:
        """The step, kept above zero even if the optimizer has moved the parameter below."""

    def is_sound(self) -> bool:
        """Whether all parameters are finite and any step is above zero. One channel without weights does no harm."""
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters())
        return finite and bool((self.positive_step() > SMALLEST_STEP).any())

    def anneal(self, progress: float) -> None:
        """Adapt to the progress of training, 0 to 1. Most quantizers have nothing to adapt."""

    @property
    def stored_bits(self) -> int:
        """Bits of the levels 0, 1, ... that store the integers: more than `bits` if the integers have gaps."""
        return self.bits

    def zero_point(self) -> Tensor:
        """The integer, counted from `low`, that stands for zero."""
        return torch.full(self.shape, -self.low, dtype=torch.int32, device=self.started.device)

    def integers(self, value: Tensor) -> Tensor:
        """Integers of `value` as int32, with the zero point taken off: integer * step equals what `quantize` gives."""
        level = (value / self.positive_step()).round() + self.zero_point()
        return level.clamp(0, self.high - self.low).to(torch.int32) - self.zero_point()

    def _largest(self, value: Tensor) -> Tensor:
        """Largest magnitude, over all values or over each channel."""
        return value.abs().flatten(1).amax(1).reshape(self.shape) if self.shape else value.abs().max()

    def _mean(self, value: Tensor) -> Tensor:
        """Mean magnitude, over all values or over each channel."""
        return value.abs().flatten(1).mean(1).reshape(self.shape) if self.shape else value.abs().mean()


class Shown(torch.autograd.Function):
    """Gives exactly `shown` in the forward pass, and passes the gradient times `scale` to `value`."""

    @staticmethod
    def forward(ctx, value: Tensor, shown: Tensor, scale: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.scale = scale
        return shown.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        return gradient * ctx.scale, None, None


class LearnedStepQuantizer(Quantizer):
    """Uniform quantizer whose step is trained.

        q = clip(round(v / s), low, high),   v^ = s q
        dv^/ds = q - v/s inside the range, low or high outside, scaled by 1 / sqrt(N high)

    N is the number of values that share a step; for activations these are the values of a batch. The paper counts the
    features of a layer instead, which changes the gradient by a constant factor, to which Adam is invariant. With one
    signed bit `high` is 0, and 1 takes its place.

    Source: Esser et al., "Learned Step Size Quantization", ICLR 2020, equations 1-3 and section 2.2
    (the step starts at 2 mean|v| / sqrt(high)).
    """

    def __init__(self, bits: int, *, signed: bool, channels: int | None = None) -> None:
        super().__init__(bits, signed=signed, channels=channels)
        self.step = nn.Parameter(torch.ones(self.shape))

    def cover(self, value: Tensor) -> None:
        self.step.copy_((self._largest(value) / max(self.high, 1)).clamp_min(SMALLEST_STEP))

    def start(self, value: Tensor) -> None:
        self.step.copy_((2 * self._mean(value) / math.sqrt(max(self.high, 1))).clamp_min(SMALLEST_STEP))

    def stretch(self, factor: Tensor) -> None:
        self.step.data.mul_(factor)

    def quantize(self, value: Tensor) -> Tensor:
        scale = 1 / math.sqrt(value.numel() / self.step.numel() * max(self.high, 1))
        return _Grid.apply(value, self.positive_step(), None, self.low, self.high, 0.0, scale)

    def positive_step(self) -> Tensor:
        return self.step.abs().clamp_min(SMALLEST_STEP)


class ThresholdQuantizer(Quantizer):
    """Uniform quantizer whose threshold, the end of its range, is trained on a logarithmic scale.

        s = t / 2^(b-1) signed, t / 2^b unsigned,   q = clip(round(v / s), low, high),   v^ = s q
        dv^/d(log2 t) = s ln 2 (q - v/s) where round(v/s) is in the range, s ln 2 low or s ln 2 high elsewhere

    Source: Jain et al., "Trained Quantization Thresholds for Accurate and Efficient Fixed-Point Inference of Deep
    Neural Networks", MLSys 2020, equations 4-8, without the restriction of steps to powers of two: the step of an array
    is a current, which need not be a power of two. A trained threshold with its scale is the dynamic-threshold scheme
    of 4-bit NOR-Flash networks (Chen, 2021).
    """

    def __init__(self, bits: int, *, signed: bool, channels: int | None = None) -> None:
        super().__init__(bits, signed=signed, channels=channels)
        self.log_threshold = nn.Parameter(torch.zeros(self.shape))

    def cover(self, value: Tensor) -> None:
        self.log_threshold.copy_(self._largest(value).clamp_min(SMALLEST_STEP).log2())

    def stretch(self, factor: Tensor) -> None:
        self.log_threshold.data.add_(factor.log2())

    def quantize(self, value: Tensor) -> Tensor:
        return _Grid.apply(value, self.positive_step(), None, self.low, self.high, 0.5, 1.0)

    def positive_step(self) -> Tensor:
        return torch.exp2(self.log_threshold) / (2**self.bits / 2 if self.low < 0 else 2**self.bits)


class ClippedQuantizer(Quantizer):
    """Unsigned activation quantizer with a trained clip, one for the layer.

        y = clip(x, 0, a),   y^ = round(y (2^b - 1) / a) a / (2^b - 1)
        dy^/da = 1 where x >= a, 0 elsewhere

    The paper adds an L2 penalty of the clip to the loss; here it is the optimizer's weight decay.

    Source: Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018,
    equations 1-3.
    """

    def __init__(self, bits: int) -> None:
        super().__init__(bits, signed=False)
        self.clip = nn.Parameter(torch.ones(()))

    def cover(self, value: Tensor) -> None:
        self.clip.copy_(value.max().clamp_min(SMALLEST_STEP))

    def stretch(self, factor: Tensor) -> None:
        self.clip.data.mul_(factor)

    def quantize(self, value: Tensor) -> Tensor:
        clip = self.clip.clamp_min(SMALLEST_STEP)
        clipped = torch.where(value >= clip, clip, value.clamp_min(0))
        step = self.positive_step().detach()
        return Shown.apply(clipped, (clipped / step).round() * step, 1.0)

    def positive_step(self) -> Tensor:
        return self.clip.clamp_min(SMALLEST_STEP) / self.high


class AsymmetricQuantizer(Quantizer):
    """Uniform quantizer with trained step and offset, so that its range need not be symmetric or start at zero.

        q = clip(round((v - b) / s), 0, 2^bits - 1),   v^ = s q + b,   b = -s z
        dv^/ds = q - (v - b)/s inside, q outside;  dv^/db = 0 inside, 1 outside; both scaled by 1 / sqrt(N high)

    The offset is kept at a whole number z of steps, 0..2^bits - 1, so that zero is on the grid. The level z stands for
    zero, and an array stores it in its reference column.

    Source: Bhalgat et al., "LSQ+: Improving low-bit quantization through learnable offsets and better
    initialization", CVPR Workshops 2020, equations 2-5.
    """

    def __init__(self, bits: int, *, channels: int | None = None) -> None:
        super().__init__(bits, signed=False, channels=channels)
        self.step = nn.Parameter(torch.ones(self.shape))
        self.offset = nn.Parameter(torch.zeros(self.shape))

    def cover(self, value: Tensor) -> None:
        flat = value.flatten(1) if self.shape else value.reshape(1, -1)
        lowest = flat.amin(1).clamp_max(0).reshape(self.shape)
        highest = flat.amax(1).clamp_min(0).reshape(self.shape)
        self.step.copy_(((highest - lowest) / self.high).clamp_min(SMALLEST_STEP))
        self.offset.copy_(lowest)

    def stretch(self, factor: Tensor) -> None:
        self.step.data.mul_(factor)
        self.offset.data.mul_(factor)

    def quantize(self, value: Tensor) -> Tensor:
        scale = 1 / math.sqrt(value.numel() / self.step.numel() * self.high)
        step = self.positive_step()
        offset = Shown.apply(self.offset, -self.zero_point() * step.detach(), 1.0)
        return _Grid.apply(value, step, offset, self.low, self.high, 0.0, scale)

    def positive_step(self) -> Tensor:
        return self.step.abs().clamp_min(SMALLEST_STEP)

    def zero_point(self) -> Tensor:
        return (-self.offset / self.positive_step()).round().clamp(0, self.high).to(torch.int32)
