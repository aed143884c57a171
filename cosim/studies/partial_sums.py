"""How many bits must a converter have, and does training for it help?

LeNet-5 on MNIST, nine open wordlines. A cell holds as many bits as a weight. From the bits on at which a code is one
unit wide and reaches the largest sum, more bits are the same; those are left out. A converter covers the largest sum,
or is as fine as a unit and clips the few sums above.

Weights have a trained zero point ("asymmetric") but where it says "step": a symmetric quantizer of two bits puts most
weights at level 2, so that nine open wordlines reach 18 units, which a converter of four bits cannot hold; with a zero
point of its own a column comes to lie low.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cosim.config import Config
from cosim.studies.study import Rows, Study, accuracies, grouped, mean_and_spread
from cosim.studies.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOISE_LSB = 0.1
_EPOCHS = 6
_FLOAT_EPOCHS = 10
# Name -> rounding, noise in training.
_METHODS = {
    "straight-through": ("straight-through", 0.0),
    "straight-through with noise": ("straight-through", _NOISE_LSB),
    "concrete": ("concrete", _NOISE_LSB),
}


@dataclass(frozen=True)
class _Setting:
    """Bits of weights and activations, the converter, and how its codes are trained for.

    Attributes:
        range_units: the largest sum that has a code, or None for the largest that there is.
        weights: their quantizer.
    """

    bits: int
    code_bits: int | str
    range_units: int | None = None
    methods: tuple[str, ...] = ("straight-through", "straight-through with noise")
    weights: Literal["asymmetric", "step"] = "asymmetric"

    @property
    def arrays(self) -> tuple[str, ...]:
        code = f'"{self.code_bits}"' if self.code_bits == "lossless" else str(self.code_bits)
        limited = () if self.range_units is None else (f"adc.full_scale_units={self.range_units}",)
        # An offset in every cell would take most of four code bits.
        return (f"cell.bits={self.bits}", "cell.offset_units=0", f"adc.bits={code}", *limited)

    @property
    def is_lossless(self) -> bool:
        config = Config.load(None, self.arrays)
        width, highest = config.code_units()
        return width == 1 and highest is not None and highest >= config.array.open_wordlines * (2**self.bits - 1)

    def trials(self, seed: int) -> list[Trial]:
        bits, code_bits = self.bits, self.code_bits
        converter = f"{code_bits}" if self.range_units is None else f"{code_bits}-range{self.range_units}"
        reach = "cover" if self.range_units is None else f"{self.range_units} units"
        return [
            Trial(
                f"w{bits}a{bits}-{self.weights}-{converter}-{method.replace(' ', '-')}-s{seed}",
                "lenet5",
                {
                    "weight_bits": bits,
                    "activation_bits": bits,
                    "weight_quantizer": self.weights,
                    "rounding": rounding,
                    "noise_lsb": noise,
                },
                arrays=self.arrays,
                seed=seed,
                float_epochs=_FLOAT_EPOCHS,
                epochs=_EPOCHS,
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


# The published comparison and what it is compared with: every seed is trained. Where a code is one unit wide, Concrete
# samples have no gradient to train with (see `PartialSumQuantizer`).
_PUBLISHED = (
    _Setting(2, "lossless", methods=("straight-through",)),  # without loss a sum has its exact gradient
    _Setting(2, 4, range_units=15, methods=("straight-through",)),
    _Setting(2, "lossless", methods=("straight-through",), weights="step"),
    _Setting(2, 4, methods=tuple(_METHODS)),
)
# The others have one.
_OTHERS = (
    _Setting(2, 4, range_units=15, methods=("straight-through",), weights="step"),
    _Setting(2, 3),
    _Setting(4, 4),
    *(_Setting(bits, code_bits, methods=("straight-through",)) for bits in (2, 4) for code_bits in (5, 6, 7, 8)),
    _Setting(4, 3, methods=("straight-through",)),
    _Setting(4, "lossless", methods=("straight-through",)),
)


def _trials(seeds: int) -> list[Trial]:
    every_seed = [trial for setting in _PUBLISHED for seed in range(seeds) for trial in setting.trials(seed)]
    return every_seed + [trial for setting in _OTHERS if not setting.is_lossless for trial in setting.trials(0)]


def _table(rows: Rows) -> list[list[str]]:
    noisy_heading = f"with {_NOISE_LSB} codes of noise"
    table = [["network", "weights", "converter", "trained", "tested without noise", noisy_heading, "seeds"]]
    keys = ("bits", "weights", "code_bits", "range", "method")
    for (bits, weights, code_bits, reach, method), some in grouped(rows, *keys).items():
        converter = code_bits if code_bits == "lossless" else f"{code_bits} bits, {reach}"
        clean, noisy = mean_and_spread(accuracies(some)), mean_and_spread(accuracies(some, "accuracy_noisy"))
        table.append([f"W{bits}A{bits}", weights, converter, method, clean, noisy, str(len(some))])
    return table


def _draw(rows: Rows) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure((8, 3.6), layout="constrained")
    for axes, ((bits,), some) in zip(figure.subplots(1, 2), grouped(rows, "bits").items(), strict=True):
        asymmetric = [row for row in some if row["weights"] == "asymmetric"]
        for (method, reach), points in grouped(asymmetric, "method", "range").items():
            by_bits = {key: cell for (key,), cell in grouped(points, "code_bits").items() if key != "lossless"}
            for key, style in (("accuracy_software", "-"), ("accuracy_noisy", "--")):
                means = [100 * np.mean(accuracies(cell, key)) for cell in by_bits.values()]
                label = method + ("" if reach == "cover" else f", {reach}")
                label += ", tested with noise" if key == "accuracy_noisy" else ""
                axes.plot(list(by_bits), means, style, marker="o", label=label)
        lossless = [row["accuracy_software"] for row in asymmetric if row["code_bits"] == "lossless"]
        if lossless:
            axes.axhline(100 * float(np.mean(lossless)), color="gray", linewidth=1, label="lossless")
        axes.set(title=f"LeNet-5, W{bits}A{bits}", xlabel="converter bits", ylabel="MNIST test accuracy [%]")
    axes.legend(fontsize="x-small")
    return figure


STUDY = Study(
    "partial-sums", "How many bits must a converter have, and does training for it help?", _trials, 3, _table, _draw
)
