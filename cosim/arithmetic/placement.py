"""Placement: what the cells of a layer conduct, and how its kernels are cut, before outputs are spread over tiles.

The kernel of an output is unrolled in the order (input channel, row, column) and cut into chunks, each with at most a
given number of inputs. A chunk of a convolution group is a stream: its inputs see the same patterns for every output. A
weight with more bits than a cell lies in several cells, which hold its digits ("slices"), most significant first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Powers of two and their sums are exact in float64 up to here.
_MOST_NUMBERED = 53


@dataclass(frozen=True)
class Chunks:
    """How the kernels of a layer are cut.

    Attributes:
        kernel: (inputs, height, width) of one output.
        groups: number of groups of the convolution.
        open_inputs: largest number of inputs of a chunk.
    """

    kernel: tuple[int, ...]
    groups: int
    open_inputs: int

    @property
    def depth(self) -> int:
        """Number of rows of an unrolled kernel."""
        return math.prod(self.kernel)

    @property
    def count(self) -> int:
        """Number of chunks of a kernel."""
        return math.ceil(self.depth / self.open_inputs)

    @property
    def streams(self) -> int:
        """Number of streams, the chunks of the kernels of all groups: stream = group * count + chunk."""
        return self.groups * self.count

    def rows(self, chunk: int) -> tuple[int, int]:
        """Start and stop of a chunk in the unrolled kernel."""
        return chunk * self.open_inputs, min((chunk + 1) * self.open_inputs, self.depth)

    def cut(self, rows: Tensor) -> Tensor:
        """Divide rows (..., depth) into chunks (..., count, open_inputs); missing rows of the last chunk are 0."""
        missing = self.count * self.open_inputs - self.depth
        return F.pad(rows, (0, missing)).unflatten(-1, (self.count, self.open_inputs))


@dataclass(frozen=True, eq=False)
class Placement:
    """What every cell of a layer conducts, in unit currents.

    Attributes:
        units: (outputs, places, depth) units of each cell, of the dtype of the levels or weights.
        places: what a unit of each place counts: (1,) for weights of one cell, (16, 1) for 8 bits in two cells; (1, -1)
            and (16, -16, 1, -1) for differential pairs.
        reference_units: units that each cell of the reference column conducts; None for differential pairs, which have
            no reference column.
        zero_units: (outputs,) units that stand for weight 0, the sum over an output's cells; 0 for pairs.
        chunks: how kernels are cut.
    """

    units: Tensor
    places: tuple[int, ...]
    reference_units: int | None
    zero_units: Tensor
    chunks: Chunks

    @classmethod
    def offset(
        cls, levels: Tensor, zero_points: Tensor, weight_bits: int, cell_bits: int, offset_units: int, chunks: Chunks
    ) -> Placement:
        """Place weights as levels about a zero point, beside a reference column.

        Args:
            levels: (outputs, inputs / groups, kernel height, kernel width) 0..2^weight_bits - 1, of any real dtype.
            zero_points: (outputs,) levels that stand for weight 0.
            weight_bits: number of bits of a weight.
            cell_bits: number of bits of a cell.
            offset_units: units that level 0 of a cell conducts.
            chunks: how kernels are cut.
        """
        places = _places(weight_bits, cell_bits)
        reference_units = _reference_level(zero_points, 2**cell_bits, places[0]) + offset_units
        units = _digits(levels.flatten(1), places, 2**cell_bits) + offset_units
        return cls(units, places, reference_units, zero_points + offset_units * sum(places), chunks)

    @classmethod
    def differential(cls, weights: Tensor, cell_bits: int, offset_units: int, chunks: Chunks) -> Placement:
        """Place weights as pairs of a positive and a negative magnitude, in as many slices as the largest one needs.

        Args:
            weights: (outputs, inputs / groups, kernel height, kernel width) signed integers.
            cell_bits: number of bits of a cell.
            offset_units: units that level 0 of a cell conducts.
            chunks: how kernels are cut.
        """
        signed = weights.flatten(1)
        places = _places(max(1, int(signed.abs().max()).bit_length()), cell_bits)
        magnitudes = [_digits(side.clamp_min(0), places, 2**cell_bits) for side in (signed, -signed)]
        units = torch.stack(magnitudes, 2).flatten(1, 2) + offset_units
        pairs = tuple(sign * place for place in places for sign in (1, -1))
        return cls(units, pairs, None, torch.zeros(len(units), dtype=torch.int64), chunks)  # a pair's offsets cancel


def _places(bits: int, cell_bits: int) -> tuple[int, ...]:
    """What each slice of a number with `bits` bits counts, most significant first."""
    return tuple(2 ** (cell_bits * digit) for digit in reversed(range(math.ceil(bits / cell_bits))))


def _digits(values: Tensor, places: Sequence[int], base: int) -> Tensor:
    """Digits (outputs, places, depth) of values (outputs, depth)."""
    if len(places) == 1:  # a short cut for training, which calls this with every batch
        return values[:, None]
    return torch.stack([values // place % base for place in places], 1)


def _reference_level(zero_points: Tensor, cell_levels: int, place: int) -> int:
    """The reference column's level. It is close to the zero points, so that wires reduce both currents alike."""
    return min(max(round(float(zero_points.to(torch.float64).median()) / place), 1), cell_levels - 1)
