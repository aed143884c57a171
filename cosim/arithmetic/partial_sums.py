"""Partial sums as an array's converter digitizes them, computed exactly in software.

A group of open inputs sums the currents of its cells, the converter turns the sum into a code, and codes are added over
groups and bit planes. `cosim.readout` digitizes the same sums, so an ideal circuit gives the same codes.
`cosim.training.partial_sum_quantizer` trains networks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cosim.arithmetic.codes import code_units, decision_offset, less_reference, nearest_codes
from cosim.arithmetic.patterns import every_pattern, layer_patterns, plane_counts
from cosim.arithmetic.placement import Chunks, Placement
from cosim.config import Config
from cosim.errors import ConfigError, NetworkError

# Every pattern of a group has a row in a table, so groups must be small.
_MOST_WORDLINES = 12


@dataclass(frozen=True)
class PartialSums:
    """How an array digitizes the sums of its groups.

    Attributes:
        open_wordlines: rows of the unrolled kernel in one sum, 1 to 12.
        cell_bits: bits of a cell, which holds levels 0..2^cell_bits - 1; a weight must fit into one cell.
        lsb_units: width of a code in units.
        highest: the largest code, or None for no limit.
        offset_units: units that level 0 conducts.
    """

    open_wordlines: int
    cell_bits: int
    lsb_units: float
    highest: int | None
    offset_units: int = 0

    def __post_init__(self) -> None:
        counts = (self.open_wordlines, self.cell_bits, self.offset_units, 1 if self.highest is None else self.highest)
        if not all(type(count) is int for count in counts):
            raise NetworkError(f"partial sums are described by whole numbers but for lsb_units, found {self}")
        if not 1 <= self.open_wordlines <= _MOST_WORDLINES:
            raise NetworkError(
                f"partial sums are held in tables of groups of 1 to {_MOST_WORDLINES} wordlines, found "
                f"{self.open_wordlines}: lower array.open_wordlines"
            )
        some_codes = self.highest is None or 1 <= self.highest < 2**16
        cells = 1 <= self.cell_bits <= 6 and 0 <= self.offset_units <= 64
        if not cells or not 1e-9 <= self.lsb_units <= 1e12 or not some_codes:
            raise NetworkError(
                "partial sums need cells of 1 to 6 bits and 0 to 64 offset units, lsb_units within 1e-9 and 1e12, and "
                f"a highest code within 1 and 65535 or none, found {self}"
            )

    @classmethod
    def from_config(cls, config: Config) -> PartialSums:
        """How the arrays of a configuration digitize their sums.

        Raises:
            ConfigError: its arrays digitize other sums.
        """
        check_digitized(config)
        lsb_units, highest = code_units(config)
        return cls(config.array.open_wordlines, config.cell.bits, lsb_units, highest, config.cell.offset_units)

    def in_lsb(self, sums: Tensor) -> Tensor:
        """Convert sums of units to positions in codes. The nearest integer is the code."""
        return sums / self.lsb_units + decision_offset(self.lsb_units)

    def codes(self, lsb: Tensor) -> Tensor:
        """Codes of positions as `in_lsb` gives them, without noise."""
        return nearest_codes(lsb, self.highest)


def check_digitized(config: Config) -> None:
    """Refuse arrays unless they digitize one bit plane at a time and subtract a reference column.

    Raises:
        ConfigError: the arrays of the configuration digitize other sums.
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


