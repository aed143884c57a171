"""A layer's weights on tiles: unrolled, cut into groups of wordlines, encoded as levels.

The kernel of each output is unrolled in the order (input channel, row, column) and cut into chunks of
`open_wordlines`; a chunk occupies a group of wordlines and is read at once. A weight of more bits than a cell holds
lies in several cells ("slices"), most significant first, on bitlines side by side. The outputs are cut into blocks that
fit the bitlines of a tile. Of signed weights (`array.encoding`):

- offset: a cell holds weight + zero point. The last bitline is the reference column, whose cells all hold the reference
  level, and

      sum of weight * bit = sum over slices of place * column sum - reference sum * zero point / reference level

- differential: a slice is a pair of bitlines, which hold the magnitudes of positive and of negative weights, and

      sum of weight * bit = sum over slices of place * (positive column sum - negative column sum)

With amplitude reads (`read.mode`) a tile is used the other way round: inputs are on bitlines, and the weights of an
output on a wordline, whose source line is sensed. What is called a wordline here is then a bitline, and a bitline a
wordline.

Groups fill a tile from the sense end upwards. The groups of a grouped (depthwise) convolution use different
wordlines of the same bitlines, since one group at a time is open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosim.arithmetic.bit_planes import pattern_kernels
from cosim.arithmetic.partial_sums import reference_level_for
from cosim.config import Array, Cell
from cosim.errors import NetworkError
from cosim.network import LayerSpec

# Up to this many wordlines every pattern of a group is worth a table entry of its own.
ENUMERATED_WORDLINES = 12


@dataclass(frozen=True, eq=False)
class Group:
    """The wordlines opened together in one read, and the cells on them.

    Attributes:
        tile: the physical array it lies on, counted within the layer.
        first_wordline: its position on the tile, 0 at the sense end.
        stream: which of the layer's pattern streams drives it.
        rows: start and stop in the unrolled kernel.
        outputs: start and stop in the layer's outputs.
        levels: (wordlines, bitlines) unit currents that the cells conduct, uint8: levels and `cell.offset_units`;
            bitlines belong to the outputs in order, each with one a place of the plan; the reference column, if there
            is one, is the last.
        around: (wordlines of the tile, bitlines) the same of the whole tile, shared by its groups; None where its other
            cells are off.
    """

    tile: int
    first_wordline: int
    stream: int
    rows: tuple[int, int]
    outputs: tuple[int, int]
    levels: np.ndarray
    around: np.ndarray | None = None

    @property
    def wordlines(self) -> int:
        return self.levels.shape[0]

    def tile_levels(self, wordlines: int) -> np.ndarray:
        """Levels of every cell on a tile of so many wordlines: (wordlines, bitlines) integers."""
        if self.around is not None:
            return self.around
        tile = np.zeros((wordlines, self.levels.shape[1]), self.levels.dtype)
        tile[self.first_wordline : self.first_wordline + self.wordlines] = self.levels
        return tile


@dataclass(frozen=True, eq=False)
class TilePlan:
    """Where every weight of a layer lies.

    Attributes:
        groups: every group of every tile; the groups of one stream differ in their outputs only.
        tiles: physical arrays used.
        chunks: groups of wordlines the kernel of one output is cut into; stream = conv group * chunks + chunk.
        places: (bitlines of an output,) what a unit of each counts: (1,) for weights of one cell, (16, 1) for 8 bits in
            two; (1, -1) and (16, -16, 1, -1) for differential pairs.
        reference_level: what the cells of the reference column conduct, in unit currents; None without one, with
            differential pairs.
        zero_units: (outputs,) what an output's cells conduct together for weight 0, in unit currents; 0 of a pair.
        pattern_kernels: (streams, inputs / conv groups, kernel height, kernel width) powers of two in float64:
            convolved with a bit plane they give the pattern on a stream's wordlines.
    """

    layer: LayerSpec
    groups: tuple[Group, ...]
    tiles: int
    chunks: int
    places: np.ndarray
    reference_level: int | None
    zero_units: np.ndarray
    pattern_kernels: Tensor

    @property
    def streams(self) -> int:
        return len(self.pattern_kernels)

    @property
    def enumerated(self) -> bool:
        """Whether groups are small enough to list every pattern they can see."""
        return max(self.stream_wordlines()) <= ENUMERATED_WORDLINES

    def stream_wordlines(self) -> list[int]:
        """Wordlines of each stream's groups."""
        wordlines = [0] * self.streams
        for group in self.groups:
            wordlines[group.stream] = group.wordlines
        return wordlines


