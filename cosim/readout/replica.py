"""Replica columns: cells beside the array whose current is the reference of the converters.

A converter that is referred to a fixed current reads less of everything when cells conduct less. Referred to replica
cells, it measures a ratio, from which temperature and supply fall out. The reference is a difference of columns: that
of cells at the highest level less that of cells at level 0. What all levels conduct alike is in both of them, and in
the array's reference column, so a sum of columns would follow what the codes do not contain.

The columns lie in the middle of a tile of their own lines, with the tile's wires, and are read with all of their inputs
open. Their cells have program errors of their own.
"""

from __future__ import annotations

import numpy as np

from cosim.config import Config
from cosim.mapping import Group

# A number that no layer has; cells that are drawn for a whole chip are drawn for it.
CHIP_LAYER = 1 << 31


def replica_group(config: Config, tile: int) -> Group:
    """The replica columns of a tile: (open_wordlines, 2 * replica_columns) cells, those of the highest level first.

    Args:
        config: the configuration.
        tile: number under which the replica's cells are drawn.
    """
    array, cell = config.array, config.cell
    inputs, columns = array.open_wordlines, config.adc.replica_columns
    lines = array.bitlines if config.read.mode == "amplitude" else array.wordlines
    units = np.full((inputs, 2 * columns), cell.offset_units, np.uint8)
    units[:, :columns] = cell.most_units
    middle = lines // inputs // 2 * inputs
    return Group(tile, middle, 0, (0, inputs), (0, 2 * columns), units)


def unit_current(config: Config, currents: np.ndarray) -> float:
    """The current of a unit [A] that replica columns give, whose currents (2 * replica_columns,) [A] were read."""
    highest, lowest = currents.reshape(2, -1).mean(axis=1)
    return float(highest - lowest) / (config.array.open_wordlines * (config.cell.levels - 1))
