"""Measures how far two sources of currents are apart on the same reads, for audits and certificates."""

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
        array: the layer.
        index: number of the group in the layer's plan.
        request: the reads.
        held: (reads, lines) positions that the layer's table holds for them [LSB], or None to ask the layer's own
            source.
    """

    array: ArrayLayer
    index: int
    request: ReadRequest
    held: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Distance:
    """The answers of both sources to a question.

    Attributes:
        layer: name of the layer.
        group: number of the group.
        request: the reads.
        held_lsb: (reads, lines) positions in codes from the layer's table or source.
        found_lsb: (reads, lines) positions in codes from the other source.
        codes_differ: (reads, lines) bool, whether the converter gives different codes for the two.
        unsettled_lsb: (reads,) how far the least settled current of the other source still moved [LSB].
        currents: the answer of the other source, with its waveform if it is a careful transient.
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
        """(reads, lines) position from the other source less the position that the layer has [LSB]."""
        return self.found_lsb - self.held_lsb

    @property
    def max_error_lsb(self) -> float:
        return float(np.abs(self.error_lsb).max())

    @property
    def distinct_reads(self) -> int:
        return len(np.unique(self.request.drive, axis=0))


def measure_distances(questions: Sequence[Question], source: CurrentSource, title: str) -> list[Distance]:
    """Ask a second source for reads that layers have answers to, and compare.

    The layers also take note of how settled its reads are.

    Args:
        questions: the reads; their layers must share a source.
        source: the second source.
        title: shown while the sources work.

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
