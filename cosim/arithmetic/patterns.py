"""Patterns: the states that activations give to groups of inputs.

There is a pattern for every chunk of a kernel, in every plane, at every output pixel. A plane holds one bit of every
activation or, if activations are pulse widths, one unit pulse; or a single plane holds the activations themselves. A
pattern is an integer. It is made of the states of its chunk's inputs, which take a bit each, or several if they are
activations, those of input 0 lowest. If they take more than 62, no integer has enough bits. The pattern is then a hash
of the states, and `states_at` gives the states themselves.

All planes are computed at once. Each activation becomes an integer with a lane for each plane, and each lane is wide
enough for a pattern. The integers of a kernel's rows are shifted to their places and added. A pattern thus costs one
addition for each input, for any stride, padding, dilation and grouping, and needs no convolution.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cosim.arithmetic.placement import Chunks

PlaneKind = Literal["bits", "pulses", "values"]

# Up to this many bits of states, a pattern is the number that they make.
NUMBERED_BITS = 62
_LANE_TYPES = {16: torch.int16, 32: torch.int32, 64: torch.int64}


def plane_count(kind: PlaneKind, bits: int) -> int:
    """Number of planes of an activation: its bits, least significant first, its 2^bits - 1 unit pulses, or itself."""
    return {"bits": bits, "pulses": 2**bits - 1, "values": 1}[kind]


def state_bits(kind: PlaneKind, bits: int) -> int:
    """Number of bits of an input's state in a plane."""
    return bits if kind == "values" else 1


def plane_states(kind: PlaneKind, bits: int) -> Tensor:
    """State of an input in each plane, for each value of its activation: (2^bits, planes) int64, most often 0 and 1.

    With pulses, an input is open in pulse t if its activation is above t.
    """
    values = torch.arange(2**bits)[:, None]
    if kind == "values":
        return values
    planes = torch.arange(plane_count(kind, bits))
    return (values >> planes) & 1 if kind == "bits" else (values > planes).to(torch.int64)


def layer_patterns(activations: Tensor, kind: PlaneKind, bits: int, chunks: Chunks, geometry: dict[str, Any]) -> Tensor:
    """The pattern on every stream's inputs in every plane of a layer.

    Args:
        activations: (n, inputs, height, width) unsigned integers of `bits` bits, padded, of any real dtype.
        kind: whether planes are bits, pulses or the activations themselves.
        bits: number of bits of an activation.
        chunks: how kernels are cut.
        geometry: stride, dilation and groups of the convolution.

    Returns:
        (n, out height, out width, streams, planes) integers, of 16 bits if these suffice.
    """
    inputs = min(chunks.open_inputs, chunks.depth)
    planes, per_state = plane_count(kind, bits), state_bits(kind, bits)
    lane = _lane_bits(inputs * per_state, planes)
    spread = _spread(kind, bits, lane).to(activations.device)
    n, _, height, width = activations.shape
    # Channels last, so that the numbers to be added lie side by side.
    values = activations.permute(0, 2, 3, 1).to(torch.int32).reshape(-1)
    size = out_size(chunks.kernel, (height, width), geometry)
    summed = []
    for word in spread:
        lanes = torch.index_select(word, 0, values).view(n, height, width, chunks.groups, -1)
        summed.append(_summed(lanes, chunks, geometry, size, per_state).flatten(3))
    found = torch.stack(summed, -1) if len(summed) > 1 else summed[0][..., None]
    patterns = found.view(_LANE_TYPES[lane]) if lane < 64 else found
    return patterns[..., :planes]


def out_size(kernel: tuple[int, ...], size: tuple[int, int], geometry: dict[str, Any]) -> tuple[int, int]:
    """Height and width of a convolution's output, from those of its padded input."""
    spans = [dilation * (extent - 1) + 1 for dilation, extent in zip(geometry["dilation"], kernel[1:], strict=True)]
    (high, wide), (down, across) = spans, geometry["stride"]
    return (size[0] - high) // down + 1, (size[1] - wide) // across + 1


