"""How far two sources of currents are apart on the same reads: the one comparison behind audits and certificates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosim.currents import CurrentSource, GroupCurrents, ReadRequest
from cosim.evaluate.array_layer import ArrayLayer


@dataclass(frozen=True, eq=False)
class Question:
    """Reads of a group that two sources are asked for.

    Attributes:
        array, index: the layer, and which group of its plan.
        request: the reads.
        held: (reads, lines) positions that the layer's table holds for them; None where the layer's own source is to
            be asked.
    """

    array: ArrayLayer
    index: int
    request: ReadRequest
    held: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Distance:
    """What both said.

    Attributes:
        layer, group: where.
        request: the reads.
        held_lsb, found_lsb: (reads, lines) positions in codes, of the layer's table or source and of the other source.
        codes_differ: (reads, lines) bool, where the converter makes another code of the two.
        unsettled_lsb: (reads,) how far the least settled current of the other source still moved.
        currents: what the other source answered, with its waveform if it is a careful transient.
    """

    layer: str
    group: int
    request: ReadRequest
    held_lsb: np.ndarray
    found_lsb: np.ndarray
    codes_differ: np.ndarray
    unsettled_lsb: np.ndarray
    currents: GroupCurrents

    @property
    def error_lsb(self) -> np.ndarray:
        """(reads, lines) position of the other source less that of the layer."""
        return self.found_lsb - self.held_lsb

    @property
    def max_error_lsb(self) -> float:
        return float(np.abs(self.error_lsb).max())

    @property
    def distinct_reads(self) -> int:
        return len(np.unique(self.request.drive, axis=0))


def measure_distances(questions: Sequence[Question], source: CurrentSource, title: str) -> list[Distance]:
    """Ask a source what the layers say already, and compare; how settled its reads are is noted with the layers.

    Args:
        questions: all of layers that share a source.
        source: the other one.
        title: what this is for, shown while the sources work.

    Raises:
        SimulationError: ngspice failed.
    """
    unknown = [question for question in questions if question.held is None]
    own: Any = iter(())
    if unknown:
        own = unknown[0].array.chip.source.currents([question.request for question in unknown], title)
    answers = source.currents([question.request for question in questions], title)
    distances = []
    for question, found in zip(questions, answers, strict=True):
        array, converter = question.array, question.array.table.converter(question.index)
        held = converter.in_lsb(next(own).currents) if question.held is None else question.held
        held, lsb = (positions.astype(np.float32) for positions in (held, converter.in_lsb(found.currents)))
        distances.append(
            Distance(
                layer=array.layer.name,
                group=question.index,
                request=question.request,
                held_lsb=held,
                found_lsb=lsb,
                codes_differ=converter.codes(lsb) != converter.codes(held),
                unsettled_lsb=array.note_settling(question.index, found),
                currents=found,
            )
        )
    return distances
