"""Random numbers of a chip, each of which belongs to a place (layer, tile, wordline, bitline).

A number depends only on run.seed, variation.chip, its purpose and its place. A cell thus depends neither on
other numbers that are drawn nor on the order in which they are drawn.
"""

from __future__ import annotations

import zlib

import numpy as np

from cosim.config import Config
from cosim.mapping import Group


def chip_generator(config: Config, effect: str, *place: int) -> np.random.Generator:
    """The generator of one effect at one place of a chip. Calls with equal arguments draw equal numbers."""
    key = (config.variation.chip, zlib.crc32(effect.encode()), *place)
    # SFC64 draws normal numbers fastest. The spawn key makes seeds and places of any length independent.
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(config.run.seed, spawn_key=key)))


def cell_normals(config: Config, effect: str, layer: int, group: Group) -> np.ndarray:
    """Draw a standard normal number for every cell of a group: (wordlines, bitlines), by position on the tile.

    Args:
        config: the configuration, for its seed and chip.
        effect: what the numbers are for.
        layer: number of the layer in its network.
        group: the group.
    """
    wordlines, bitlines = group.units.shape
    rows = range(group.first_input, group.first_input + wordlines)
    return np.stack([chip_generator(config, effect, layer, group.tile, row).standard_normal(bitlines) for row in rows])
