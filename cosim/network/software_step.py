"""Steps of a network that stay in software."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cosim.errors import NetworkError, nearest
from cosim.network.channel_affine import channel_affine

# Kind of a step: what computes it, and the arguments that it may have.
_KINDS: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "relu": (lambda x: x.relu(), ()),
    "relu6": (lambda x: x.clamp(0, 6), ()),
    "leaky_relu": (F.leaky_relu, ("negative_slope",)),
    "flatten": (lambda x: x.flatten(1), ()),
    "max_pool2d": (F.max_pool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
    "avg_pool2d": (F.avg_pool2d, ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")),
    "adaptive_avg_pool2d": (F.adaptive_avg_pool2d, ("output_size",)),
    "affine": (
        lambda x, gain, offset: channel_affine(x, torch.tensor(gain).to(x), torch.tensor(offset).to(x)),
        ("gain", "offset"),
    ),
    "add": (lambda x, y: x + y, ()),
    "concat": (lambda *parts: torch.cat(parts, 1), ()),
}
LARGEST_COUNT = 1 << 16


@dataclass(frozen=True)
class SoftwareStep:
    """A step that stays in software, with its arguments.

    The kinds relu, relu6, leaky_relu, flatten, max_pool2d, avg_pool2d and adaptive_avg_pool2d are as in torch. The kind
    affine has a gain and an offset for each channel, or one for all. The kind add has two inputs, and concat, which
    joins channels, any number of inputs. Arguments are finite numbers, whole ones up to 65,536, and lists of these.

    Raises:
        NetworkError: there is no such kind, or an argument is not one of the kind's or has another value.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in _KINDS:
            raise NetworkError(f"unknown software step {self.name!r}: {nearest(self.name, _KINDS)}")
        _, known = _KINDS[self.name]
        for key, value in self.arguments.items():
            if key not in known:
                raise NetworkError(
                    f"software step {self.name!r} has no argument {str(key)[:80]!r}: expected "
                    f"{', '.join(known) or 'none'}"
                )
            if not _is_understood(value):
                raise NetworkError(
                    f"software step {self.name!r}: {key} must be finite numbers, whole ones at most {LARGEST_COUNT}, "
                    f"found {str(value)[:80]}: write the card again"
                )

    def __call__(self, *inputs: Tensor) -> Tensor:
        compute, _ = _KINDS[self.name]
        try:
            return compute(*inputs, **self.arguments)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise NetworkError(f"software step {self.name!r} with {dict(self.arguments)} failed: {error}") from error


def _is_understood(value: object) -> bool:
    match value:
        case None | bool():
            return True
        case int():
            return abs(value) <= LARGEST_COUNT
        case float():
            return math.isfinite(value)
        case list() | tuple():
            return all(_is_understood(entry) for entry in value)
    return False
