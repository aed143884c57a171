"""Defects: cells that cannot be programmed, and bitlines that carry no current.

Like everything that is drawn, a defect belongs to its place on the chip. The bitlines of a tile are tested before the
tile is used, and spare bitlines replace dead ones: first the reference column, since every output of the tile depends
on it, and then the others in their order. A spare bitline is simulated in the place of the one that it replaces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from cosim.config import Config
from cosim.device.draws import cell_normals, chip_generator
from cosim.mapping import Group

# The threshold of a cell that is stuck off lies above that of a cell that is merely off, by this share of the
# wordline's voltage. No supply voltage makes up for it.
_OFF_BEYOND = 0.5


@dataclass(frozen=True, eq=False)
class StuckCells:
    """The cells of a chip whose thresholds programming cannot change.

    Attributes:
        config: the configuration, for its defects, seed and chip.
        off_v: threshold shift of a cell that is stuck off [V].
        on_v: threshold shift of a cell that is stuck on [V].
    """

    config: Config
    off_v: float
    on_v: float

    @classmethod
    def of(cls, config: Config, levels: np.ndarray) -> StuckCells | None:
        """The stuck cells of a configuration, or None if there are none.

        Args:
            config: the configuration.
            levels: (units,) threshold shift for each number of unit currents, falling [V].
        """
        if not config.defects.stuck:
            return None
        off_v = levels[0] + _OFF_BEYOND * config.read.wordline_v
        return cls(config, float(off_v), float(levels[-1] - config.defects.on_below_v))

    def stuck(self, layer: int, group: Group) -> tuple[np.ndarray, np.ndarray]:
        """Which cells of a group of layer number `layer` are stuck off, and which on: (wordlines, bitlines) bool."""
        normal, defects = cell_normals(self.config, "stuck cells", layer, group), self.config.defects
        return normal < scipy.special.ndtri(defects.off_share), normal > -scipy.special.ndtri(defects.on_share)

    def cell_shifts(self, layer: int, group: Group, shifts: np.ndarray) -> np.ndarray:
        """Threshold shifts (wordlines, bitlines) [V] of a group's cells: `shifts`, changed where cells are stuck."""
        off, on = self.stuck(layer, group)
        return np.where(off, self.off_v, np.where(on, self.on_v, shifts))


@dataclass(frozen=True, eq=False)
class RepairedBitlines:
    """The bitlines that a tile uses, after its dead ones were replaced.

    Attributes:
        dead: (bitlines,) bool, true for dead bitlines that no spare one replaces.
        replaced: number of bitlines that were replaced.
    """

    dead: np.ndarray
    replaced: int

    @classmethod
    def drawn(cls, config: Config, layer: int, tile: int, bitlines: int) -> RepairedBitlines:
        """Draw the bitlines of a tile.

        Args:
            config: the configuration, for its array, defects, seed and chip.
            layer: number of the layer in its network.
            tile: number of the tile within the layer.
            bitlines: number of bitlines that the tile uses, or source lines with amplitude reads.
        """
        array, defects = config.array, config.defects
        there = array.wordlines if config.read.mode == "amplitude" else array.bitlines
        drawn = chip_generator(config, "dead bitlines", layer, tile).random(there + defects.spare_bitlines)
        dead = drawn < defects.bitline_share
        spares = int((~dead[there:]).sum())
        used = dead[:bitlines].copy()
        in_need = np.flatnonzero(used)
        if array.encoding == "offset":
            in_need = in_need[np.argsort(in_need != bitlines - 1, kind="stable")]
        used[in_need[:spares]] = False
        return cls(used, min(spares, len(in_need)))
