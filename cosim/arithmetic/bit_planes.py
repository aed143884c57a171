"""Activations as what wordlines see: planes of 0 and 1, patterns of a group, and sums over both.

The kernel of an output is unrolled in the order (input channel, row, column) and cut into chunks of so many wordlines;
a chunk of a convolution group is a stream of patterns. A pattern is an integer whose bit r is the state of wordline r.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def pattern_kernels(kernel: tuple[int, ...], open_wordlines: int, groups: int) -> Tensor:
    """Kernels that make patterns of a bit plane: row r of a chunk counts 2^r.

    Args:
        kernel: (inputs, height, width) of one output.
        groups: of the convolution.

    Returns:
        (groups * chunks, *kernel) powers of two in float64.
    """
    depth = math.prod(kernel)
    row = torch.arange(depth)
    chunk, place = row // open_wordlines, row % open_wordlines
    kernels = torch.zeros(math.ceil(depth / open_wordlines), depth, dtype=torch.float64)
    kernels[chunk, row] = torch.pow(2.0, place.to(torch.float64))
    return kernels.reshape(-1, *kernel).repeat(groups, 1, 1, 1)


def bit_planes(activations: Tensor, bits: int) -> Iterator[Tensor]:
    """Bits of unsigned integers of any real dtype, least significant first; plane b counts 2^b."""
    whole = activations.to(torch.uint8)
    return ((whole >> bit) & 1 for bit in range(bits))


def pulse_planes(activations: Tensor, bits: int) -> Iterator[Tensor]:
    """Unsigned integers as pulse widths: in the t-th of 2^bits - 1 unit pulses an input is open if it is above t."""
    whole = activations.to(torch.uint8)
    return (whole > pulse for pulse in range(2**bits - 1))


def plane_patterns(planes: Iterable[Tensor], kernels: Tensor, geometry: dict[str, Any]) -> Tensor:
    """The pattern on every stream's wordlines while each plane is applied.

    A pattern is a sum of powers of two over the wordlines that are open, which is what a convolution of the plane with
    `pattern_kernels` computes, whatever stride, dilation and groups.

    Args:
        planes: (n, inputs, height, width) of 0 and 1 each, padded.
        geometry: stride, dilation and groups of the convolution.

    Returns:
        (planes, n, streams, out height, out width) integers, in the kernels' dtype.
    """
    return torch.stack([F.conv2d(plane.to(kernels.dtype), kernels, **geometry) for plane in planes])


def add_partial_sums(rows: Tensor, table: Tensor) -> Tensor:
    """Sum table rows over the chunks of a kernel and, weighted by powers of two, over bit planes.

    Args:
        rows: (chunks, bits, n, height, width) which row of the table answers each read.
        table: (rows, outputs) partial sums.

    Returns:
        (n, outputs, height, width) in the table's dtype.
    """
    chunks, bits, n, height, width = rows.shape
    weights = torch.pow(2.0, torch.arange(bits, device=table.device)).repeat(chunks).to(table.dtype)
    bags = rows.permute(2, 3, 4, 0, 1).reshape(n * height * width, chunks * bits)
    summed = F.embedding_bag(bags, table, mode="sum", per_sample_weights=weights.expand(bags.shape))
    return summed.reshape(n, height, width, -1).permute(0, 3, 1, 2)
