"""Which patterns a deck reads, and in which order."""

from __future__ import annotations

import numpy as np


def gray_order(count: int) -> np.ndarray:
    """The integers 0..count-1 of a power of two, each differing from the one before in a single bit."""
    index = np.arange(count)
    return index ^ (index >> 1)


def block_reads(inputs: int, per_deck: int) -> int:
    """Patterns in a block: all of a group's, or as many as the largest power of two that is at most `per_deck`."""
    return min(2**inputs, 2 ** int(np.log2(per_deck)))


def deck_patterns(needed: np.ndarray, inputs: int, per_deck: int) -> list[np.ndarray]:
    """The decks of patterns of a group that is small enough to list them all.

    A deck holds a whole aligned block of patterns, in Gray order, so that its content, and with it its identity, does
    not depend on which images asked for it.

    Args:
        needed: distinct patterns.
        inputs: of the group.
        per_deck: reads in one deck, at most.

    Returns:
        one int64 array of patterns a deck, in the order they are read.
    """
    block = block_reads(inputs, per_deck)
    order = gray_order(block)
    return [first * block + order for first in np.unique(needed // block)]
