"""How many bits do weights and activations need?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cosim.studies.study import Rows, Study, accuracies, grouped, mean_and_spread
from cosim.studies.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BITS = (2, 3, 4, 8)
_EPOCHS = 2


def _trials(seeds: int) -> list[Trial]:
    return [
        Trial(
            f"w{weight}a{activation}-s{seed}",
            "mnist",
            {"weight_bits": weight, "activation_bits": activation},
            seed=seed,
            epochs=_EPOCHS,
            shown={"weight_bits": weight, "activation_bits": activation},
        )
        for seed in range(seeds)
        for weight in _BITS
        for activation in _BITS
    ]


def _table(rows: Rows) -> list[list[str]]:
    by_bits = grouped(rows, "weight_bits", "activation_bits")
    table = [["weights \\ activations", *(f"{bits} bits" for bits in _BITS)]]
    for weight in _BITS:
        found = [by_bits.get((weight, activation)) for activation in _BITS]
        table.append([f"{weight} bits", *(mean_and_spread(accuracies(cell)) if cell else "" for cell in found)])
    return [*table, ["float", mean_and_spread(sorted({row["accuracy_float"] for row in rows})), "", "", ""]]


def _draw(rows: Rows) -> Figure:
    from matplotlib.figure import Figure

    by_bits = grouped(rows, "weight_bits", "activation_bits")
    figure = Figure((5, 4), layout="constrained")
    axes = figure.subplots()
    shown = np.array(
        [[100 * np.mean(accuracies(by_bits[w, a])) if (w, a) in by_bits else np.nan for a in _BITS] for w in _BITS]
    )
    picture = axes.imshow(shown, cmap="viridis")
    for (row, column), value in np.ndenumerate(shown):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white")
    axes.set_xticks(range(len(_BITS)), [str(bits) for bits in _BITS])
    axes.set_yticks(range(len(_BITS)), [str(bits) for bits in _BITS])
    axes.set(xlabel="activation bits", ylabel="weight bits", title="MNIST test accuracy [%]")
    figure.colorbar(picture)
    return figure


STUDY = Study("bits", "How many bits do weights and activations need?", _trials, 1, _table, _draw)
