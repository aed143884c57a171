"""Activations as what inputs see: planes of 0 and 1, and the patterns that groups of inputs make of them.

A pattern is an integer whose bit i is the state of input i of its group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# The same rule for arrays and tensors.
Numbers = TypeVar("Numbers", np.ndarray, Tensor)


def bit_planes(activations: Tensor, bits: int) -> Iterator[Tensor]:
    """Bits of unsigned integers of any real dtype, least significant first; plane b counts 2^b."""
    whole = activations.to(torch.uint8)
    return ((whole >> bit) & 1 for bit in range(bits))


def plane_counts(bits: int, device: torch.device | str = "cpu") -> Tensor:
    """What each bit plane counts: (bits,) float32 powers of two."""
    return torch.pow(2.0, torch.arange(bits, device=device))


def pulse_planes(activations: Tensor, bits: int) -> Iterator[Tensor]:
    """Unsigned integers as pulse widths: in the t-th of 2^bits - 1 unit pulses an input is open if it is above t."""
    whole = activations.to(torch.uint8)
    return (whole > pulse for pulse in range(2**bits - 1))


def plane_patterns(planes: Iterable[Tensor], kernels: Tensor, geometry: dict[str, Any]) -> Tensor:
    """The pattern on every stream's inputs while each plane is applied.

    A pattern is a sum of powers of two over the inputs that are open, which is what a convolution of the plane with
    `Chunks.pattern_kernels` computes, whatever stride, dilation and groups.

    Args:
        planes: (n, inputs, height, width) of 0 and 1 each, padded.
        geometry: stride, dilation and groups of the convolution.

    Returns:
        (planes, n, streams, out height, out width) integers, in the kernels' dtype.
    """
    return torch.stack([F.conv2d(plane.to(kernels.dtype), kernels, **geometry) for plane in planes])


def pattern_bits(patterns: Numbers, inputs: int) -> Numbers:
    """State of each input under patterns (n,): (n, inputs) of 0 and 1."""
    if isinstance(patterns, Tensor):
        return (patterns[:, None] >> torch.arange(inputs, device=patterns.device)) & 1
    return (patterns[:, None] >> np.arange(inputs)) & 1


def every_pattern(inputs: int, device: torch.device) -> Tensor:
    """State of each input under every pattern: (2^inputs, inputs) of 0 and 1, float32."""
    return pattern_bits(torch.arange(2**inputs, device=device), inputs).to(torch.float32)
