"""Arrays that are solved without a circuit simulator, from curves that the simulator gave (`cosim.solver`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from cosim.config import Config
from cosim.currents.programming import ProgrammedCell
from cosim.currents.request import GroupCurrents, ReadRequest
from cosim.mapping import ENUMERATED_INPUTS
from cosim.progress import progress_bar
from cosim.solver import ArraySolver
from cosim.spice import Simulator, Store, Usage

# How many requests are answered together.
_GROUPS_A_STEP = 64


class SolvedSource:
    """The source of `run.fidelity = "solved"`. It gives settled currents only, without waveforms.

    Args:
        config: the configuration, for its array, cell, read condition and corner.
        cell: the cell that groups are programmed with.
        simulator: gives the curves of cell and sense stage.

    Raises:
        CardError: the solver cannot follow the cell's curve.
    """

    def __init__(self, config: Config, cell: ProgrammedCell, simulator: Simulator) -> None:
        self.config = config
        self.cell: ProgrammedCell | None = cell
        self.simulator = simulator
        self.identity = f"solved, curves of {simulator.engine}"
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.solver = ArraySolver(cell.card, config, cell.shifts, cell.closed, simulator, device=device)

    @property
    def usage(self) -> Usage:
        """Counters of what the simulator did for curves and certificates."""
        return self.simulator.usage

    @property
    def store(self) -> Store:
        """The simulator's store."""
        return self.simulator.store

    def batches(self, needed: np.ndarray, inputs: int) -> list[np.ndarray]:
        """Every pattern of a group if it is small enough, since they are solved together; else the needed patterns."""
        if len(needed) and inputs <= ENUMERATED_INPUTS and self.solver.shares_patterns:
            return [np.arange(2**inputs)]
        return [needed] if len(needed) else []

    def currents(self, requests: Sequence[ReadRequest], title: str) -> Iterator[GroupCurrents]:
        """Settled currents of each request's reads."""
        with progress_bar(title, len(requests)) as advance:
            for whole, run in groupby(requests, self._is_whole):
                same = list(run)
                for first in range(0, len(same), _GROUPS_A_STEP):
                    few = same[first : first + _GROUPS_A_STEP]
                    for found in self._solved(few, whole=whole):
                        currents = found.cpu().numpy()
                        yield GroupCurrents(currents, np.zeros(len(currents)))
                        advance(1)

    def _is_whole(self, request: ReadRequest) -> bool:
        """Whether a request asks for every pattern of its group, in order."""
        reads, inputs = request.drive.shape
        if inputs > ENUMERATED_INPUTS or reads != 2**inputs or not self.solver.shares_patterns:
            return False
        return bool((request.drive @ (1 << np.arange(inputs)) == np.arange(reads)).all())

    def _solved(self, requests: Sequence[ReadRequest], *, whole: bool) -> Iterator[Tensor]:
        groups, cells = [request.group for request in requests], [request.cells for request in requests]
        if whole:
            yield from self.solver.every_pattern(groups, cells)
        else:
            yield from self.solver.reads(groups, [request.drive for request in requests], cells)
