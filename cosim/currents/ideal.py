"""Ideal arrays: every cell conducts exactly the current of its level, and wires have no influence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cosim.config import Config
from cosim.currents.programming import ProgrammedCell
from cosim.currents.request import GroupCurrents, ReadRequest
from cosim.spice import Store, Usage


class IdealSource:
    """The source of `run.fidelity = "ideal"`."""

    def __init__(self, config: Config) -> None:
        self.identity = "ideal"
        self.cell: ProgrammedCell | None = None
        self.usage = Usage()
        self.store: Store | None = None
        self._unit_a = config.cell.unit_a

    def batches(self, needed: np.ndarray, inputs: int) -> list[np.ndarray]:
        """All needed patterns, in one request."""
        return [needed] if len(needed) else []

    def currents(self, requests: Sequence[ReadRequest], title: str) -> Iterator[GroupCurrents]:
        """Currents of each request's reads: sums of unit currents."""
        for request in requests:
            sums = request.drive @ request.group.units.astype(np.int64)
            yield GroupCurrents(sums * self._unit_a, np.zeros(len(sums)))
