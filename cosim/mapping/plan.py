"""A layer's weights on tiles: unrolled, cut into groups of wordlines, encoded as levels.

The kernel of each output is unrolled in the order (input channel, row, column) and cut into chunks of
`open_wordlines`; a chunk occupies a group of wordlines and is read at once. A weight of more bits than a cell holds
lies in several cells, most significant first, on bitlines side by side. The outputs are cut into blocks that fit the
bitlines of a tile, less one for the reference column, whose cells all hold the reference level:

    sum of weight * bit = sum over slices of place * column sum - reference sum * zero point / reference level

Groups fill a tile from the sense end upwards. The groups of a grouped (depthwise) convolution use different
wordlines of the same bitlines, since one group at a time is open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cosim.config import Array, Cell
from cosim.errors import NetworkError
from cosim.network import LayerSpec
from cosim.network.bit_planes import pattern_kernels
from cosim.network.partial_sums import reference_level_for

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
        outputs: start and stop in the layer's outputs, one bitline each; the reference column follows.
        levels: (wordlines, bitlines) unit currents that the cells conduct, uint8: levels and `cell.offset_units`; the
            last column is the reference, those before it belong to the outputs in order, each with its slices, most
            significant first.
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
        places: (slices,) what a unit of each slice counts: (1,) for weights of one cell, (16, 1) for 8 bits in two.
        reference_level: what the cells of the reference column conduct, in unit currents.
        zero_units: (outputs,) what an output's cells conduct together for weight 0, in unit currents.
        pattern_kernels: (streams, inputs / conv groups, kernel height, kernel width) powers of two in float64:
            convolved with a bit plane they give the pattern on a stream's wordlines.
    """

    layer: LayerSpec
    groups: tuple[Group, ...]
    tiles: int
    chunks: int
    places: np.ndarray
    reference_level: int
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


def plan_tiles(layer: LayerSpec, array: Array, cell: Cell) -> TilePlan:
    """Place a layer on tiles.

    Raises:
        NetworkError: a tile has too few bitlines for one output's slices and the reference column.
    """
    slices = math.ceil(layer.weight_bits / cell.bits)
    per_block = (array.bitlines - 1) // slices
    if per_block == 0:
        raise NetworkError(
            f"layer {layer.name!r}: {layer.weight_bits}-bit weights take {slices} cells of {cell.bits} bits and a "
            f"reference column, but a tile has {array.bitlines} bitlines: set array.bitlines >= {slices + 1}"
        )
    places = cell.levels ** np.arange(slices)[::-1]
    reference_level = reference_level_for(layer.zero_point, cell.levels, int(places[0])) + cell.offset_units
    convs, columns = layer.groups, layer.outputs // layer.groups
    whole = layer.levels().reshape(convs, columns, -1).numpy()
    levels = whole[:, :, None] // places[:, None] % cell.levels + cell.offset_units  # convs, columns, slices, depth
    levels = levels.astype(np.uint8)
    depth = levels.shape[3]
    chunks = math.ceil(depth / array.open_wordlines)
    groups_per_tile = array.wordlines // array.open_wordlines
    tiles_per_block = math.ceil(convs * chunks / groups_per_tile)

    groups = []
    for block, first in enumerate(range(0, columns, per_block)):
        last = min(first + per_block, columns)
        for stream in range(convs * chunks):
            conv, chunk = divmod(stream, chunks)
            rows = (chunk * array.open_wordlines, min((chunk + 1) * array.open_wordlines, depth))
            weights = levels[conv, first:last, :, slice(*rows)].reshape((last - first) * slices, -1).T
            reference = np.full((len(weights), 1), reference_level, np.uint8)
            tile, position = divmod(stream, groups_per_tile)
            if position == 0:  # cells without a weight are off
                around = np.zeros((array.wordlines, weights.shape[1] + 1), np.uint8)
            first_wordline = position * array.open_wordlines
            around[first_wordline : first_wordline + len(weights)] = np.hstack([weights, reference])
            groups.append(
                Group(
                    tile=block * tiles_per_block + tile,
                    first_wordline=first_wordline,
                    stream=stream,
                    rows=rows,
                    outputs=(conv * columns + first, conv * columns + last),
                    levels=around[first_wordline : first_wordline + len(weights)],
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
        layer.zero_point.numpy() + cell.offset_units * int(places.sum()),
        pattern_kernels(tuple(layer.weight.shape[1:]), array.open_wordlines, layer.groups),
    )
