"""Activations as patterns of inputs, and which patterns a deck reads in which order."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from cosim.arithmetic.planes import bit_planes, pattern_bits, plane_patterns, pulse_planes
from cosim.errors import MachineError
from cosim.mapping.plan import ENUMERATED_INPUTS, TilePlan


def bit_plane_patterns(plan: TilePlan, activations: Tensor) -> Tensor:
    """The pattern on every stream's inputs in every bit-serial read of a layer.

    Args:
        activations: (n, inputs, height, width) unsigned integers of `activation_bits` bits, padded, any real dtype.

    Raises:
        MachineError: convolutions are not exact here, as under autocast.

    Returns:
        (activation_bits, n, streams, out height, out width) integers; plane b counts 2^b.
    """
    return _patterns(plan, bit_planes(activations, plan.layer.activation_bits))


def pulse_patterns(plan: TilePlan, activations: Tensor) -> Tensor:
    """The same where an activation is the number of unit pulses for which its input is open.

    Returns:
        (2^activation_bits - 1, n, streams, out height, out width) integers, in the order of the pulses; each pattern
        holds those after it.
    """
    return _patterns(plan, pulse_planes(activations, plan.layer.activation_bits))


def _patterns(plan: TilePlan, applied: Iterable[Tensor]) -> Tensor:
    inputs = max(plan.stream_inputs())
    kind = torch.float32 if inputs <= 24 else torch.float64  # both exact for these integers
    kernels = plan.pattern_kernels.to(kind)
    planes = plane_patterns(applied, kernels, plan.layer.geometry())
    # Half the bytes where they suffice: these tensors are what most of the tensor work moves.
    patterns = planes.to(torch.int32 if plan.enumerated else torch.int64)
    if not torch.equal(patterns.to(kind), planes) or int(patterns.max()) >= 2**inputs:
        raise MachineError(
            "a convolution of 0 and 1 by powers of two gave no pattern: the tensor library convolves inexactly here; "
            "switch autocast and reduced precision off"
        )
    return patterns


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