def plan_tiles(layer: LayerSpec, array: Array, cell: Cell, *, transposed: bool = False) -> TilePlan:
    """Place a layer on tiles.

    Args:
        transposed: inputs on bitlines and outputs on wordlines.

    Raises:
        NetworkError: a tile has too few lines for one output and the reference column.
    """
    input_lines, output_lines = array.wordlines, array.bitlines
    if transposed:
        input_lines, output_lines = output_lines, input_lines
    if array.encoding == "offset":
        levels, places = _offset(layer, cell)
        reference_level = reference_level_for(layer.zero_point, cell.levels, int(places[0])) + cell.offset_units
        zero_units = layer.zero_point.numpy() + cell.offset_units * int(places.sum())
    else:
        levels, places = _differential(layer, cell)
        reference_level, zero_units = None, np.zeros(layer.outputs, np.int64)  # what both of a pair conduct cancels
    references = int(reference_level is not None)
    per_block = (output_lines - references) // len(places)
    if per_block == 0:
        kind = "wordlines" if transposed else "bitlines"
        raise NetworkError(
            f"layer {layer.name!r}: {layer.weight_bits}-bit weights take {len(places)} cells of {cell.bits} bits"
            f"{' and a reference column' if references else ', two a slice'}, but a tile has {output_lines} "
            f"{kind}: set array.{kind} >= {len(places) + references}"
        )
    convs, columns = layer.groups, layer.outputs // layer.groups
    depth = levels.shape[-1]
    levels = levels.reshape(convs, columns, len(places), depth)
    chunks = math.ceil(depth / array.open_wordlines)
    groups_per_tile = input_lines // array.open_wordlines
    tiles_per_block = math.ceil(convs * chunks / groups_per_tile)

    groups = []
    for block, first in enumerate(range(0, columns, per_block)):
        last = min(first + per_block, columns)
        for stream in range(convs * chunks):
            conv, chunk = divmod(stream, chunks)
            rows = (chunk * array.open_wordlines, min((chunk + 1) * array.open_wordlines, depth))
            weights = levels[conv, first:last, :, slice(*rows)].reshape((last - first) * len(places), -1).T
            held = np.pad(weights, ((0, 0), (0, references)), constant_values=reference_level or 0)
            tile, position = divmod(stream, groups_per_tile)
            if position == 0:  # cells without a weight are off
                around = np.zeros((input_lines, held.shape[1]), np.uint8)
            first_wordline = position * array.open_wordlines
            around[first_wordline : first_wordline + len(held)] = held
            groups.append(
                Group(
                    tile=block * tiles_per_block + tile,
                    first_wordline=first_wordline,
                    stream=stream,
                    rows=rows,
                    outputs=(conv * columns + first, conv * columns + last),
                    levels=around[first_wordline : first_wordline + len(held)],
                    around=around,
                )
            )
    return TilePlan(
        layer,
        tuple(groups),
        1 + max(group.tile for group in groups),
        chunks,
        places,
        reference_level,
        zero_units,
        pattern_kernels(tuple(layer.weight.shape[1:]), array.open_wordlines, layer.groups),
    )


def _offset(layer: LayerSpec, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """What cells conduct (outputs, places, depth) for weight + zero point, and what places count."""
    places = cell.levels ** np.arange(math.ceil(layer.weight_bits / cell.bits))[::-1]
    return _digits(layer.levels().flatten(1).numpy(), places, cell), places


def _differential(layer: LayerSpec, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """The same for magnitudes of positive and of negative weights, in turn; slices are as many as the largest needs."""
    weights = layer.weight.flatten(1).to(torch.int64).numpy()
    bits = max(1, int(np.abs(weights).max()).bit_length())
    places = cell.levels ** np.arange(math.ceil(bits / cell.bits))[::-1]
    pairs = np.stack([_digits(np.maximum(part, 0), places, cell) for part in (weights, -weights)], axis=2)
    return pairs.reshape(len(weights), -1, weights.shape[1]), np.outer(places, [1, -1]).ravel()


def _digits(values: np.ndarray, places: np.ndarray, cell: Cell) -> np.ndarray:
    """Values (outputs, depth) as what their cells conduct (outputs, places, depth), in unit currents."""
    return (values[:, None] // places[:, None] % cell.levels + cell.offset_units).astype(np.uint8)
