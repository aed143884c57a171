"""A gain and an offset a channel, where no layer takes them in: input normalization, batch norm on its own."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn

_ADDING, _MULTIPLYING = ("add", "sub"), ("mul", "truediv", "div")


class ChannelAffine(nn.Module):
    """y = gain x + offset, fixed; one number for all channels, or one a channel, shapes (1,) or (channels,)."""

    def __init__(self, gain: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.gain: Tensor
        self.offset: Tensor
        self.register_buffer("gain", gain)
        self.register_buffer("offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        return channel_affine(x, self.gain, self.offset)


def channel_affine(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """gain x + offset for x (n, channels, ...)."""
    shape = (-1, *(1 for _ in x.shape[2:]))
    return x * gain.reshape(shape) + offset.reshape(shape)


def norm_as_affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> ChannelAffine:
    """Batch norm on its running statistics."""
    return ChannelAffine(*norm_gain_and_offset(norm))


def norm_gain_and_offset(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What batch norm does to a channel, on its running statistics, (channels,) each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = torch.rsqrt(norm.running_var + norm.eps)
    offset = -gain * norm.running_mean
    if norm.affine:
        gain, offset = gain * norm.weight, offset * norm.weight + norm.bias
    return gain.detach(), offset.detach()


def arithmetic_as_affine(node: fx.Node, traced: fx.GraphModule) -> tuple[fx.Node, ChannelAffine] | None:
    """What an operation of a tensor and a constant is applied to, and what it does; None for any other node."""
    name = getattr(node.target, "__name__", str(node.target))
    if name not in (*_ADDING, *_MULTIPLYING) or len(node.args) != 2 or node.kwargs:
        return None
    (first, second), numbers = node.args, [_constant(value, traced) for value in node.args]
    if isinstance(first, fx.Node) and numbers[0] is None and numbers[1] is not None:
        x, number = first, numbers[1]
        one, zero = torch.ones(1), torch.zeros(1)
        gain = number if name == "mul" else 1 / number if name in _MULTIPLYING else one
        offset = number if name == "add" else -number if name == "sub" else zero
    elif (
        isinstance(second, fx.Node) and numbers[1] is None and numbers[0] is not None and name not in ("truediv", "div")
    ):
        x, number = second, numbers[0]
        gain = number if name == "mul" else torch.full((1,), -1.0 if name == "sub" else 1.0)
        offset = torch.zeros(1) if name == "mul" else number
    else:
        return None
    if not (torch.isfinite(gain).all() and torch.isfinite(offset).all()):
        return None
    return x, ChannelAffine(gain, offset)


def _constant(value: object, traced: fx.GraphModule) -> Tensor | None:
    """A number, or a constant tensor of one value or one a channel, as (values,); None for anything else."""
    if isinstance(value, fx.Node) and value.op == "get_attr":
        value = operator.attrgetter(str(value.target))(traced)
    if isinstance(value, int | float):
        return torch.tensor([float(value)])
    if not isinstance(value, Tensor):
        return None
    # Channels are the third axis from the end: (channels, 1, 1) and (1, channels, 1, 1).
    single = value.numel() == 1
    a_channel = value.ndim in (3, 4) and value.shape[-2:] == (1, 1) and value.shape[-3] == value.numel()
    return value.detach().flatten().float() if single or a_channel else None