def states_at(
    activations: Tensor,
    kind: PlaneKind,
    bits: int,
    chunks: Chunks,
    geometry: dict[str, Any],
    stream: int,
    places: Tensor,
) -> Tensor:
    """States of a stream's inputs in some reads: (reads, inputs) uint8, 0 and 1 unless they are activations.

    Args:
        activations: as in `layer_patterns`, like the next four.
        kind: as in `layer_patterns`.
        bits: as in `layer_patterns`.
        chunks: as in `layer_patterns`.
        geometry: as in `layer_patterns`.
        stream: number of the stream.
        places: (reads, 4) image, row, column and plane of each read.
    """
    group, chunk = divmod(stream, chunks.count)
    first, last = chunks.rows(chunk)
    channel, down, across = _unraveled(torch.arange(first, last), chunks.kernel)
    image, row, column, plane = places.T
    (stride_y, stride_x), (dilation_y, dilation_x) = geometry["stride"], geometry["dilation"]
    values = activations[
        image[:, None],
        group * chunks.kernel[0] + channel,
        row[:, None] * stride_y + down * dilation_y,
        column[:, None] * stride_x + across * dilation_x,
    ]
    return plane_states(kind, bits)[values.to(torch.int64), plane[:, None]].to(torch.uint8)


def pattern_bits(patterns: np.ndarray, inputs: int) -> np.ndarray:
    """State of each input in patterns (n,), which must not be hashes: (n, inputs) of 0 and 1."""
    return (patterns[:, None] >> np.arange(inputs)) & 1


def every_pattern(inputs: int, device: torch.device) -> Tensor:
    """State of each input in every pattern: (2^inputs, inputs) of 0 and 1, float32."""
    patterns = torch.arange(2**inputs, device=device)
    return ((patterns[:, None] >> torch.arange(inputs, device=device)) & 1).to(torch.float32)


def plane_counts(bits: int, device: torch.device | str = "cpu") -> Tensor:
    """What each bit plane counts: (bits,) float32 powers of two."""
    return torch.pow(2.0, torch.arange(bits, device=device))


@dataclass(frozen=True)
class _Term:
    """Rows of chunks that see the same shift of the image.

    Attributes:
        place: place of the rows in their chunks.
        down: vertical shift in the kernel's window.
        across: horizontal shift in the kernel's window.
        streams: streams of a group that have such a row.
        channels: channels that these rows see.
    """

    place: int
    down: int
    across: int
    streams: slice
    channels: slice


def _summed(lanes: Tensor, chunks: Chunks, geometry: dict[str, Any], size: tuple[int, int], per_state: int) -> Tensor:
    """Add lanes (n, height, width, groups, channels), whose states have `per_state` bits, up to patterns."""
    (stride_y, stride_x), (dilation_y, dilation_x) = geometry["stride"], geometry["dilation"]
    counts = _place_counts(min(chunks.open_inputs, chunks.depth), per_state)
    if chunks.open_inputs == math.prod(chunks.kernel[1:]) and chunks.open_inputs * per_state <= NUMBERED_BITS:
        return _summed_windows(lanes, chunks, geometry, size, per_state)
    summed: Tensor | None = None
    for term in _terms(chunks.kernel, chunks.open_inputs):
        top, left = term.down * dilation_y, term.across * dilation_x
        seen = lanes[
            :,
            top : top + (size[0] - 1) * stride_y + 1 : stride_y,
            left : left + (size[1] - 1) * stride_x + 1 : stride_x,
            :,
            term.channels,
        ]
        if summed is None:
            shape = (len(lanes), *size, chunks.groups, chunks.count)
            whole = term.place == 0 and seen.shape == shape
            summed = seen.contiguous() if whole else lanes.new_zeros(shape)
            if whole:
                continue
        summed[..., term.streams].add_(seen, alpha=counts[term.place])
    assert summed is not None
    return summed


