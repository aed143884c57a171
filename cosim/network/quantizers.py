"""Quantizers with a learned step size, used while a network is trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class _LearnedStep(torch.autograd.Function):
    """Rounds `value / step` to integers in [low, high] and scales back; the gradients of LSQ."""

    @staticmethod
    def forward(ctx, value: Tensor, step: Tensor, low: int, high: int) -> Tensor:  # type: ignore[no-untyped-def]
        scaled = value / step
        ctx.save_for_backward(scaled)
        ctx.low, ctx.high = low, high
        return scaled.round().clamp_(low, high) * step

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        (scaled,) = ctx.saved_tensors
        inside = (scaled >= ctx.low) & (scaled <= ctx.high)
        slope = torch.where(inside, scaled.round() - scaled, scaled.clamp(ctx.low, ctx.high))
        normalizer = 1 / math.sqrt(scaled.numel() * ctx.high)
        return gradient * inside, (gradient * slope).sum() * normalizer, None, None


class LearnedStepQuantizer(nn.Module):
    """Uniform quantizer whose step size is trained with the weights.

        q = clip(round(v / s), low, high),   v^ = s q
        dv^/ds = q - v/s inside the range, low or high outside, scaled by 1 / sqrt(N high)

    Args:
        bits: 1 to 8.
        signed: integers -2^(b-1)..2^(b-1)-1, else 0..2^b-1.

    Source: Esser et al., "Learned Step Size Quantization", ICLR 2020, equations 1-3 and section 2.2
    (the step starts at 2 mean|v| / sqrt(high)).
    """

    def __init__(self, bits: int, *, signed: bool) -> None:
        super().__init__()
        self.low = -(2 ** (bits - 1)) if signed else 0
        self.high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.bits = bits
        self.step = nn.Parameter(torch.ones(()))
        self.started: Tensor
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, value: Tensor) -> Tensor:
        if not self.started:
            self.start(value)
        return _LearnedStep.apply(value, self.positive_step(), self.low, self.high)

    def start(self, value: Tensor) -> None:
        """Set the step from a sample of the values to come."""
        with torch.no_grad():
            self.step.fill_(2 * value.abs().mean().item() / math.sqrt(self.high))
            self.started.fill_(True)

    def positive_step(self) -> Tensor:
        """The step, kept above zero whatever the optimiser did to it."""
        return self.step.abs().clamp_min(1e-8)

    def integers(self, value: Tensor) -> Tensor:
        """The integers q of `value`, int8 for signed values and uint8 for unsigned ones."""
        kind = torch.int8 if self.low < 0 else torch.uint8
        return (value / self.positive_step()).round().clamp(self.low, self.high).to(kind)
