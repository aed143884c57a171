"""The converter: bitline currents to codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.config import Config
from cosim.network.partial_sums import decision_offset


@dataclass(frozen=True)
class Converter:
    """An ideal uniform converter for the range 0..highest code, one step `lsb_units` unit currents wide.

    Attributes:
        unit_a: current of level 1 [A].
        lsb_units: width of a code in unit currents; 1 loses nothing.
        highest: the largest code, or None for no limit.
    """

    unit_a: float
    lsb_units: float
    highest: int | None

    @classmethod
    def from_config(cls, config: Config) -> Converter:
        """The converter of a configuration, its codes as wide as `Config.code_units` says."""
        return cls(config.cell.unit_a, *config.code_units())

    def in_lsb(self, currents: np.ndarray) -> np.ndarray:
        """Currents [A] in units of a code, unrounded."""
        return currents / (self.unit_a * self.lsb_units)

    def codes(self, lsb: np.ndarray) -> np.ndarray:
        """Codes, int32, of currents in LSB as `in_lsb` gives them."""
        return np.clip(np.rint(lsb + np.float32(decision_offset(self.lsb_units))), 0, self.highest).astype(np.int32)
