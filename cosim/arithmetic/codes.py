"""What converters make of sums: how wide a code is, how a sum is rounded to one, and what is subtracted."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

from cosim.config import Config

# The same rule for arrays and tensors.
Numbers = TypeVar("Numbers", np.ndarray, Tensor)


def code_units(config: Config, pulses: int = 1) -> tuple[float, int | None]:
    """Width of a code in unit currents, and the highest code, None for no limit.

    Where a conversion adds the charge of several pulses, a unit is that of a unit current in one of them.

    Left to itself a code is a whole number of units, so that ideal sums of levels fall on codes alike in every
    column: the number, at least one, that comes closest to covering the largest possible column sum. Of nine
    inputs of 15 units (135) 8 bits hold all at one unit a code, 7 bits the sums up to 127, 4 bits all at
    nine units a code.
    """
    if config.adc.bits == "lossless":
        return 1.0, None
    highest = 2**config.adc.bits - 1
    if config.adc.full_scale_units is not None:
        return pulses * config.adc.full_scale_units / highest, highest
    largest = pulses * config.array.open_wordlines * config.cell.most_units
    return float(max(1, round(largest / highest))), highest


def reaching_units(largest: np.ndarray, highest: int) -> np.ndarray:
    """Widths of a code, the smallest whole numbers of units, at least one, with which sums up to `largest` have one."""
    return np.maximum(np.ceil(largest / highest), 1.0)


def decision_offset(lsb_units: float) -> float:
    """What a converter adds to a sum before it rounds, in codes.

    Where a code is an even number of units wide, every other whole sum would lie exactly between two codes and the
    least disturbance decide; such a converter decides half a unit lower.
    """
    return 0.5 / lsb_units if lsb_units % 2 == 0 else 0.0


def nearest_codes(positions: Numbers, highest: int | None) -> Numbers:
    """Codes, as numbers of the same type, of positions in codes with the decision offset in them."""
    return positions.round().clip(0, highest)


def less_reference(sums: Numbers, reference: Numbers, zero_units: Numbers, reference_units: int) -> Numbers:
    """Sums less what an output would have for weights of 0, in float64 if `reference` is.

    Multiplied before it is divided, so that an exact reference gives an exact integer.

    Args:
        sums: of outputs' cells, in units; reference: of the reference column's cells, broadcast to it.
        zero_units: what an output's cells conduct for weight 0; reference_units: what those of the reference conduct.
    """
    return sums - reference * zero_units / reference_units
