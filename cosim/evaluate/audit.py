"""The audit of a run: compares reads in the order in which images cause them with the pattern tables.

The tables assume that a settled read does not depend on the read before it. An audit checks this: it simulates some
reads of an image one after the other, follows every edge, and compares.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

import numpy as np
from torch import Tensor

from cosim.evaluate.array_layer import ArrayLayer
from cosim.evaluate.distance import Distance, Question, measure_distances

# Audit requests for each layer, each on a group drawn at random, and spans of reads drawn for each request.
_REQUESTS = 3
_DRAWS = 16


class _Audited(Protocol):
    """A circuit as an audit sees it."""

    arrays: dict[str, ArrayLayer]

    def activations(self, images: Tensor, name: str) -> Tensor: ...


def audit_circuit(circuit: _Audited, images: Tensor, seed: int) -> list[Distance]:
    """Ask each layer's source for reads in image order, and compare with the tables.

    Args:
        circuit: the circuit.
        images: images that the circuit has seen, (n, channels, height, width).
        seed: seed of the draws.
    """
    questions = []
    for number, (name, array) in enumerate(circuit.arrays.items()):
        rng = np.random.default_rng((seed, number))
        for _ in range(_REQUESTS):
            image = int(rng.integers(len(images)))
            questions.append(_in_image_order(array, circuit.activations(images[image : image + 1], name), rng))
    return measure_distances(questions, questions[0].array.chip.source, "audit") if questions else []


def _in_image_order(array: ArrayLayer, activations: Tensor, rng: np.random.Generator) -> Question:
    """Draw a group, and reads of one image in the order it causes them, and look up what the table holds for them.

    Of several spans of reads drawn at random, the one with the most distinct reads is taken. The margins of an image
    open no input, and would test little.

    Args:
        array: the layer.
        activations: (1, inputs, height, width) of the image; its patterns must have been answered.
        rng: generator of the draws.
    """
    index = int(rng.integers(len(array.plan.groups)))
    group = array.plan.groups[index]
    reads = array.scheme.reads(array.plan, activations)[0, :, :, group.stream].flatten(0, 1).T.numpy()
    in_order, terms, weights = array.scheme.in_order(reads, partial(array.table.drive, index))
    count = min(array.chip.config.run.audit_reads, len(in_order))
    starts = rng.integers(len(in_order) - count + 1, size=_DRAWS)
    spans = [slice(start, start + count) for start in starts.tolist()]
    chosen = max(spans, key=lambda span: len(np.unique(in_order[span], axis=0)))
    held = np.tensordot(weights, array.table.lookup(index, terms[chosen].T), 1)
    return Question(array, index, array.reader.request(index, in_order[chosen], careful=True), held)