@dataclass(frozen=True, eq=False)
class Columns:
    """A layer's placement as the columns of an array that is wide enough for all its outputs.

    Attributes:
        units: (streams, outputs / groups + 1, inputs) float32 units that cells conduct. The last column is the
            reference column, and missing rows hold 0.
        zero_units: (groups, outputs / groups) float64 units that stand for weight 0.
        reference_units: units that a cell of the reference column conducts.
        cut: how kernels are cut into chunks.
        geometry: stride, dilation and groups of the convolution.
        bits: number of bits of an activation.
    """

    units: Tensor
    zero_units: Tensor
    reference_units: int
    cut: Chunks
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
        """Place a layer in columns.

        Args:
            levels: (outputs, inputs / groups, kernel height, kernel width).
            zero_points: (outputs,) levels that stand for weight 0.
            how: how the array digitizes sums.
            geometry: stride, dilation and groups of the convolution.
            bits: number of bits of an activation.
        """
        chunks = Chunks(tuple(levels.shape[1:]), geometry["groups"], how.open_wordlines)
        levels = levels.to(torch.float32)
        placed = Placement.offset(levels, zero_points, how.cell_bits, how.cell_bits, how.offset_units, chunks)
        assert placed.reference_units is not None
        columns = placed.units.reshape(chunks.groups, -1, chunks.depth)
        reference = torch.full_like(columns[:, :1], float(placed.reference_units))
        units = chunks.cut(torch.cat([columns, reference], 1)).transpose(1, 2).flatten(0, 1)
        zero_units = placed.zero_units.reshape(chunks.groups, -1).to(torch.float64)
        return cls(units, zero_units, placed.reference_units, chunks, geometry, bits)

    @property
    def chunks(self) -> int:
        """Number of chunks of a kernel."""
        return len(self.units) // len(self.zero_units)

    def every_sum(self) -> Tensor:
        """Sums of units for every pattern of every stream: (streams, patterns, columns)."""
        return every_pattern(self.units.shape[2], self.units.device) @ self.units.transpose(1, 2)

    def rows(self, activations: Tensor) -> Tensor:
        """Row of a group's table that answers each read: (groups, chunks, bits, n, height, width)."""
        patterns = layer_patterns(activations, "bits", self.bits, self.cut, self.geometry)
        starts = 2 ** self.units.shape[2] * torch.arange(self.chunks, device=patterns.device)
        rows = patterns.unflatten(3, (len(self.zero_units), self.chunks)) + starts[:, None]
        return rows.permute(3, 4, 5, 0, 1, 2)

    def less_reference(self, codes: Tensor) -> Tensor:
        """Turn codes (streams, patterns, columns) into partial sums (groups, chunks * patterns, outputs / groups)."""
        grouped = codes.unflatten(0, (len(self.zero_units), self.chunks)).to(torch.float64)
        zero_units = self.zero_units[:, None, None]
        sums = less_reference(grouped[..., :-1], grouped[..., -1:], zero_units, self.reference_units)
        return sums.to(torch.float32).flatten(1, 2)


def add_partial_sums(rows: Tensor, table: Tensor) -> Tensor:
    """Add table rows over the chunks of a kernel and, weighted by powers of two, over bit planes.

    Args:
        rows: (chunks, bits, n, height, width) row of the table that answers each read.
        table: (rows, outputs) partial sums.

    Returns:
        (n, outputs, height, width) sums in the table's dtype.
    """
    chunks, bits, n, height, width = rows.shape
    weights = plane_counts(bits, table.device).repeat(chunks).to(table.dtype)
    bags = rows.permute(2, 3, 4, 0, 1).reshape(n * height * width, chunks * bits)
    summed = F.embedding_bag(bags, table, mode="sum", per_sample_weights=weights.expand(bags.shape))
    return summed.reshape(n, height, width, -1).permute(0, 3, 1, 2)


def digitized_sums(columns: Columns, how: PartialSums, activations: Tensor) -> Tensor:
    """Layer sums (n, outputs, height, width), float32, from the codes of a converter without noise.

    Args:
        columns: the layer's placement.
        how: how the array digitizes sums.
        activations: (n, inputs, height, width) unsigned integers, padded.
    """
    table = columns.less_reference(how.lsb_units * how.codes(how.in_lsb(columns.every_sum())))
    rows = columns.rows(activations)
    sums = [add_partial_sums(of_group, entries) for of_group, entries in zip(rows, table, strict=True)]
    return torch.cat(sums, 1)
