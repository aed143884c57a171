"""The range of converters from the column sums that sample images cause."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cosim.arithmetic.codes import reaching_units
from cosim.config import Config
from cosim.mapping import TilePlan


def calibrated_lsb_units(config: Config, plan: TilePlan, opened: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Width of a code of every tile of a layer, so that the largest ideal sum of a sample has a code.

    The smallest whole number of unit currents, at least one, that reaches it: with others, whole sums would fall on
    codes differently in every column, and the reference column's error is in every output.

    Args:
        config: adc.range is "calibrated-layer" or "calibrated-column".
        opened: (streams,) of (conversions, inputs) pulses for which each input is open, 0 or 1 in a single read.

    Returns:
        (bitlines,) or (1,) unit currents for every tile.
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
