"""The converter: bitline currents to codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.config import Config


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
        """The converter of a configuration.

        Left to itself the range covers the largest possible column sum, and a code is never finer than a unit:
        8 bits and nine wordlines of 15 units (135) give one unit a code, 4 bits nine units a code.
        """
        adc = config.adc
        if adc.bits == "lossless":
            return cls(config.cell.unit_a, 1.0, None)
        highest = 2**adc.bits - 1
        largest_sum = config.array.open_wordlines * (config.cell.levels - 1)
        full_scale = adc.full_scale_units or float(max(largest_sum, highest))
        return cls(config.cell.unit_a, full_scale / highest, highest)

    def in_lsb(self, currents: np.ndarray) -> np.ndarray:
        """Currents [A] in units of a code, unrounded."""
        return currents / (self.unit_a * self.lsb_units)

    def codes(self, lsb: np.ndarray) -> np.ndarray:
        """Codes, int32, of currents in LSB as `in_lsb` gives them."""
        return np.clip(np.rint(lsb), 0, self.highest).astype(np.int32)
