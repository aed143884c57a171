"""The array solver: computes the currents of groups, in the way that suits the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

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
# How many numbers a tensor of given reads may hold; of coupled reads, one for a row of cells.
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

    def reads(self, group: Group, drive: np.ndarray, shifts: np.ndarray | None = None) -> Tensor:
        """Currents of given reads of a group: (reads, outputs) [A].

        Args:
            group: the group.
            drive: (reads, inputs) share of its full voltage, 0..1, that each input has.
            shifts: (inputs, outputs) threshold shifts of the cells [V], or None for those of the group's units.
        """
        given, columns = self._tensor(drive), max(group.units.shape)
        if not self._coupled:
            ladders = self._ladders([(group, shifts)])
            parts = given.split(max(1, _NUMBERS // columns))
            return torch.cat([given_patterns(ladders, part, self._stage, self.order.points) for part in parts])
        bitlines, lines = self._bitlines(group, shifts), SourceLines.of(self.config, group, self._closed)
        found = []
        for part in given.tensor_split(1 + len(given) * columns // _ROW_NUMBERS):
            opened, driven = part, None
            if self._grounds:  # every gate is open, and inputs are the bitlines' voltages
                opened, driven = part.new_ones(len(part), group.units.shape[1]), part * bitlines.volts
            found.append(coupled_currents(bitlines, opened, driven, lines, self._stage))
        return torch.cat(found)

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

    def _bitlines(self, group: Group, shifts: np.ndarray | None) -> Bitlines:
        """The bitlines of a group if sources may be above 0 V: its outputs or, with amplitude reads, its inputs."""
        coefficients, closed_s = self._cells(group, shifts)
        near, far, clamp = self._leakage(group)
        wire_ohm, below = self.config.array.bitline_res_ohm, group.first_input + 1
        if self._grounds:
            coefficients, closed_s, below = coefficients.swapaxes(2, 3), np.zeros(group.units.shape).T, 1
            near = far = clamp = np.zeros(len(group.units))
        volts = self.config.read_at_corner.bitline_v
        return Bitlines(
            self._tensor(coefficients),
            self.order.drain + 1,
            self._tensor(closed_s),
            wire_ohm,
            wire_ohm * below,
            self._tensor(near),
            self._tensor(far),
            self._tensor(clamp),
            volts,
            SOURCE_SHARE * volts,
        )
