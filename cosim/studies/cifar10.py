"""What do four bits cost on CIFAR-10?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cosim.studies.study import Rows, Study, accuracies, grouped, mean_and_spread
from cosim.studies.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NETWORKS = ("resnet20", "alexnet", "vgg")
_QUANTIZERS = {"symmetric": "step", "asymmetric": "asymmetric"}


def _trials(seeds: int) -> list[Trial]:
    return [
        Trial(
            f"{name}-w4a4-{kind}-{'channel' if per_channel else 'layer'}-s{seed}",
            name,
            {"weight_quantizer": quantizer, "per_channel": per_channel},
            seed=seed,
            shown={"network": name, "weights": kind, "range": "channel" if per_channel else "layer"},
        )
        for seed in range(seeds)
        for name in _NETWORKS
        for kind, quantizer in _QUANTIZERS.items()
        for per_channel in (True, False)
    ]


def _table(rows: Rows) -> list[list[str]]:
    table = [["network", "weights", "range", "float", "W4A4", "lost, points", "schedule"]]
    for (name, kind, per), some in grouped(rows, "network", "weights", "range").items():
        lost = [row["accuracy_float"] - row["accuracy_software"] for row in some]
        table.append(
            [
                name,
                kind,
                f"one per {per}",
                mean_and_spread(accuracies(some, "accuracy_float")),
                mean_and_spread(accuracies(some)),
                mean_and_spread(lost),
                some[0]["schedule"],
            ]
        )
    return table


def _draw(rows: Rows) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure((8, 3.6), layout="constrained")
    axes = figure.subplots()
    networks = [name for (name,) in grouped(rows, "network")]
    bars = {
        "float": {(name,): accuracies(some, "accuracy_float") for (name,), some in grouped(rows, "network").items()}
    }
    for (kind, per), some in grouped(rows, "weights", "range").items():
        bars[f"W4A4 {kind}, one per {per}"] = {key: accuracies(of) for key, of in grouped(some, "network").items()}
    width = 0.9 / len(bars)
    for number, (label, found) in enumerate(bars.items()):
        places = np.array([networks.index(name) for (name,) in found]) + (number - (len(bars) - 1) / 2) * width
        drawn = axes.bar(places, [100 * np.mean(values) for values in found.values()], 0.9 * width, label=label)
        axes.bar_label(drawn, fmt="%.1f", fontsize="x-small")
    axes.set_xticks(range(len(networks)), networks)
    axes.set(ylabel="CIFAR-10 test accuracy [%]", ylim=(50, 100))
    axes.legend(loc="lower right", fontsize="small")
    return figure


STUDY = Study("cifar10", "What do four bits cost on CIFAR-10?", _trials, 1, _table, _draw)
