"""What do four bits cost on CIFAR-10?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cosim.studies.study import Rows, Study, accuracies, grouped, mean_and_spread
from cosim.studies.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NETWORKS = ("resnet20", "alexnet", "vgg")


def _trials(seeds: int) -> list[Trial]:
    return [
        Trial(f"{name}-w4a4-s{seed}", name, {}, seed=seed, shown={"network": name})
        for seed in range(seeds)
        for name in _NETWORKS
    ]


def _table(rows: Rows) -> list[list[str]]:
    table = [["network", "float", "W4A4", "lost, points", "schedule", "training data"]]
    for (name,), some in grouped(rows, "network").items():
        lost = [row["accuracy_float"] - row["accuracy_software"] for row in some]
        table.append(
            [
                name,
                mean_and_spread(accuracies(some, "accuracy_float")),
                mean_and_spread(accuracies(some)),
                mean_and_spread(lost),
                some[0]["schedule"],
                some[0]["training_digest"],
            ]
        )
    return table


def _draw(rows: Rows) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure((5, 3.4), layout="constrained")
    axes = figure.subplots()
    by_network = {name: some for (name,), some in grouped(rows, "network").items()}
    for offset, (key, label) in zip(
        (-0.2, 0.2), (("accuracy_float", "float"), ("accuracy_software", "W4A4")), strict=True
    ):
        heights = [100 * np.mean(accuracies(some, key)) for some in by_network.values()]
        bars = axes.bar(np.arange(len(by_network)) + offset, heights, 0.38, label=label)
        axes.bar_label(bars, fmt="%.1f")
    axes.set_xticks(range(len(by_network)), list(by_network))
    axes.set(ylabel="CIFAR-10 test accuracy [%]", ylim=(50, 100))
    axes.legend(loc="lower right")
    return figure


STUDY = Study("cifar10", "What do four bits cost on CIFAR-10?", _trials, 1, _table, _draw)
