"""One range per layer or per channel, symmetric or asymmetric?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cosim.studies.study import Rows, Study, accuracies, grouped, mean_and_spread
from cosim.studies.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BITS = (2, 3, 4)
_KINDS = {"symmetric": "step", "asymmetric": "asymmetric"}
_EPOCHS = 2


def _trials(seeds: int) -> list[Trial]:
    return [
        Trial(
            f"w{bits}a{bits}-{kind}-{'channel' if per_channel else 'layer'}-s{seed}",
            "mnist",
            {
                "weight_bits": bits,
                "activation_bits": bits,
                "weight_quantizer": quantizer,
                "per_channel": per_channel,
            },
            seed=seed,
            epochs=_EPOCHS,
            shown={"bits": bits, "kind": kind, "per": "channel" if per_channel else "layer"},
        )
        for seed in range(seeds)
        for bits in _BITS
        for kind, quantizer in _KINDS.items()
        for per_channel in (False, True)
    ]


def _table(rows: Rows) -> list[list[str]]:
    found = grouped(rows, "kind", "per", "bits")
    table = [["weights", "range", *(f"W{bits}A{bits}" for bits in _BITS)]]
    for kind, per in grouped(rows, "kind", "per"):
        cells = [found.get((kind, per, bits)) for bits in _BITS]
        table.append([kind, f"one per {per}", *(mean_and_spread(accuracies(cell)) if cell else "" for cell in cells)])
    return table


def _draw(rows: Rows) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure((5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for (kind, per), some in grouped(rows, "kind", "per").items():
        by_bits = grouped(some, "bits")
        means = [100 * np.mean(accuracies(cell)) for cell in by_bits.values()]
        style = {"layer": "--", "channel": "-"}[per]
        axes.plot([bits for (bits,) in by_bits], means, style, marker="o", label=f"{kind}, one per {per}")
    axes.set(xlabel="bits of weights and activations", ylabel="MNIST test accuracy [%]", xticks=_BITS)
    axes.legend()
    return figure


STUDY = Study("granularity", "One range per layer or per channel, symmetric or asymmetric?", _trials, 1, _table, _draw)
