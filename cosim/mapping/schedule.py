"""When the reads of an image take place.

All lines of a tile are converted at once, and a layer's tiles work at the same time. A tile opens one of its groups at
a time. A layer computes one place of its output after the other, row by row. At each place, a tile reads its groups in
the order in which they lie on it, and each group in all its planes: bit planes from the most significant to the least,
pulses one after the other. The next place begins when the tile with the most groups is ready, since the sums of a place
are added up over tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cosim.mapping.plan import Group, TilePlan
from cosim.mapping.scheme import ReadScheme


@dataclass(frozen=True)
class ReadSchedule:
    """The schedule of a layer's reads.

    Attributes:
        plan: the tiles and groups of the layer.
        scheme: how the layer is read.
    """

    plan: TilePlan
    scheme: ReadScheme

    @cached_property
    def groups_a_tile(self) -> int:
        """How many groups the fullest tile holds."""
        return 1 + max(map(self._position, self.plan.groups))

    def _position(self, group: Group) -> int:
        return group.first_input // self.plan.chunks.open_inputs

    def moments(self, group: Group, places: int) -> np.ndarray:
        """When a group is read: (real planes, places) int64, counted in reads since the image's first.

        Args:
            group: the group.
            places: number of places of the layer's output, row by row.
        """
        planes = self.scheme.real_planes
        turn = np.arange(planes)[:: -1 if self.scheme.mode == "bit-serial" else 1]
        visit = np.arange(places) * self.groups_a_tile + self._position(group)
        found: np.ndarray = visit * planes + turn[:, None]
        return found
