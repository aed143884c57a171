"""Partial sums as an array's converter sees them, exactly and in software.

A group of open wordlines sums levels, the converter makes a code of the sum, and codes are added over groups and bit
planes. What is digitized here is what `cosim.readout` digitizes, so an ideal circuit gives the same codes. Training
for it: `cosim.training.partial_sum_quantizer`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cosim.arithmetic.bit_planes import add_partial_sums, bit_planes, pattern_kernels, plane_patterns
from cosim.config import Config
from cosim.errors import ConfigError, NetworkError

# Every pattern of a group is a table row, so groups must be small.
_MOST_WORDLINES = 12


@dataclass(frozen=True)
class PartialSums:
    """How an array digitizes the sums of its groups.

    Attributes:
        open_wordlines: rows of the unrolled kernel in one sum, 1 to 12.
        cell_bits: a cell holds levels 0..2^cell_bits - 1, and a weight must fit one cell.
        offset_units: units that level 0 conducts.
        lsb_units: width of a code in units of a level.
        highest: the largest code, or None for no limit.
    """

    open_wordlines: int
    cell_bits: int
    lsb_units: float
    highest: int | None
    offset_units: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.open_wordlines <= _MOST_WORDLINES:
            raise NetworkError(
                f"partial sums are held in tables of groups of 1 to {_MOST_WORDLINES} wordlines, found "
                f"{self.open_wordlines}: lower array.open_wordlines"
            )
        if not 1 <= self.cell_bits <= 6 or not 0 < self.lsb_units < math.inf or (self.highest or 1) < 1:
            raise NetworkError(
                f"partial sums need cells of 1 to 6 bits, lsb_units > 0 and a highest code >= 1 or none, found {self}"
            )

    @classmethod
    def from_config(cls, config: Config) -> PartialSums:
        """Those of the arrays of a configuration.

        Raises:
            ConfigError: its arrays digitize other sums.
        """
        check_digitized(config)
        lsb_units, highest = config.code_units()
        return cls(config.array.open_wordlines, config.cell.bits, lsb_units, highest, config.cell.offset_units)

    def in_lsb(self, sums: Tensor) -> Tensor:
        """Sums of levels in units of a code, so that the nearest integer is the code."""
        return sums / self.lsb_units + decision_offset(self.lsb_units)

    def codes(self, lsb: Tensor) -> Tensor:
        """Codes of what `in_lsb` gives, without noise."""
        return lsb.round().clamp(0, self.highest)


def check_digitized(config: Config) -> None:
    """Refuse arrays that digitize other sums than those of levels, less a reference, a bit plane at a time.

    Raises:
        ConfigError: the arrays of the configuration are such.
    """
    for key, found, expected in (
        ("array.encoding", config.array.encoding, "offset"),
        ("read.mode", config.read.mode, "bit-serial"),
    ):
        if found != expected:
            raise ConfigError(
                f'networks trained for digitized partial sums need {key} = "{expected}", found "{found}": set it back, '
                "or quantize the network without arrays"
            )


def decision_offset(lsb_units: float) -> float:
    """What a converter adds to a sum before it rounds, in codes.

    Where a code is an even number of units wide, every other whole sum would lie exactly between two codes and the
    least disturbance decide; such a converter decides half a unit lower.
    """
    return 0.5 / lsb_units if lsb_units % 2 == 0 else 0.0


@dataclass(frozen=True, eq=False)
class Columns:
    """A layer as the columns of an array.

    Attributes:
        levels: (streams, outputs / groups + 1, wordlines) float, in units with the offset; the last column is the
            reference, missing rows hold 0.
        zero_points: (groups, outputs / groups) float64 units that stand for weight 0.
        reference_level: of the reference column.
        kernels: `pattern_kernels` of the layer.
        geometry: stride, dilation and groups.
        bits: of an activation.
    """

    levels: Tensor
    zero_points: Tensor
    reference_level: int
    kernels: Tensor
    geometry: dict[str, Any]
    bits: int

    @classmethod
    def of(
        cls,
        levels: Tensor,
        zero_points: Tensor,
        how: PartialSums,
        geometry: dict[str, Any],
        bits: int,
    ) -> Columns:
        """Columns of levels (outputs, inputs / groups, kernel height, kernel width) and zero points (outputs,)."""
        outputs, inputs, height, width = levels.shape
        groups = geometry["groups"]
        depth, chunks = inputs * height * width, math.ceil(inputs * height * width / how.open_wordlines)
        reference_level = reference_level_for(zero_points, 2**how.cell_bits) + how.offset_units
        flat = levels.reshape(groups, outputs // groups, depth).to(torch.float32) + how.offset_units
        reference = torch.full_like(flat[:, :1], float(reference_level))
        columns = F.pad(torch.cat([flat, reference], 1), (0, chunks * how.open_wordlines - depth))
        columns = columns.reshape(groups, -1, chunks, how.open_wordlines).transpose(1, 2).flatten(0, 1)
        kernels = pattern_kernels((inputs, height, width), how.open_wordlines, groups).to(levels.device, torch.float32)
        per_group = zero_points.reshape(groups, -1).to(torch.float64) + how.offset_units
        return cls(columns, per_group, reference_level, kernels, geometry, bits)

    @property
    def chunks(self) -> int:
        return len(self.levels) // len(self.zero_points)

    def every_sum(self) -> Tensor:
        """Sums of levels for every pattern of every stream: (streams, patterns, columns)."""
        return pattern_states(self.levels.shape[2], self.levels.device) @ self.levels.transpose(1, 2)

    def rows(self, activations: Tensor) -> Tensor:
        """Which row of a group's table answers each read: (groups, chunks, bits, n, height, width)."""
        patterns = plane_patterns(bit_planes(activations, self.bits), self.kernels, self.geometry).to(torch.int64)
        slots = 2 ** self.levels.shape[2]
        rows = patterns.unflatten(2, (len(self.zero_points), self.chunks)).permute(2, 3, 0, 1, 4, 5)
        return rows + slots * torch.arange(self.chunks, device=rows.device)[:, None, None, None, None]

    def less_reference(self, codes: Tensor) -> Tensor:
        """Partial sums (groups, chunks * patterns, outputs / groups) of codes (streams, patterns, columns)."""
        grouped = codes.unflatten(0, (len(self.zero_points), self.chunks)).to(torch.float64)
        reference = grouped[..., -1:] * self.zero_points[:, None, None] / self.reference_level
        return (grouped[..., :-1] - reference).to(torch.float32).flatten(1, 2)


