"""Replica columns: cells next to the array whose current is the reference of the converters.

With a fixed reference current, all codes fall when cells conduct less. With replica cells as the reference, the
converter measures a ratio of currents, in which the effects of temperature and supply cancel. The reference is the
difference between a column of cells at the highest level and a column of cells at level 0. Any current that all levels
have in common cancels in this difference, just as the array's reference column removes it from the codes.

The columns lie in the middle of a tile that has the wires of the array's tiles, and are read with all inputs open.
Their cells have their own program errors.
"""

from __future__ import annotations

import numpy as np

from cosim.config import Config
from cosim.mapping import Group

# Stands for the whole chip where cells are drawn by layer; no layer has this number.
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
    """The unit current [A] that follows from the currents (2 * replica_columns,) [A] of replica columns."""
    highest, lowest = currents.reshape(2, -1).mean(axis=1)
    return float(highest - lowest) / (config.array.open_wordlines * (config.cell.levels - 1))
