"""How many bits must a converter have, and does training for it help?

The networks are LeNet-5 on MNIST and, in fewer trials, ResNet-20 on CIFAR-10, with nine open wordlines. A cell has as
many bits as a weight.

A converter either covers the largest sum, or has codes of one unit and clips the few sums above its range. More bits
than are needed to cover the largest sum with codes of one unit make no difference, and are left out. If a code is one
unit wide, noise of a tenth of a code changes no code, and Concrete samples have no gradient (see
`PartialSumQuantizer`). In these cases there is only straight-through training.

Weights have a trained zero point ("asymmetric"), except where the quantizer is "step". A symmetric quantizer of two
bits puts most weights at level 2, so that nine open wordlines reach 18 units, which a converter of four bits cannot
hold. With a trained zero point, the levels of a column become low.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cosim.studies.study import Rows, Study, accuracies, grouped, mean_and_spread
from cosim.studies.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOISE_LSB = 0.1
# Name -> rounding, and noise in training.
_METHODS = {
    "straight-through": ("straight-through", 0.0),
    "straight-through with noise": ("straight-through", _NOISE_LSB),
    "concrete": ("concrete", _NOISE_LSB),
}
_PLAIN = ("straight-through",)


@dataclass(frozen=True)
class _Setting:
    """Bits of weights and activations, the converter, and the methods of training.

    Attributes:
        bits: bits of weights, activations and cells.
        code_bits: bits of the converter.
        range_units: the largest sum that has a code, or None for the largest possible sum.
        methods: names of the methods of training.
        weights: quantizer of the weights.
        every_seed: whether to train with every seed, or with the first only.
    """

    bits: int
    code_bits: int | Literal["lossless"]
    range_units: int | None = None
    methods: tuple[str, ...] = tuple(_METHODS)
    weights: Literal["asymmetric", "step"] = "asymmetric"
    every_seed: bool = False

    @property
    def arrays(self) -> tuple[str, ...]:
        code = f'"{self.code_bits}"' if self.code_bits == "lossless" else str(self.code_bits)
        limited = () if self.range_units is None else (f"adc.full_scale_units={self.range_units}",)
        # An offset in every cell would use up most of the range of four bits.
        return (f"cell.bits={self.bits}", "cell.offset_units=0", f"adc.bits={code}", *limited)

    def trials(self, recipe: str, seed: int, **schedule: Any) -> list[Trial]:
        bits, code_bits = self.bits, self.code_bits
        converter = f"{code_bits}" if self.range_units is None else f"{code_bits}-range{self.range_units}"
        reach = "cover" if self.range_units is None else f"{self.range_units} units"
        return [
            Trial(
                f"{recipe}-w{bits}a{bits}-{self.weights}-{converter}-{method.replace(' ', '-')}-s{seed}",
                recipe,
                {
                    "weight_bits": bits,
                    "activation_bits": bits,
                    "weight_quantizer": self.weights,
                    "rounding": rounding,
                    "noise_lsb": noise,
                },
                arrays=self.arrays,
                seed=seed,
                **schedule,
                noise_lsb=_NOISE_LSB,
                shown={
                    "bits": bits,
                    "weights": self.weights,
                    "code_bits": code_bits,
                    "range": reach,
                    "method": method,
                },
            )
            for method in self.methods
            for rounding, noise in [_METHODS[method]]
        ]


# Five bits hold every sum of two-bit cells (27 units), and eight bits every sum of four-bit cells (135 units).
_MNIST = (
    _Setting(2, "lossless", methods=_PLAIN, every_seed=True),
    _Setting(2, 4, every_seed=True),
    _Setting(2, 4, range_units=15, methods=_PLAIN, every_seed=True),
    _Setting(2, 3),
    _Setting(2, 3, range_units=7, methods=_PLAIN),
    _Setting(2, "lossless", methods=_PLAIN, weights="step", every_seed=True),
    _Setting(2, 4, range_units=15, methods=_PLAIN, weights="step"),
    _Setting(4, "lossless", methods=_PLAIN),
    _Setting(4, 7, methods=_PLAIN),
    _Setting(4, 6),
    _Setting(4, 5),
    _Setting(4, 5, range_units=62, methods=_PLAIN),
    _Setting(4, 4),
    _Setting(4, 4, range_units=60, methods=_PLAIN),
    _Setting(4, 3),
)
_CIFAR10 = (
    _Setting(2, "lossless", methods=_PLAIN),
    _Setting(2, 4, range_units=15, methods=_PLAIN),
)


def _mnist_trials(seeds: int) -> list[Trial]:
    return [
        trial
        for seed in range(seeds)
        for setting in _MNIST
        if seed == 0 or setting.every_seed
        for trial in setting.trials("lenet5", seed, float_epochs=10, epochs=6)
    ]


def _cifar10_trials(seeds: int) -> list[Trial]:
    return [
        trial
        for seed in range(seeds)
        for setting in _CIFAR10
        # At the recipe's rate, training diverges in the second epoch, in which the statistics of batch norm are fixed.
        for trial in setting.trials("resnet20", seed, float_epochs=10, epochs=2, rate_factor=0.1)
    ]


def _table(rows: Rows) -> list[list[str]]:
    noisy_heading = f"with {_NOISE_LSB} codes of noise"
    table = [["bits", "weights", "converter", "trained", "tested without noise", noisy_heading, "seeds"]]
    keys = ("bits", "weights", "code_bits", "range", "method")
    for (bits, weights, code_bits, reach, method), some in grouped(rows, *keys).items():
        converter = code_bits if code_bits == "lossless" else f"{code_bits} bits, {reach}"
        clean, noisy = mean_and_spread(accuracies(some)), mean_and_spread(accuracies(some, "accuracy_noisy"))
        table.append([f"W{bits}A{bits}", weights, converter, method, clean, noisy, str(len(some))])
    return table


def _draw(rows: Rows) -> Figure:
    from matplotlib.figure import Figure

    panels = grouped([row for row in rows if row["weights"] == "asymmetric"], "bits")
    figure = Figure((4.2 * len(panels), 4), layout="constrained")
    for axes, ((bits,), some) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        curves = grouped([row for row in some if row["code_bits"] != "lossless"], "method", "range")
        for number, ((method, reach), points) in enumerate(curves.items()):
            by_bits = {code_bits: cell for (code_bits,), cell in sorted(grouped(points, "code_bits").items())}
            for key, style in (("accuracy_software", "-"), ("accuracy_noisy", "--")):
                means = [100 * np.mean(accuracies(cell, key)) for cell in by_bits.values()]
                label = f"{method}, {reach}" if style == "-" else None
                axes.plot(list(by_bits), means, style, marker="o", color=f"C{number}", label=label)
        lossless = [row["accuracy_software"] for row in some if row["code_bits"] == "lossless"]
        if lossless:
            axes.axhline(100 * float(np.mean(lossless)), color="gray", linewidth=1, label="lossless")
        axes.set(title=f"W{bits}A{bits}", xlabel="converter bits", ylabel="test accuracy [%] (dashed: with noise)")
        axes.set_xticks(sorted({row["code_bits"] for row in some if row["code_bits"] != "lossless"}))
        axes.legend(fontsize="x-small", loc="lower right")
    return figure


STUDY = Study(
    "partial-sums",
    "How many bits must a converter have, and does training for it help?",
    _mnist_trials,
    3,
    _table,
    _draw,
)
CIFAR10_STUDY = Study(
    "partial-sums-cifar10", "What do four-bit partial sums cost on CIFAR-10?", _cifar10_trials, 1, _table, _draw
)
