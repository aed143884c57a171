"""Sets the range of the converters from the column sums that sample images cause."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cosim.arithmetic.codes import reaching_units
from cosim.config import Config
from cosim.mapping import TilePlan


def calibrated_lsb_units(config: Config, plan: TilePlan, opened: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Find the width of a code for every tile of a layer, such that the largest ideal sum of the sample has a code.

    A width is the smallest whole number of unit currents, at least one, that reaches this sum. With fractional widths,
    whole sums would round differently in every column, and the error of the reference column is in every output.

    Args:
        config: its adc.range is "calibrated-layer" or "calibrated-column".
        plan: the tiles of the layer.
        opened: for each stream, (conversions, inputs): for how many pulses each input is open; 0 or 1 if a conversion
            is a single read.

    Returns:
        for every tile, widths in unit currents, (bitlines,) or (1,).
    """
    assert isinstance(config.adc.bits, int)
    highest = 2**config.adc.bits - 1
    largest: list[np.ndarray] = [np.zeros(1)] * plan.tiles
    for group in plan.groups:
        sums = (opened[group.stream] @ group.units.astype(np.int64)).max(axis=0, initial=0)
        largest[group.tile] = np.maximum(largest[group.tile], sums)
    if config.adc.range == "calibrated-layer":
        largest = [np.array([max(sums.max() for sums in largest)])] * plan.tiles
    return [reaching_units(sums, highest) for sums in largest]
