"""How much of each non-ideality the array tolerates: the table and the plot of docs/studies/tolerances.md.

    .venv/bin/python -m benchmarks.tolerances --out runs/tolerances [--set KEY=VALUE ...]

One effect at a time grows from almost nothing until 0.5 points of accuracy are lost. Then bisection finds the limit.
All test images of MNIST are run with `dc`. Points are stored in the folder, so that the same command continues.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import cosim
from cosim.config import Config
from cosim.datasets import Dataset
from cosim.errors import CosimError
from cosim.network import Network

LOST = 0.5
HALVINGS = 2
UNTRIMMED = {"trim.method": "none"}
HOT_STORE = {"variation.retention_temperature_c": 85.0}
TEN_YEARS = HOT_STORE | {"variation.retention_s": 3.15e8}


@dataclass(frozen=True, eq=False)
class Effect:
    """A non-ideality.

    Attributes:
        title: its name, with the unit.
        key: the configuration key that takes the values.
        values: growing values of the key.
        settings: other keys.
        chips: number of virtual chips for each point.
        halved: whether values between two values are possible, so that bisection can refine the limit.
    """

    title: str
    key: str
    values: tuple[float, ...]
    settings: dict[str, object]
    chips: int = 1
    halved: bool = True


def decades(first: float, last: float, a_decade: int) -> tuple[float, ...]:
    steps = round(math.log10(last / first) * a_decade)
    return tuple(float(f"{first * 10 ** (step / a_decade):.2g}") for step in range(steps + 1))


LOSSES = (0.005, 0.01, 0.02, 0.04, 0.08)
EFFECTS = (
    Effect("bitline wire [ohm a cell]", "array.bitline_res_ohm", decades(1, 100, 3), {}),
    Effect("bitline wire, untrimmed [ohm a cell]", "array.bitline_res_ohm", decades(1, 100, 3), UNTRIMMED),
    Effect("clamp impedance [ohm]", "sense.clamp_ohm", decades(100, 1e5, 3), {"sense.stage": "resistive"}),
    Effect(
        "clamp impedance, untrimmed [ohm]", "sense.clamp_ohm", decades(100, 1e5, 3),
        {"sense.stage": "resistive", **UNTRIMMED},
    ),
    Effect("threshold error, sigma [V]", "variation.program_sigma_v", (0.01, 0.02, 0.03, 0.04, 0.06, 0.09), {}, 3),
    Effect("converter bits", "adc.bits", (8, 7, 6, 5, 4, 3), {}, halved=False),
    Effect("heat, untrimmed [C]", "corner.temperature_c", (27, 40, 55, 70, 85, 105, 125), UNTRIMMED),
    Effect("cold, untrimmed [C]", "corner.temperature_c", (27, 15, 0, -15, -40), UNTRIMMED),
    Effect("retention at 85 C [s]", "variation.retention_s", decades(1e4, 1e10, 1), HOT_STORE),
    Effect("retention at 85 C, untrimmed [s]", "variation.retention_s", decades(1e3, 1e9, 1), HOT_STORE | UNTRIMMED),
    Effect("charge lost a decade of time, ten years at 85 C", "variation.retention_loss_decade", LOSSES, TEN_YEARS),
    Effect("the same, untrimmed", "variation.retention_loss_decade", LOSSES, TEN_YEARS | UNTRIMMED),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--network", default="mnist-w4a4")
    given = parser.parse_args()
    network = cosim.load_network(given.network)
    test = cosim.load_dataset(network.card["dataset"], "test")
    base = Config.load(None, ["run.fidelity=dc", *given.overrides])
    print("| effect | 0.5 points are lost at | points lost: value |\n|---|---|---|", flush=True)
    found = {}
    for effect in EFFECTS:
        points = found[effect] = grown(effect, network, test, base, given.out)
        shown = ", ".join(f"{lost:+.2f}: {value:.3g}" for value, lost in points)
        print(f"| {effect.title} | {limit(points, effect)} | {shown} |", flush=True)
    draw(found).savefig(given.out / "tolerances.png", dpi=110)


def grown(effect: Effect, network: Network, test: Dataset, base: Config, folder: Path) -> list[tuple[float, float]]:
    """(value, points lost) in the order of the effect's values, up to the first that loses too much."""
    points: list[tuple[float, float]] = []
    for value in effect.values:
        points.append((value, lost_at(value, effect, network, test, base, folder)))
        if not points[-1][1] <= LOST:
            break
    halvings = HALVINGS if effect.halved and len(points) > 1 and points[-1][1] > LOST else 0
    for _ in range(halvings):
        at = next(index for index, (_, lost) in enumerate(points) if not lost <= LOST)
        (low, _), (high, _) = points[at - 1], points[at]
        middle = math.sqrt(low * high) if "temperature" not in effect.key else (low + high) / 2
        middle = float(f"{middle:.3g}")
        points.insert(at, (middle, lost_at(middle, effect, network, test, base, folder)))
    return points


def lost_at(value: float, effect: Effect, network: Network, test: Dataset, base: Config, folder: Path) -> float:
    """Points of accuracy lost compared with software, as the mean over chips; nan if the point is impossible."""
    try:
        config = base.with_values(effect.settings)
        chips = effect.chips if effect.chips > 1 else None
        result = cosim.sweep(network, test, config, over={effect.key: [value]}, seeds=chips, folder=folder)
    except CosimError as error:
        print(f"{effect.title} = {value:g}: {error}", flush=True)
        return math.nan
    for reason in filter(None, result.reasons.flat):
        print(f"{effect.title} = {value:g}: {reason}", flush=True)
    return 100 * float(result.software.share - result.accuracy.mean())


def limit(points: list[tuple[float, float]], effect: Effect) -> str:
    """The value at which the loss crosses the limit, interpolated between its neighbours."""
    (last, lost), before = points[-1], points[:-1]
    crossing = next((at for at, (_, lost) in enumerate(points) if lost > LOST), None)
    if crossing is None:
        reason = "cannot be read beyond" if math.isnan(lost) else "not up to"
        return f"{reason} {(before[-1][0] if math.isnan(lost) else last):.3g}"
    (low, lost_low), (high, lost_high) = points[crossing - 1], points[crossing]
    if not effect.halved:
        return f"{high:g}"
    share = (LOST - lost_low) / (lost_high - lost_low)
    return f"{low + share * (high - low):.2g}"


def draw(found: dict[Effect, list[tuple[float, float]]]) -> Figure:
    rows = math.ceil(len(found) / 4)
    figure = Figure((11, 2.5 * rows), layout="constrained")
    places = np.ravel(figure.subplots(rows, 4, squeeze=False))
    for axes, (effect, points) in zip(places, found.items(), strict=False):
        values, lost = np.array(points).T
        axes.plot(values, lost, marker="o", markersize=3, linewidth=1.2)
        axes.axhline(LOST, color="0.3", linewidth=0.8, linestyle=":")
        if values.min() > 0 and values.max() / values.min() > 20:
            axes.set_xscale("log")
        axes.set_xlabel(effect.title, fontsize=8)
        axes.set_ylim(-0.2, 1.5)
        axes.tick_params(labelsize=7)
    for axes in places[len(found) :]:
        axes.remove()
    figure.supylabel("points of accuracy lost", fontsize=8)
    return figure


if __name__ == "__main__":
    main()