def _summed_windows(
    lanes: Tensor, chunks: Chunks, geometry: dict[str, Any], size: tuple[int, int], per_state: int
) -> Tensor:
    """Do what `_summed` does if a chunk is the window of one channel.

    Adding along rows first, and then along columns, takes fewer additions.
    """
    (stride_y, stride_x), (dilation_y, dilation_x) = geometry["stride"], geometry["dilation"]
    _, high, wide = chunks.kernel
    across = [
        lanes[:, :, place * dilation_x : place * dilation_x + (size[1] - 1) * stride_x + 1 : stride_x]
        for place in range(wide)
    ]
    rows = _shifted_sum(across, per_state)
    down = [
        rows[:, place * dilation_y : place * dilation_y + (size[0] - 1) * stride_y + 1 : stride_y]
        for place in range(high)
    ]
    return _shifted_sum(down, wide * per_state).contiguous()


def _shifted_sum(parts: Sequence[Tensor], bits: int) -> Tensor:
    """Add parts up, each shifted by `bits` bits more than the part before."""
    found = parts[0]
    for number, part in enumerate(parts[1:], 1):
        count = 1 << (number * bits)
        found = torch.add(found, part, alpha=count) if number == 1 else found.add_(part, alpha=count)
    return found


@functools.lru_cache(maxsize=256)
def _terms(kernel: tuple[int, ...], open_inputs: int) -> tuple[_Term, ...]:
    """Every row of every chunk. Rows at the same place of a chunk and of the kernel's window make one term.

    Rows repeat with the size of the window, so the streams and channels of a term are at equal distances.
    """
    depth, window = math.prod(kernel), math.prod(kernel[1:])
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for row in range(depth):
        stream, place = divmod(row, open_inputs)
        channel, within = divmod(row, window)
        found.setdefault((place, within), []).append((stream, channel))
    terms = []
    for (place, within), pairs in sorted(found.items()):
        down, across = divmod(within, kernel[2])
        streams, channels = (_even(values) for values in zip(*pairs, strict=True))
        terms.append(_Term(place, down, across, streams, channels))
    return tuple(terms)


def _even(values: tuple[int, ...]) -> slice:
    """The slice that selects the given numbers, which are at equal distances."""
    step = values[1] - values[0] if len(values) > 1 else 1
    return slice(values[0], values[-1] + 1, step)


@functools.lru_cache(maxsize=64)
def _place_counts(inputs: int, per_state: int) -> list[int]:
    """What the state of each input counts in a pattern: powers of two, or odd numbers drawn once for a hash."""
    if inputs * per_state <= NUMBERED_BITS:
        return [1 << (per_state * place) for place in range(inputs)]
    drawn = np.random.default_rng(0x70617474).integers(-(2**62), 2**62, inputs) | 1
    return [int(count) for count in drawn]


def _lane_bits(pattern_bits: int, planes: int) -> int:
    """Bits of a lane: enough for a pattern and its sign, and no more lanes than there are planes."""
    needed = next((bits for bits in (16, 32) if pattern_bits < bits), 64)
    fitting = next((bits for bits in (16, 32) if planes > 32 // bits), 64)
    return max(needed, fitting)


@functools.lru_cache(maxsize=64)
def _spread(kind: PlaneKind, bits: int, lane: int) -> Tensor:
    """Every value of an activation as integers with a lane for each plane: (words, 2^bits) int64."""
    states = plane_states(kind, bits)
    per_word = 64 // lane
    words = [states[:, first : first + per_word] for first in range(0, states.shape[1], per_word)]
    return torch.stack([(word << (lane * torch.arange(word.shape[1]))).sum(1) for word in words])


def _unraveled(rows: Tensor, kernel: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Channel of each row of an unrolled kernel, and its row and column in the window."""
    window = kernel[1] * kernel[2]
    return rows // window, rows % window // kernel[2], rows % kernel[2]
