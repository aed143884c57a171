"""What `read.mode` makes of a layer's activations: which reads its tables hold, and how a conversion adds them up.

A read of a group is an integer. Bit i of its pattern is the state of input i; with amplitudes, inputs in the pattern
are at amplitude 1..2^n - 1 of n bits, all alike, and

    read = pattern + 2^inputs * (amplitude - 1)

A real read has inputs of many amplitudes, too many to list. Of a, with P_k the inputs of amplitude k or more and I_k(P)
the currents of P at amplitude k, it is

    I(a) = I(none) + sum over k of (I_k(P_k) - I_k(P_k+1))

where a difference is what the inputs at k add to those above them. It is exact where inputs do not see each other,
where all that are not 0 are alike, and, by superposition, of cells that are linear; of real ones that share a line with
resistance their curvature is missed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cosim.arithmetic.patterns import PlaneKind, layer_patterns, pattern_bits, states_at
from cosim.mapping.plan import TilePlan


@dataclass(frozen=True)
class ReadScheme:
    """How a layer is read.

    Attributes:
        mode: read.mode.
        bits: of an activation.
        inputs: of the largest group.
    """

    mode: Literal["bit-serial", "pulse-width", "amplitude"]
    bits: int
    inputs: int

    @property
    def pulses(self) -> int:
        """Products of a unit current that a conversion counts for an input at its most."""
        return 1 if self.mode == "bit-serial" else 2**self.bits - 1

    @property
    def amplitudes(self) -> int:
        """Amplitudes that an input can have, besides none."""
        return self.pulses if self.mode == "amplitude" else 1

    @property
    def weights(self) -> np.ndarray | None:
        """(planes,) what each plane of `reads` counts in a conversion; None where each is converted by itself."""
        if self.mode == "bit-serial":
            return None
        if self.mode == "pulse-width":
            return np.full(self.pulses, 1 / self.pulses)
        return np.repeat([1.0, 1.0, -1.0], [1, self.pulses, self.pulses])

    @property
    def planes(self) -> int:
        """Planes of `reads`."""
        return self.bits if self.weights is None else len(self.weights)

    @property
    def real_planes(self) -> int:
        """Reads of a place in the circuit."""
        return 1 if self.mode == "amplitude" else self.planes

    def reads(self, plan: TilePlan, activations: Tensor) -> Tensor:
        """What the tables are asked for: (n, out height, out width, streams, planes) reads.

        Args:
            activations: (n, inputs, height, width) unsigned integers of so many bits, padded.
        """
        patterns = self.patterns(plan, activations)
        if self.mode != "amplitude":
            return patterns
        nested = patterns.to(torch.int32 if self.inputs + self.bits < 31 else torch.int64)
        above = torch.cat([nested[..., 1:], torch.zeros_like(nested[..., :1])], -1)
        steps = torch.arange(self.pulses, dtype=nested.dtype) << self.inputs
        # Terms that cancel, and patterns without an input, are the read of none.
        upper, lower = ((patterns + steps) * (patterns > 0) * (nested != above) for patterns in (nested, above))
        return torch.cat([torch.zeros_like(nested[..., :1]), upper, lower], -1)

    def patterns(self, plan: TilePlan, activations: Tensor) -> Tensor:
        """Patterns of bit planes or, with other modes, of the pulses that activations are worth.

        Returns:
            (n, out height, out width, streams, planes), as `layer_patterns`.
        """
        return layer_patterns(activations, self.kind, plan.layer.activation_bits, plan.chunks, plan.layer.geometry())

    def states_at(self, plan: TilePlan, activations: Tensor, stream: int, places: Tensor) -> Tensor:
        """States (reads, inputs) of a stream's inputs at places (reads, 4) of `patterns`."""
        bits, geometry = plan.layer.activation_bits, plan.layer.geometry()
        return states_at(activations, self.kind, bits, plan.chunks, geometry, stream, places)

    @property
    def kind(self) -> PlaneKind:
        """What a plane of `patterns` is."""
        return "bits" if self.mode == "bit-serial" else "pulses"

    def drive(self, reads: np.ndarray, inputs: int) -> np.ndarray:
        """(reads, inputs) what share of its full voltage each input of a group has, 0..1."""
        states = pattern_bits(reads, inputs)
        amplitude = (reads >> self.inputs) + 1
        return states if self.amplitudes == 1 else states * amplitude[:, None] / self.amplitudes

    def full(self, patterns: np.ndarray) -> np.ndarray:
        """The reads of patterns at the highest amplitude."""
        return patterns + ((self.amplitudes - 1) << self.inputs)

    def pattern(self, reads: np.ndarray) -> np.ndarray:
        """The patterns of reads."""
        return reads & ((1 << self.inputs) - 1)

    def in_order(
        self, reads: np.ndarray, drive: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the circuit reads for the activations of one place after the other, and what each takes of the tables.

        Args:
            reads: (planes, places) as `reads` gives them for a stream; drive: (n, inputs) shares of reads (n,).

        Returns:
            (n, inputs) shares as `drive` gives them; (n, terms) reads of the tables and (terms,) what each counts.
        """
        if self.mode == "amplitude":
            assert self.weights is not None
            shares = np.tensordot(self.weights, np.stack([drive(plane) for plane in reads]), 1)
            return np.rint(self.amplitudes * shares) / self.amplitudes, reads.T, self.weights
        # Bit planes most significant first, pulses as they come.
        single = (reads[::-1] if self.mode == "bit-serial" else reads).T.reshape(-1, 1)
        return drive(single[:, 0]), single, np.ones(1)
