"""Converter codes: how wide a code is, how a sum is rounded to a code, and how the reference is subtracted."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

from cosim.config import Config

# The same functions work on arrays and tensors.
Numbers = TypeVar("Numbers", np.ndarray, Tensor)


def code_units(config: Config, pulses: int = 1) -> tuple[float, int | None]:
    """Width of a code in unit currents, and the highest code, or None for no limit.

    If a conversion adds the charge of several pulses, a unit is the charge of a unit current in one of them.

    Unless the configuration sets the full scale, a code is a whole number of units wide, so that ideal sums round to
    codes alike in every column. The number of units, at least one, is the one that comes closest to covering the
    largest possible column sum. For example, nine inputs of 15 units sum to at most 135: 8 bits hold all sums at one
    unit per code, 7 bits hold sums up to 127 at one unit per code, and 4 bits hold all sums at nine units per code.
    """
    if config.adc.bits == "lossless":
        return 1.0, None
    highest = 2**config.adc.bits - 1
    if config.adc.full_scale_units is not None:
        return pulses * config.adc.full_scale_units / highest, highest
    largest = pulses * config.array.open_wordlines * config.cell.most_units
    return float(max(1, round(largest / highest))), highest


def reaching_units(largest: np.ndarray, highest: int) -> np.ndarray:
    """Code widths that cover sums up to `largest`: the smallest whole numbers of units that do, at least one."""
    return np.maximum(np.ceil(largest / highest), 1.0)


def decision_offset(lsb_units: float) -> float:
    """Offset, in codes, that a converter adds to a sum before it rounds.

    If a code is an even number of units wide, some whole sums lie exactly between two codes, and the least disturbance
    would decide between them. Such a converter therefore decides half a unit lower.
    """
    return 0.5 / lsb_units if lsb_units % 2 == 0 else 0.0


def nearest_codes(positions: Numbers, highest: int | None) -> Numbers:
    """Round positions in codes, which must include the decision offset, to codes of the same numeric type."""
    return positions.round().clip(0, highest)


def less_reference(sums: Numbers, reference: Numbers, zero_units: Numbers, reference_units: int) -> Numbers:
    """Subtract from sums what they would be if all weights were 0. The result is float64 if `reference` is.

    The product is taken before the division, so that an exact reference gives an exact integer.

    Args:
        sums: sums of the outputs' cells, in units.
        reference: sums of the reference column's cells, in units, of a shape that broadcasts to that of `sums`.
        zero_units: units that an output's cells conduct for weight 0.
        reference_units: units that a cell of the reference column conducts.
    """
    return sums - reference * zero_units / reference_units
