"""Operations of a model that are a gain and an offset for each channel: batch norm and arithmetic with constants."""

from __future__ import annotations

import operator
from typing import Literal

import torch
from torch import Tensor, fx, nn

from cosim.network.channel_affine import ChannelAffine

Kind = Literal["add", "sub", "mul", "div"]
# Name of an operator, function or method -> kind of arithmetic.
_KINDS: dict[str, Kind] = {"add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "div": "div"}


def norm_as_affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> ChannelAffine:
    """A gain and an offset that equal batch norm with its running statistics."""
    return ChannelAffine(*norm_gain_and_offset(norm))


def norm_gain_and_offset(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Gain and offset of batch norm for each channel, from its running statistics: (channels,) each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = torch.rsqrt(norm.running_var + norm.eps)
    offset = -gain * norm.running_mean
    if norm.affine:
        gain, offset = gain * norm.weight, offset * norm.weight + norm.bias
    return gain.detach(), offset.detach()


def arithmetic_as_affine(node: fx.Node, traced: fx.GraphModule) -> tuple[fx.Node, ChannelAffine] | None:
    """The tensor and the gain and offset of an operation of a tensor and a constant; None for any other node."""
    kind = _KINDS.get(getattr(node.target, "__name__", str(node.target)))
    if kind is None or len(node.args) != 2 or node.kwargs:
        return None
    numbers = [_constant(value, traced) for value in node.args]
    for place, (x, number) in enumerate(zip(node.args, reversed(numbers), strict=True)):
        if isinstance(x, fx.Node) and number is not None and numbers[place] is None:
            affine = affine_of(kind, number, number_first=place == 1)
            return None if affine is None else (x, affine)
    return None


def affine_of(kind: Kind, number: Tensor, *, number_first: bool) -> ChannelAffine | None:
    """An operation of x and a number; None for number / x, and if the gain or the offset is not finite.

    Args:
        kind: the operation.
        number: (1,) or (channels,).
        number_first: whether the number is the first operand, as in number - x.
    """
    one, zero = torch.ones(1), torch.zeros(1)
    if kind == "div" and number_first:
        return None
    gain, offset = {
        "add": (one, number),
        "sub": (-one, number) if number_first else (one, -number),
        "mul": (number, zero),
        "div": (1 / number, zero),
    }[kind]
    return ChannelAffine(gain, offset) if torch.isfinite(gain).all() and torch.isfinite(offset).all() else None


def numbers_per_channel(value: Tensor) -> Tensor | None:
    """The numbers of a constant operand of images: (1,) for all channels or (channels,), or None for any other shape.

    Channels must be the third axis from the end: (channels, 1, 1) or (1, channels, 1, 1).
    """
    per_channel = value.ndim in (3, 4) and value.shape[-2:] == (1, 1) and value.shape[-3] == value.numel()
    return value.detach().flatten().float() if value.numel() == 1 or per_channel else None


def _constant(value: object, traced: fx.GraphModule) -> Tensor | None:
    if isinstance(value, fx.Node) and value.op == "get_attr":
        value = operator.attrgetter(str(value.target))(traced)
    if isinstance(value, int | float):
        return torch.tensor([float(value)])
    return numbers_per_channel(value) if isinstance(value, Tensor) else None
