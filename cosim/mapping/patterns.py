"""Decides which patterns a deck reads, and in which order."""

from __future__ import annotations

import numpy as np


def gray_order(count: int) -> np.ndarray:
    """The integers 0..count-1 in Gray order, where neighbours differ in a single bit; `count` is a power of two."""
    index = np.arange(count)
    return index ^ (index >> 1)


def block_reads(inputs: int, per_deck: int) -> int:
    """Number of patterns in a block: all patterns of a group, or the largest power of two up to `per_deck`."""
    return min(2**inputs, 2 ** int(np.log2(per_deck)))


def deck_patterns(needed: np.ndarray, inputs: int, per_deck: int) -> list[np.ndarray]:
    """Divide the patterns of a group among decks. The group must be small enough to list all its patterns.

    A deck holds a whole aligned block of patterns, in Gray order. Its content, and thus its identity, does not depend
    on the images that asked for it.

    Args:
        needed: the distinct patterns that are needed.
        inputs: number of inputs of the group.
        per_deck: largest number of reads in one deck.

    Returns:
        for each deck, an int64 array of patterns in the order in which they are read.
    """
    block = block_reads(inputs, per_deck)
    order = gray_order(block)
    return [first * block + order for first in np.unique(needed // block)]
