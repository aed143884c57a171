"""The array solver: computes the currents of groups, in the way that suits the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cosim.config import Config
from cosim.device import Card
from cosim.mapping import Group
from cosim.netlist import ClosedCells
from cosim.solver.chain import Ladders, every_pattern, given_patterns
from cosim.solver.coupled import Bitlines, coupled_currents
from cosim.solver.curves import SOURCE_SHARE, CurveSource, Order
from cosim.solver.source_lines import SourceLines
from cosim.solver.stage import Stage
from cosim.spice import Simulator

# How many bitlines are solved together: their tensors stay in the processor's cache (measured: docs/performance.md).
_BITLINES = 256
# How many numbers a tensor of given reads may hold; of coupled reads, for a row of cells.
_NUMBERS = 1 << 17
_ROW_NUMBERS = 1 << 15


class ArraySolver:
    """Solves groups that are programmed with one card and read under one configuration, for settled currents only.

    Args:
        card: the cell's card.
        config: the configuration, for its array, cell, read condition and corner.
        level_shifts: (units,) threshold shift for each number of unit currents [V].
        closed: what cells on closed wordlines, or bitlines, conduct; None if they conduct nothing.
        simulator: simulates the curves of cell and sense stage.
        order: how closely curves are followed; None for the default.
        device: device of the tensors.

    Raises:
        CardError: polynomials cannot follow the cell's curve.
    """

    def __init__(
        self,
        card: Card,
        config: Config,
        level_shifts: np.ndarray,
        closed: ClosedCells | None,
        simulator: Simulator,
        order: Order | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config
        self.order = order or Order()
        self.device = torch.device(device)
        self._closed = None if config.array.closed_wordlines == "omitted" else closed
        self._grounds = config.read.mode == "amplitude"
        self._coupled = self._grounds or config.array.source_res_ohm > 0
        self._curves = CurveSource(
            card, config, level_shifts, simulator, self.order, sources=self._coupled, backwards=self._grounds
        )
        self._levels = self._curves.levels()
        most_a = 1.3 * config.array.open_wordlines * config.cell.full_scale_a
        stage = Stage.of(config, most_a, simulator)
        self._stage = stage.to(torch.float32, self.device)

    @property
    def shares_patterns(self) -> bool:
        """Whether all patterns of a group are solved together (`every_pattern`). If not, each read is solved itself."""
        return not self._coupled

    def every_pattern(self, groups: Sequence[Group], shifts: Sequence[np.ndarray | None]) -> Iterator[Tensor]:
        """Yield the currents of every pattern of each group: (2^inputs, outputs) [A].

        Args:
            groups: the groups.
            shifts: for each group, (inputs, outputs) threshold shifts of its cells [V], or None for those of its units.
        """
        batch: list[int] = []
        columns = 0
        for index, group in enumerate(groups):
            inputs, width = group.units.shape
            if batch and (columns + width > _BITLINES or groups[batch[0]].units.shape[0] != inputs):
                yield from self._batch(groups, shifts, batch)
                batch, columns = [], 0
            batch.append(index)
            columns += width
        if batch:
            yield from self._batch(groups, shifts, batch)

    def _batch(
        self, groups: Sequence[Group], shifts: Sequence[np.ndarray | None], chosen: list[int]
    ) -> Iterator[Tensor]:
        """Solve every pattern of a few groups, which must have the same number of inputs, at once."""
        widths = [groups[index].units.shape[1] for index in chosen]
        ladders = self._ladders([(groups[index], shifts[index]) for index in chosen])
        yield from every_pattern(ladders, self._stage, self.order.points).split(widths, 1)

    def reads(
        self, groups: Sequence[Group], drives: Sequence[np.ndarray], shifts: Sequence[np.ndarray | None]
    ) -> list[Tensor]:
        """Currents of given reads of each group: (reads, outputs) [A].

        Args:
            groups: the groups.
            drives: for each group, (reads, inputs) shares of its full voltage, 0..1, that each input has.
            shifts: as in `every_pattern`.
        """
        given = [self._tensor(drive) for drive in drives]
        if self._coupled:
            return self._coupled_reads(groups, given, shifts)
        found = []
        for group, drive, own in zip(groups, given, shifts, strict=True):
            ladders = self._ladders([(group, own)])
            parts = drive.split(max(1, _NUMBERS // group.units.shape[1]))
            found.append(torch.cat([given_patterns(ladders, part, self._stage, self.order.points) for part in parts]))
        return found

    def _coupled_reads(
        self, groups: Sequence[Group], given: Sequence[Tensor], shifts: Sequence[np.ndarray | None]
    ) -> list[Tensor]:
        """As `reads`, for bitlines that source lines couple: together for groups that have the same source lines."""
        found = [drive.new_empty(0) for drive in given]
        for lines, alike in self._by_source_lines(groups):
            alike.sort(key=lambda index: len(given[index]))
            while alike:
                reads, columns = len(given[alike[-1]]), max(groups[alike[-1]].units.shape)
                count = max(1, _ROW_NUMBERS // max(1, reads * columns))
                few, alike = alike[-count:], alike[:-count]
                bitlines = self._bitlines([(groups[index], shifts[index]) for index in few])
                drive = pad_sequence([given[index] for index in few], batch_first=True)
                currents = []
                for part in drive.tensor_split(1 + reads * columns // _ROW_NUMBERS, 1):
                    opened, driven = part, None
                    if self._grounds:  # every gate is open, and inputs are the bitlines' voltages
                        opened = part.new_ones(*part.shape[:2], bitlines.closed_s.shape[0])
                        driven = part * bitlines.volts
                    currents.append(coupled_currents(bitlines, opened, driven, lines, self._stage))
                for index, own in zip(few, torch.cat(currents, 1), strict=True):
                    found[index] = own[: len(given[index])]
        return found

    def _by_source_lines(self, groups: Sequence[Group]) -> list[tuple[SourceLines, list[int]]]:
        """Numbers of groups that have as many cells, and the same source lines."""
        found: dict[object, tuple[SourceLines, list[int]]] = {}
        for index, group in enumerate(groups):
            lines = SourceLines.of(self.config, group, self._closed)
            # With amplitude reads, other cells are on the source lines of each group.
            key = index if self._grounds else (group.units.shape, lines.line_of)
            found.setdefault(key, (lines, []))[1].append(index)
        return list(found.values())

    def _cells(self, group: Group, shifts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (drain, source, inputs, lines) and closed conductances (inputs, lines) of a group's cells."""
        if shifts is None:
            return self._levels.of_units(group.units)
        return self._curves.grid(float(shifts.min()), float(shifts.max())).of_shifts(shifts)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device, torch.float32)

    def _leakage(self, group: Group) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Conductances of the tile's other cells at the group's near end, its far end and the clamp: (outputs,) [S]."""
        if self._closed is None or self._grounds:
            nothing = np.zeros(group.units.shape[1])
            return nothing, nothing, nothing
        tile, first = group.tile_units(self.config.array.wordlines), group.first_input
        found = self._closed.leakage_s(tile[:first], tile[first + len(group.units) :])
        return found["near_s"], found["far_s"], found["clamp_s"]

    def _ladders(self, cells: Sequence[tuple[Group, np.ndarray | None]]) -> Ladders:
        """The bitlines of some groups, side by side."""
        coefficients, closed = zip(*(self._cells(group, shifts) for group, shifts in cells), strict=True)
        near, far, clamp = (
            self._tensor(np.concatenate(parts))
            for parts in zip(*(self._leakage(group) for group, _ in cells), strict=True)
        )
        wire_ohm = self.config.array.bitline_res_ohm
        below = [np.full(group.units.shape[1], wire_ohm * (group.first_input + 1)) for group, _ in cells]
        return Ladders.of(
            self._tensor(np.concatenate([found[:, 0] for found in coefficients], axis=-1)),
            self._tensor(np.concatenate(closed, axis=-1)),
            wire_ohm,
            self._tensor(np.concatenate(below)),
            (near, far, clamp),
            self.config.read_at_corner.bitline_v,
        )

    def _bitlines(self, cells: Sequence[tuple[Group, np.ndarray | None]]) -> Bitlines:
        """The bitlines of groups of one size if sources may be above 0 V.

        They are the groups' outputs or, with amplitude reads, their inputs.
        """
        coefficients, closed = zip(*(self._cells(group, shifts) for group, shifts in cells), strict=True)
        leakage = zip(*(self._leakage(group) for group, _ in cells), strict=True)
        below = np.array([group.first_input + 1 for group, _ in cells])
        open_cells, closed_s = np.stack(coefficients, -2), np.stack(closed, -2)
        near, far, clamp = (np.stack(parts) for parts in leakage)
        if self._grounds:
            open_cells, closed_s = open_cells.swapaxes(2, 4), np.zeros(closed_s.T.shape)
            near = far = clamp = np.zeros(closed_s.shape[1:])
            below = np.ones(len(cells))
        volts, wire_ohm = self.config.read_at_corner.bitline_v, self.config.array.bitline_res_ohm
        return Bitlines(
            self._tensor(open_cells),
            self.order.drain + 1,
            self._tensor(closed_s),
            wire_ohm,
            self._tensor(wire_ohm * below),
            self._tensor(near),
            self._tensor(far),
            self._tensor(clamp),
            volts,
            SOURCE_SHARE * volts,
        )
