"""Reads in the order in which images cause them, against the pattern tables: the premise of tables, checked.

Tables hold that a settled read has no memory of the one before. An audit simulates some reads of an image one after the
other, following every edge, and compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from cosim.currents import GroupCurrents, ReadRequest
from cosim.evaluate.array_layer import ArrayLayer

# Audit requests a layer, each on a group drawn at random, and runs of reads drawn for each.
_REQUESTS = 3
_DRAWS = 16


@dataclass(frozen=True, eq=False)
class AuditResult:
    """One audited run of reads.

    Attributes:
        layer, group: where.
        table_lsb, audit_lsb: (reads, lines) positions in codes.
        distinct_reads: among the reads.
        differing_codes: codes that are not the same.
        currents: the answer, with its waveform if it is a transient.
    """

    layer: str
    group: int
    table_lsb: np.ndarray
    audit_lsb: np.ndarray
    distinct_reads: int
    differing_codes: int
    currents: GroupCurrents

    @property
    def max_error_lsb(self) -> float:
        return float(np.abs(self.table_lsb - self.audit_lsb).max())


class _Audited(Protocol):
    """A circuit as an audit sees it."""

    arrays: dict[str, ArrayLayer]

    def activations(self, images: Tensor, name: str) -> Tensor: ...


def audit_circuit(circuit: _Audited, images: Tensor, seed: int) -> list[AuditResult]:
    """Ask each layer's source for reads in image order, and compare with the tables.

    Args:
        images: images that the circuit has seen, (n, channels, height, width).
    """
    results = []
    for number, (name, array) in enumerate(circuit.arrays.items()):
        rng = np.random.default_rng((seed, number))
        planned = []
        for _ in range(_REQUESTS):
            image = int(rng.integers(len(images)))
            planned.append(_in_image_order(array, circuit.activations(images[image : image + 1], name), rng))
        answers = array.chip.source.currents([request for _, request, _ in planned], "audit")
        for (index, request, held), found in zip(planned, answers, strict=True):
            converter = array.table.converter(index)
            lsb = converter.in_lsb(found.currents).astype(np.float32)
            array.note_settling(index, found)
            differing = int((converter.codes(lsb) != converter.codes(held)).sum())
            distinct = len(np.unique(request.drive, axis=0))
            results.append(AuditResult(name, index, held, lsb, distinct, differing, found))
    return results


def _in_image_order(
    array: ArrayLayer, activations: Tensor, rng: np.random.Generator
) -> tuple[int, ReadRequest, np.ndarray]:
    """A group drawn at random, reads of one image in the order it causes them, and what the table holds for them.

    Of several runs of reads drawn at random the one with most distinct reads is taken: the margins of an image cause
    nothing but closed inputs, which would test little.

    Args:
        activations: (1, inputs, height, width) of the image; its patterns must have been answered.
    """
    index = int(rng.integers(len(array.plan.groups)))
    group = array.plan.groups[index]
    reads = array.scheme.reads(array.plan, activations)[:, 0, group.stream].flatten(1).numpy()
    in_order, terms, weights = array.scheme.in_order(reads, group.inputs)
    count = min(array.chip.config.run.audit_reads, len(in_order))
    starts = rng.integers(len(in_order) - count + 1, size=_DRAWS)
    spans = [slice(start, start + count) for start in starts.tolist()]
    chosen = max(spans, key=lambda span: len(np.unique(in_order[span], axis=0)))
    held = np.tensordot(weights, array.table.lookup(index, terms[chosen].T), 1)
    return index, array.request(index, in_order[chosen], careful=True), held