def pattern_states(wordlines: int, device: torch.device) -> Tensor:
    """State of each wordline under every pattern: (2^wordlines, wordlines) of 0 and 1, float32."""
    patterns = torch.arange(2**wordlines, device=device)
    return ((patterns[:, None] >> torch.arange(wordlines, device=device)) & 1).to(torch.float32)


def reference_level_for(zero_points: Tensor, cell_levels: int, place: int = 1) -> int:
    """The reference column's level: close to the zero points, so that wires take from both alike.

    Args:
        zero_points: (outputs,) levels that stand for weight 0.
        place: what a unit of the most significant slice counts.
    """
    return min(max(round(float(zero_points.to(torch.float64).median()) / place), 1), cell_levels - 1)


def digitized_sums(columns: Columns, how: PartialSums, activations: Tensor) -> Tensor:
    """Layer sums (n, outputs, height, width), float32, from the codes of a converter without noise.

    Args:
        activations: (n, inputs, height, width) unsigned integers, padded.
    """
    table = columns.less_reference(how.lsb_units * how.codes(how.in_lsb(columns.every_sum())))
    rows = columns.rows(activations)
    sums = [add_partial_sums(of_group, entries) for of_group, entries in zip(rows, table, strict=True)]
    return torch.cat(sums, 1)
