"""What do 1 to 3 bits cost, and does the expected gradient help?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cosim.studies.study import Rows, Study, accuracies, grouped, mean_and_spread
from cosim.studies.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EPOCHS = 2
# Name, weight quantizer, activation quantizer, bits.
_METHODS = (
    ("expected gradient, XNOR", "expected", "expected", (1, 2, 3)),
    ("straight-through, XNOR", "odd", "step", (1, 2, 3)),
    ("powers of two, shift", "power-of-two", "step", (2, 3)),
)


def _trials(seeds: int) -> list[Trial]:
    return [
        Trial(
            f"{weights}-w{bits}a{bits}-s{seed}",
            "mnist",
            {
                "weight_bits": bits,
                "activation_bits": bits,
                "weight_quantizer": weights,
                "activation_quantizer": activations,
            },
            seed=seed,
            epochs=_EPOCHS,
            whole_numbers=True,
            shown={"bits": bits, "method": name},
        )
        for seed in range(seeds)
        for name, weights, activations, some in _METHODS
        for bits in some
    ]


def _table(rows: Rows) -> list[list[str]]:
    table = [["method", "bits", "accuracy", "logits changed by integer arithmetic", "seeds"]]
    for (method, bits), some in grouped(rows, "method", "bits").items():
        differing = sum(row["differing_logits"] for row in some)
        table.append([method, f"W{bits}A{bits}", mean_and_spread(accuracies(some)), str(differing), str(len(some))])
    return table


def _draw(rows: Rows) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure((5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for (method,), some in grouped(rows, "method").items():
        by_bits = grouped(some, "bits")
        means = [100 * np.mean(accuracies(cell)) for cell in by_bits.values()]
        axes.plot([bits for (bits,) in by_bits], means, marker="o", label=method)
    axes.set(xlabel="bits of weights and activations", ylabel="MNIST test accuracy [%]", xticks=(1, 2, 3))
    axes.legend()
    return figure


STUDY = Study("low-bit", "What do 1 to 3 bits cost, and does the expected gradient help?", _trials, 1, _table, _draw)
