"""Read schemes: which reads a layer's activations need with each `read.mode`, and how a conversion adds them up.

A read of a group is an integer. Bit i of its pattern is the state of input i. With amplitudes, all inputs in the
pattern have the same amplitude 1..2^n - 1, where n is the number of bits, and

    read = pattern + 2^inputs * (amplitude - 1)

A real read has inputs of different amplitudes, and there are too many combinations to list. Its currents are put
together from listed reads. For amplitudes a, let P_k be the inputs of amplitude k or more, and I_k(P) the currents of
the pattern P at amplitude k. Then

    I(a) = I(none) + sum over k of (I_k(P_k) - I_k(P_k+1))

where each difference is what the inputs of amplitude k add to those of higher amplitudes. This is exact if inputs do
not influence each other, if all amplitudes that are not 0 are equal, and, by superposition, if cells are linear. For
real cells that share a line with resistance, it misses the curvature of the cells. With read.mixed = "direct", a read
is not put together, but asked for as it occurs. Its number is the pattern of its amplitudes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cosim.arithmetic.patterns import PlaneKind, layer_patterns, pattern_bits, plane_count, states_at
from cosim.config import Read
from cosim.mapping.plan import ENUMERATED_INPUTS, TilePlan


@dataclass(frozen=True)
class ReadScheme:
    """How a layer is read.

    Attributes:
        mode: the configuration's read.mode.
        bits: number of bits of an activation.
        inputs: number of inputs of the largest group.
        direct: whether reads of several amplitudes are asked for as they occur.
    """

    mode: Literal["bit-serial", "pulse-width", "amplitude"]
    bits: int
    inputs: int
    direct: bool = False

    @classmethod
    def of(cls, read: Read, plan: TilePlan) -> ReadScheme:
        """The configured scheme of a layer."""
        direct = read.mode == "amplitude" and read.mixed == "direct"
        return cls(read.mode, plan.layer.activation_bits, max(plan.stream_inputs()), direct)

    @property
    def nested(self) -> bool:
        """Whether reads of several amplitudes are put together of listed ones."""
        return self.mode == "amplitude" and not self.direct

    @property
    def listed(self) -> bool:
        """Whether groups are small enough to list all their reads."""
        return self.inputs <= ENUMERATED_INPUTS and not self.direct

    @property
    def pulses(self) -> int:
        """How many unit currents a conversion counts, for one unit of a cell, if its input is at its largest value."""
        return 1 if self.mode == "bit-serial" else 2**self.bits - 1

    @property
    def amplitudes(self) -> int:
        """Number of amplitudes other than 0 that an input can have."""
        return self.pulses if self.mode == "amplitude" else 1

    def possible(self, inputs: int) -> int:
        """How many different reads a group has."""
        return (self.amplitudes + 1) ** inputs if self.direct else self.amplitudes << inputs

    @property
    def weights(self) -> np.ndarray | None:
        """(planes,) what each plane of `reads` counts in a conversion; None if every plane is converted by itself."""
        if self.mode == "bit-serial" or self.direct:
            return None
        if self.mode == "pulse-width":
            return np.full(self.pulses, 1 / self.pulses)
        return np.repeat([1.0, 1.0, -1.0], [1, self.pulses, self.pulses])

    @property
    def planes(self) -> int:
        """Number of planes of `reads`."""
        return plane_count(self.kind, self.bits) if self.weights is None else len(self.weights)

    @property
    def real_planes(self) -> int:
        """Number of reads that the circuit makes at each place."""
        return 1 if self.mode == "amplitude" else self.planes

    @property
    def averaged(self) -> int:
        """How many reads of the circuit one conversion is the mean of."""
        return self.pulses if self.mode == "pulse-width" else 1

    def opened(self, drives: np.ndarray) -> np.ndarray:
        """Shares (..., real planes, places, inputs) of the reads that the circuit makes.

        Args:
            drives: (..., planes, places, inputs) share of its full voltage that each input has in each plane.
        """
        if not self.nested:
            return drives
        assert self.weights is not None
        found: np.ndarray = np.einsum("p,...pri->...ri", self.weights.astype(drives.dtype), drives)[..., None, :, :]
        return found

    def reads(self, plan: TilePlan, activations: Tensor) -> Tensor:
        """The reads that the tables are asked for: (n, out height, out width, streams, planes).

        Args:
            plan: the layer's plan.
            activations: (n, inputs, height, width) unsigned integers, padded.
        """
        patterns = self.patterns(plan, activations)
        if not self.nested:
            return patterns
        nested = patterns.to(torch.int32 if self.inputs + self.bits < 31 else torch.int64)
        above = torch.cat([nested[..., 1:], torch.zeros_like(nested[..., :1])], -1)
        steps = torch.arange(self.pulses, dtype=nested.dtype) << self.inputs
        # Terms that cancel, and patterns without an open input, become the read without any open input.
        upper, lower = ((patterns + steps) * (patterns > 0) * (nested != above) for patterns in (nested, above))
        return torch.cat([torch.zeros_like(nested[..., :1]), upper, lower], -1)

    def patterns(self, plan: TilePlan, activations: Tensor) -> Tensor:
        """Patterns of the activations' bit planes, of their unit pulses or of the activations themselves.

        Returns:
            (n, out height, out width, streams, planes), as `layer_patterns` returns them.
        """
        return layer_patterns(activations, self.kind, plan.layer.activation_bits, plan.chunks, plan.layer.geometry())

    def states_at(self, plan: TilePlan, activations: Tensor, stream: int, places: Tensor) -> Tensor:
        """States (reads, inputs) of a stream's inputs at places (reads, 4) of `patterns`."""
        bits, geometry = plan.layer.activation_bits, plan.layer.geometry()
        return states_at(activations, self.kind, bits, plan.chunks, geometry, stream, places)

    @property
    def kind(self) -> PlaneKind:
        """What a plane of `patterns` is."""
        if self.direct:
            return "values"
        return "bits" if self.mode == "bit-serial" else "pulses"

    def drive(self, reads: np.ndarray, inputs: int) -> np.ndarray:
        """(reads, inputs) share of its full voltage, 0..1, that each input of a group has.

        Numbers of direct reads may be hashes; their states, as `states_at` gives them, have to be kept.
        """
        states = pattern_bits(reads, inputs)
        amplitude = (reads >> self.inputs) + 1
        return states if self.amplitudes == 1 else states * amplitude[:, None] / self.amplitudes

    def shares(self, states: np.ndarray) -> np.ndarray:
        """Share of its full voltage, 0..1, that each input has, given its states as `states_at` gives them."""
        return states / self.amplitudes if self.direct else states

    def full(self, patterns: np.ndarray) -> np.ndarray:
        """The reads of patterns at the highest amplitude."""
        return patterns + ((self.amplitudes - 1) << self.inputs)

    def pattern(self, reads: np.ndarray) -> np.ndarray:
        """The patterns of reads."""
        return reads & ((1 << self.inputs) - 1)

    def in_order(
        self, reads: np.ndarray, drive: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The reads that the circuit makes for one place after the other, and how the tables make up each of them.

        Args:
            reads: (planes, places) as `reads` gives them for a stream.
            drive: a function that returns the shares (n, inputs) of reads (n,).

        Returns:
            (n, inputs) shares as `drive` gives them; (n, terms) reads of the tables; and (terms,) what each counts.
        """
        if self.nested:
            assert self.weights is not None
            shares = np.tensordot(self.weights, np.stack([drive(plane) for plane in reads]), 1)
            return np.rint(self.amplitudes * shares) / self.amplitudes, reads.T, self.weights
        # Bit planes go from the most significant to the least, pulses in their order of time.
        single = (reads[::-1] if self.mode == "bit-serial" else reads).T.reshape(-1, 1)
        return drive(single[:, 0]), single, np.ones(1)
