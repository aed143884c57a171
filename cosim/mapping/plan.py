"""A layer's weights on tiles: unrolled, cut into groups of wordlines, encoded as levels.

The kernel of each output is unrolled in the order (input channel, row, column) and cut into chunks of
`open_wordlines`; a chunk occupies a group of wordlines and is read at once. The outputs are cut into slices
that fit the bitlines of a tile, less one for the reference column, whose cells all hold the zero point:

    sum over a group of (level - zero_point) * bit = column sum - reference sum

Groups fill a tile from the sense end upwards. The groups of a grouped (depthwise) convolution use different
wordlines of the same bitlines, since one group at a time is open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosim.config import Array, Cell
from cosim.errors import NetworkError
from cosim.network import LayerSpec


@dataclass(frozen=True, eq=False)
class Group:
    """The wordlines opened together in one read, and the cells on them.

    Attributes:
        tile: the physical array it lies on, counted within the layer.
        first_wordline: its position on the tile, 0 at the sense end.
        stream: which of the layer's pattern streams drives it.
        rows: start and stop in the unrolled kernel.
        outputs: start and stop in the layer's outputs, one bitline each; the reference column follows.
        levels: (wordlines, bitlines) integers, uint8; the last column is the reference.
    """

    tile: int
    first_wordline: int
    stream: int
    rows: tuple[int, int]
    outputs: tuple[int, int]
    levels: np.ndarray

    @property
    def wordlines(self) -> int:
        return self.levels.shape[0]


@dataclass(frozen=True, eq=False)
class TilePlan:
    """Where every weight of a layer lies.

    Attributes:
        groups: every group of every tile; the groups of one stream differ in their outputs only.
        tiles: physical arrays used.
        chunks: groups of wordlines the kernel of one output is cut into; stream = conv group * chunks + chunk.
        pattern_kernels: (streams, inputs / conv groups, kernel height, kernel width) powers of two in float64:
            convolved with a bit plane they give the pattern on a stream's wordlines.
    """

    layer: LayerSpec
    groups: tuple[Group, ...]
    tiles: int
    chunks: int
    pattern_kernels: Tensor

    @property
    def streams(self) -> int:
        return len(self.pattern_kernels)

    def stream_wordlines(self) -> list[int]:
        """Wordlines of each stream's groups."""
        wordlines = [0] * self.streams
        for group in self.groups:
            wordlines[group.stream] = group.wordlines
        return wordlines


def plan_tiles(layer: LayerSpec, array: Array, cell: Cell) -> TilePlan:
    """Place a layer on tiles.

    Raises:
        NetworkError: the weights need more levels than a cell holds.
    """
    if 2**layer.weight_bits > cell.levels:
        raise NetworkError(
            f"layer {layer.name!r} has {layer.weight_bits}-bit weights, but a cell holds {cell.bits} bits: "
            f"set cell.bits={layer.weight_bits}, quantize to {cell.bits} bits, or leave the layer in software"
        )
    convs, columns = layer.groups, layer.outputs // layer.groups
    levels = (layer.weight.to(torch.int32) + layer.zero_point).to(torch.uint8).reshape(convs, columns, -1).numpy()
    depth = levels.shape[2]
    chunks = math.ceil(depth / array.open_wordlines)
    groups_per_tile = array.wordlines // array.open_wordlines
    per_slice = array.bitlines - 1
    tiles_per_slice = math.ceil(convs * chunks / groups_per_tile)

    groups = []
    for slice_index, first in enumerate(range(0, columns, per_slice)):
        last = min(first + per_slice, columns)
        for stream in range(convs * chunks):
            conv, chunk = divmod(stream, chunks)
            rows = (chunk * array.open_wordlines, min((chunk + 1) * array.open_wordlines, depth))
            weights = levels[conv, first:last, slice(*rows)].T
            reference = np.full((len(weights), 1), layer.zero_point, np.uint8)
            tile, position = divmod(stream, groups_per_tile)
            groups.append(
                Group(
                    tile=slice_index * tiles_per_slice + tile,
                    first_wordline=position * array.open_wordlines,
                    stream=stream,
                    rows=rows,
                    outputs=(conv * columns + first, conv * columns + last),
                    levels=np.hstack([weights, reference]),
                )
            )
    return TilePlan(layer, tuple(groups), 1 + max(g.tile for g in groups), chunks, _pattern_kernels(layer, array))


def _pattern_kernels(layer: LayerSpec, array: Array) -> Tensor:
    """Row r of a chunk counts 2^r, so that a pattern's bit r is the state of the group's wordline r."""
    _, inputs, height, width = layer.weight.shape
    depth = inputs * height * width
    row = torch.arange(depth)
    chunk, place = row // array.open_wordlines, row % array.open_wordlines
    kernels = torch.zeros(int(chunk[-1]) + 1, depth, dtype=torch.float64)
    kernels[chunk, row] = torch.pow(2.0, place.to(torch.float64))
    return kernels.reshape(-1, inputs, height, width).repeat(layer.groups, 1, 1, 1)
