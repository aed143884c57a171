"""A source whose answers a test writes: what stands above sources is tested in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cosim.config import Config
from cosim.currents import GroupCurrents, IdealSource, ReadRequest
from cosim.readout import ideal_sums


class ScriptedSource(IdealSource):
    """Answers with `answer(request)` unit currents, (reads, lines), and keeps the requests."""

    def __init__(self, config: Config, answer: Callable[[ReadRequest], np.ndarray]) -> None:
        super().__init__(config)
        self.identity = "scripted"
        self.requests: list[ReadRequest] = []
        self._answer, self._unit = answer, config.cell.unit_a

    def currents(self, requests: Sequence[ReadRequest], title: str) -> Iterator[GroupCurrents]:
        for request in requests:
            self.requests.append(request)
            units = self._answer(request)
            yield GroupCurrents(units * self._unit, np.zeros(len(units)))


def ideal_units(request: ReadRequest) -> np.ndarray:
    """What an ideal array answers."""
    return ideal_sums(request.group, request.drive)
