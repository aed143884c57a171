"""How many bits must a converter have, and does training for it help?

LeNet-5 on MNIST, nine open wordlines. A cell holds as many bits as a weight. From the bits on at which a code is one
unit wide and reaches the largest sum, more bits are the same; those are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cosim.config import Config
from cosim.studies.study import Rows, Study, accuracies, grouped, mean_and_spread
from cosim.studies.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOISE_LSB = 0.1
_EPOCHS = 2
_FLOAT_EPOCHS = 10
# Name, rounding, noise in training.
_METHODS = (
    ("straight-through", "straight-through", 0.0),
    ("straight-through with noise", "straight-through", _NOISE_LSB),
    ("concrete", "concrete", _NOISE_LSB),
)
# The setting of the published comparison, for which every seed is trained; the others have one.
_PUBLISHED = (2, 4)
# A Concrete sample costs five times a straight-through one: of W4A4 the converter of the published comparison will do.
_CONCRETE = ((2, 3), (2, 4), (4, 4))


def _trials(seeds: int) -> list[Trial]:
    settings: list[tuple[int, int | str]] = [
        (bits, code_bits) for bits in (2, 4) for code_bits in _useful_code_bits(bits)
    ]
    published: list[tuple[int, int | str]] = [_PUBLISHED, (_PUBLISHED[0], "lossless")]
    others = [setting for setting in settings if setting not in published]
    return [trial for seed in range(seeds) for setting in published for trial in _trials_for(*setting, seed)] + [
        trial for setting in others for trial in _trials_for(*setting, 0)
    ]


def _useful_code_bits(bits: int) -> list[int | str]:
    """Converter bits 3..8 that lose something, and "lossless"."""
    return [*(code_bits for code_bits in range(3, 9) if not _is_lossless(bits, code_bits)), "lossless"]


def _is_lossless(bits: int, code_bits: int) -> bool:
    config = Config.load(None, [f"cell.bits={bits}", f"adc.bits={code_bits}"])
    width, highest = config.code_units()
    return width == 1 and highest is not None and highest >= config.array.open_wordlines * (2**bits - 1)


def _trials_for(bits: int, code_bits: int | str, seed: int) -> list[Trial]:
    code = f'"{code_bits}"' if code_bits == "lossless" else str(code_bits)
    arrays = (f"cell.bits={bits}", f"adc.bits={code}")
    # Without loss and noise, the gradient of a sum is exact: one method remains.
    methods = _METHODS[:1] if code_bits == "lossless" else _METHODS if (bits, code_bits) in _CONCRETE else _METHODS[:2]
    return [
        Trial(
            f"w{bits}a{bits}-{code_bits}-{name.replace(' ', '-')}-s{seed}",
            "lenet5",
            {"weight_bits": bits, "activation_bits": bits, "rounding": rounding, "noise_lsb": noise},
            arrays=arrays,
            seed=seed,
            float_epochs=_FLOAT_EPOCHS,
            epochs=_EPOCHS,
            noise_lsb=_NOISE_LSB,
            shown={"bits": bits, "code_bits": code_bits, "method": name},
        )
        for name, rounding, noise in methods
    ]


def _table(rows: Rows) -> list[list[str]]:
    table = [["network", "converter", "trained", "tested without noise", f"with {_NOISE_LSB} codes of noise", "seeds"]]
    for (bits, code_bits, method), some in grouped(rows, "bits", "code_bits", "method").items():
        converter = code_bits if code_bits == "lossless" else f"{code_bits} bits"
        clean, noisy = mean_and_spread(accuracies(some)), mean_and_spread(accuracies(some, "accuracy_noisy"))
        table.append([f"W{bits}A{bits}", converter, method, clean, noisy, str(len(some))])
    return table


def _draw(rows: Rows) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure((8, 3.6), layout="constrained")
    for axes, ((bits,), some) in zip(figure.subplots(1, 2), grouped(rows, "bits").items(), strict=True):
        for (method,), points in grouped(some, "method").items():
            by_bits = {key: cell for (key,), cell in grouped(points, "code_bits").items() if key != "lossless"}
            for key, style in (("accuracy_software", "-"), ("accuracy_noisy", "--")):
                means = [100 * np.mean(accuracies(cell, key)) for cell in by_bits.values()]
                label = method + (", tested with noise" if key == "accuracy_noisy" else "")
                axes.plot(list(by_bits), means, style, marker="o", label=label)
        lossless = [row["accuracy_software"] for row in some if row["code_bits"] == "lossless"]
        if lossless:
            axes.axhline(100 * float(np.mean(lossless)), color="gray", linewidth=1, label="lossless")
        axes.set(title=f"LeNet-5, W{bits}A{bits}", xlabel="converter bits", ylabel="MNIST test accuracy [%]")
    axes.legend(fontsize="x-small")
    return figure


STUDY = Study(
    "partial-sums", "How many bits must a converter have, and does training for it help?", _trials, 3, _table, _draw
)
