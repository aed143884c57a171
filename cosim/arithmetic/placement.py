"""What the cells of a layer conduct, and how its kernels are cut, before outputs are spread over tiles.

The kernel of an output is unrolled in the order (input channel, row, column) and cut into chunks of so many inputs. A
chunk of a convolution group is a stream: its inputs see the same patterns whatever the output. A weight of more bits
than a cell holds lies in several cells, its digits ("slices"), most significant first.
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
        groups: of the convolution.
        open_inputs: of one chunk, at most.
    """

    kernel: tuple[int, ...]
    groups: int
    open_inputs: int

    @property
    def depth(self) -> int:
        """Rows of an unrolled kernel."""
        return math.prod(self.kernel)

    @property
    def count(self) -> int:
        """Chunks of a kernel."""
        return math.ceil(self.depth / self.open_inputs)

    @property
    def streams(self) -> int:
        """Chunks of the kernels of all groups; stream = group * count + chunk."""
        return self.groups * self.count

    def rows(self, chunk: int) -> tuple[int, int]:
        """Start and stop of a chunk in the unrolled kernel."""
        return chunk * self.open_inputs, min((chunk + 1) * self.open_inputs, self.depth)

    def cut(self, rows: Tensor) -> Tensor:
        """Rows (..., depth) by chunk: (..., count, open_inputs), 0 where the last chunk has no rows."""
        missing = self.count * self.open_inputs - self.depth
        return F.pad(rows, (0, missing)).unflatten(-1, (self.count, self.open_inputs))


@dataclass(frozen=True, eq=False)
class Placement:
    """What every cell of a layer conducts, in unit currents.

    Attributes:
        units: (outputs, places, depth), of the dtype of what is placed.
        places: what a unit of each place counts: (1,) for weights of one cell, (16, 1) for 8 bits in two; (1, -1) and
            (16, -16, 1, -1) for differential pairs.
        reference_units: what each cell of the reference column conducts; None without one, with differential pairs.
        zero_units: (outputs,) what an output's cells conduct together for weight 0; 0 of a pair.
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
        """Weights as levels about a zero point, beside a reference column.

        Args:
            levels: (outputs, inputs / groups, kernel height, kernel width) 0..2^weight_bits - 1, of any real dtype.
            zero_points: (outputs,) levels that stand for weight 0.
            offset_units: units that level 0 of a cell conducts.
        """
        places = _places(weight_bits, cell_bits)
        reference_units = _reference_level(zero_points, 2**cell_bits, places[0]) + offset_units
        units = _digits(levels.flatten(1), places, 2**cell_bits) + offset_units
        return cls(units, places, reference_units, zero_points + offset_units * sum(places), chunks)

    @classmethod
    def differential(cls, weights: Tensor, cell_bits: int, offset_units: int, chunks: Chunks) -> Placement:
        """Weights as pairs of a positive and a negative magnitude, of as many slices as the largest needs.

        Args:
            weights: (outputs, inputs / groups, kernel height, kernel width) signed integers.
        """
        signed = weights.flatten(1)
        places = _places(max(1, int(signed.abs().max()).bit_length()), cell_bits)
        magnitudes = [_digits(side.clamp_min(0), places, 2**cell_bits) for side in (signed, -signed)]
        units = torch.stack(magnitudes, 2).flatten(1, 2) + offset_units
        pairs = tuple(sign * place for place in places for sign in (1, -1))
        return cls(units, pairs, None, torch.zeros(len(units), dtype=torch.int64), chunks)  # what both conduct cancels


def _places(bits: int, cell_bits: int) -> tuple[int, ...]:
    """What the slices of a number of so many bits count, most significant first."""
    return tuple(2 ** (cell_bits * digit) for digit in reversed(range(math.ceil(bits / cell_bits))))


def _digits(values: Tensor, places: Sequence[int], base: int) -> Tensor:
    """Values (outputs, depth) below base^places as their digits (outputs, places, depth)."""
    if len(places) == 1:  # training goes through here with every batch
        return values[:, None]
    return torch.stack([values // place % base for place in places], 1)


def _reference_level(zero_points: Tensor, cell_levels: int, place: int) -> int:
    """The reference column's level: close to the zero points, so that wires take from both alike."""
    return min(max(round(float(zero_points.to(torch.float64).median()) / place), 1), cell_levels - 1)
