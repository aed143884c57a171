"""Places a layer on tiles: chunks of its kernels become groups of input lines, its outputs the lines across them.

`cosim.arithmetic.placement` decides what each cell conducts, and how kernels are cut into chunks of `open_wordlines`. A
chunk occupies a group of input lines and is read at once. The slices of a weight lie on output lines side by side. The
outputs are cut into blocks that fit the output lines of a tile. `array.encoding` decides how signed weights are held,
as currents of cells in units:

- offset: a cell holds weight + zero point. The last output line is the reference column, whose cells all hold the
  reference level, and

      sum of weight * bit = sum over slices of place * column sum - reference sum * zero units / reference units

- differential: a slice is a pair of lines, which hold the magnitudes of positive and of negative weights, and

      sum of weight * bit = sum over slices of place * (positive column sum - negative column sum)

Input lines are wordlines and output lines bitlines. With amplitude reads (`read.mode`) a tile is used the other way
round: inputs are on bitlines, and the weights of an output on a wordline, whose source line is sensed.

Groups fill a tile from the sense end upwards. The groups of a grouped (depthwise) convolution use different
input lines of the same output lines, since one group at a time is open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cosim.arithmetic.placement import Chunks, Placement
from cosim.config import Array, Cell
from cosim.errors import NetworkError
from cosim.network import LayerSpec

# Up to this many inputs, every pattern of a group gets a table entry of its own.
ENUMERATED_INPUTS = 12


@dataclass(frozen=True, eq=False)
class Group:
    """The inputs of one read, and the cells on their lines.

    Attributes:
        tile: number of the physical array it lies on, counted within the layer.
        first_input: position of its first input line on the tile, 0 at the sense end.
        stream: number of the layer's pattern stream that drives it.
        rows: start and stop in the unrolled kernel.
        outputs: start and stop in the layer's outputs.
        units: (inputs, output lines) unit currents that the cells conduct, uint8, which are levels plus
            `cell.offset_units`. Lines are in the order of outputs, and each output has a line for every place of the
            plan. The reference column, if there is one, is the last line.
        around: (input lines of the tile, output lines) unit currents of the whole tile, shared by its groups; None if
            its other cells are off.
    """

    tile: int
    first_input: int
    stream: int
    rows: tuple[int, int]
    outputs: tuple[int, int]
    units: np.ndarray
    around: np.ndarray | None = None

    @property
    def inputs(self) -> int:
        return self.units.shape[0]

    def tile_units(self, input_lines: int) -> np.ndarray:
        """Unit currents of every cell on the group's tile: (input lines, output lines) integers."""
        if self.around is not None:
            return self.around
        tile = np.zeros((input_lines, self.units.shape[1]), self.units.dtype)
        tile[self.first_input : self.first_input + self.inputs] = self.units
        return tile


@dataclass(frozen=True, eq=False)
class TilePlan:
    """Where every weight of a layer lies.

    Attributes:
        layer: the layer.
        groups: every group of every tile; the groups of one stream differ in their outputs only.
        tiles: number of physical arrays used.
        chunks: how the kernel of one output is cut into groups of inputs.
        places: (lines of an output,) what a unit current of each line counts, as `Placement.places`.
        reference_units: unit currents of each cell in the reference column; None for differential pairs, which have no
            reference column.
        zero_units: (outputs,) unit currents that stand for weight 0, the sum over an output's cells; 0 for pairs.
    """

    layer: LayerSpec
    groups: tuple[Group, ...]
    tiles: int
    chunks: Chunks
    places: np.ndarray
    reference_units: int | None
    zero_units: np.ndarray

    @property
    def streams(self) -> int:
        return self.chunks.streams

    def widths(self) -> list[int]:
        """For each tile, the number of output lines that it uses."""
        lines = [0] * self.tiles
        for group in self.groups:
            lines[group.tile] = group.units.shape[1]
        return lines

    def stream_inputs(self) -> list[int]:
        """For each stream, the number of inputs of its groups."""
        inputs = [0] * self.streams
        for group in self.groups:
            inputs[group.stream] = group.inputs
        return inputs


def plan_tiles(layer: LayerSpec, array: Array, cell: Cell, *, transposed: bool = False) -> TilePlan:
    """Place a layer on tiles.

    Args:
        layer: the layer.
        array: the section array of the configuration.
        cell: the section cell of the configuration.
        transposed: whether inputs are on bitlines and outputs on wordlines.

    Raises:
        NetworkError: a tile has too few lines for one output and the reference column.
    """
    input_lines, output_lines = array.wordlines, array.bitlines
    if transposed:
        input_lines, output_lines = output_lines, input_lines
    chunks = Chunks(tuple(layer.weight.shape[1:]), layer.groups, array.open_wordlines)
    if array.encoding == "offset":
        levels, zero_points = layer.levels(), layer.zero_point
        placed = Placement.offset(levels, zero_points, layer.weight_bits, cell.bits, cell.offset_units, chunks)
    else:
        placed = Placement.differential(layer.weight, cell.bits, cell.offset_units, chunks)
    places, references = len(placed.places), int(placed.reference_units is not None)
    per_block = (output_lines - references) // places
    if per_block == 0:
        kind = "wordlines" if transposed else "bitlines"
        raise NetworkError(
            f"layer {layer.name!r}: {layer.weight_bits}-bit weights take {places} cells of {cell.bits} bits"
            f"{' and a reference column' if references else ', two a slice'}, but a tile has {output_lines} "
            f"{kind}: set array.{kind} >= {places + references}"
        )
    columns = layer.outputs // layer.groups
    units = placed.units.numpy().astype(np.uint8).reshape(layer.groups, columns, places, chunks.depth)
    groups_per_tile = input_lines // array.open_wordlines
    tiles_per_block = math.ceil(chunks.streams / groups_per_tile)

    groups = []
    for block, first in enumerate(range(0, columns, per_block)):
        last = min(first + per_block, columns)
        for stream in range(chunks.streams):
            conv, chunk = divmod(stream, chunks.count)
            rows = chunks.rows(chunk)
            weights = units[conv, first:last, :, slice(*rows)].reshape((last - first) * places, -1).T
            held = np.pad(weights, ((0, 0), (0, references)), constant_values=placed.reference_units or 0)
            tile, position = divmod(stream, groups_per_tile)
            if position == 0:  # cells without a weight are off
                around = np.zeros((input_lines, held.shape[1]), np.uint8)
            first_input = position * array.open_wordlines
            around[first_input : first_input + len(held)] = held
            groups.append(
                Group(
                    tile=block * tiles_per_block + tile,
                    first_input=first_input,
                    stream=stream,
                    rows=rows,
                    outputs=(conv * columns + first, conv * columns + last),
                    units=around[first_input : first_input + len(held)],
                    around=around,
                )
            )
    return TilePlan(
        layer,
        tuple(groups),
        1 + max(group.tile for group in groups),
        chunks,
        np.array(placed.places),
        placed.reference_units,
        placed.zero_units.numpy(),
    )
