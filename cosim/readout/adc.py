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

        Left to itself a code is a whole number of units, so that ideal sums of levels fall on codes alike in every
        column: the number, at least one, that comes closest to covering the largest possible column sum. Of nine
        wordlines of 15 units (135) 8 bits hold all at one unit a code, 7 bits the sums up to 127, 4 bits all at
        nine units a code.
        """
        adc = config.adc
        if adc.bits == "lossless":
            return cls(config.cell.unit_a, 1.0, None)
        highest = 2**adc.bits - 1
        largest_sum = config.array.open_wordlines * (config.cell.levels - 1)
        lsb_units = (
            max(1, round(largest_sum / highest)) if adc.full_scale_units is None else adc.full_scale_units / highest
        )
        return cls(config.cell.unit_a, float(lsb_units), highest)

    def in_lsb(self, currents: np.ndarray) -> np.ndarray:
        """Currents [A] in units of a code, unrounded."""
        return currents / (self.unit_a * self.lsb_units)

    def codes(self, lsb: np.ndarray) -> np.ndarray:
        """Codes, int32, of currents in LSB as `in_lsb` gives them."""
        return np.clip(np.rint(lsb), 0, self.highest).astype(np.int32)
