"""Which patterns a deck reads, and in which order."""

from __future__ import annotations

import numpy as np

from cosim.arithmetic.patterns import pattern_bits
from cosim.mapping.plan import ENUMERATED_INPUTS


def input_states(patterns: np.ndarray, inputs: int) -> np.ndarray:
    """(n, inputs) what share of its full voltage each input of a group has in a read, 0..1.

    Args:
        patterns: (n,) integers; bit i is the state of input i. Or (n, inputs) such shares.
    """
    return patterns if patterns.ndim == 2 else pattern_bits(patterns, inputs)


def gray_order(count: int) -> np.ndarray:
    """The integers 0..count-1 of a power of two, each differing from the one before in a single bit."""
    index = np.arange(count)
    return index ^ (index >> 1)


def deck_patterns(needed: np.ndarray, inputs: int, per_deck: int) -> list[np.ndarray]:
    """Cut the patterns that a group needs into decks.

    Up to `ENUMERATED_INPUTS` inputs a deck holds a whole aligned block of patterns, in Gray order, so that
    its content, and with it its identity, does not depend on which images asked for it. With more inputs
    only the needed patterns are read, sorted.

    Args:
        needed: distinct patterns.
        inputs: of the group.
        per_deck: reads in one deck, at most.

    Returns:
        one int64 array of patterns a deck, in the order they are read.
    """
    if inputs > ENUMERATED_INPUTS:
        needed = np.sort(needed)
        return [needed[start : start + per_deck] for start in range(0, len(needed), per_deck)]
    block = min(2**inputs, 2 ** int(np.log2(per_deck)))
    order = gray_order(block)
    return [first * block + order for first in np.unique(needed // block)]
