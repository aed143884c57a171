"""Draws plots of a sweep as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cosim.experiments.points import CHIPS
from cosim.experiments.sweep_result import SweepResult
from cosim.report.figures import COLOURS, label, new_axes, write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED_CASES = 8


def write_sweep_plots(result: SweepResult, folder: Path) -> list[Path]:
    """Write KEY.png for each axis with several values, and chips.png for the axis of chips. Returns their paths."""
    paths = []
    for number, (key, values) in enumerate(result.axes.items()):
        if len(values) > 1 and key != CHIPS:
            paths.append(write_png(_against(result, number), folder / f"{key}.png"))
    if result.chip_axis is not None and result.done.any():
        paths.append(write_png(_survival(result), folder / "chips.png"))
    return paths


def _against(result: SweepResult, number: int) -> Figure:
    """Plot accuracy over one axis: the mean over the other axes with its interval, every point, and the worst."""
    key, values = list(result.axes.items())[number]
    figure, axes = new_axes()
    at, spreads = _places(axes, values), result.along(number)
    every = np.moveaxis(result.accuracy, number, 0).reshape(len(values), -1)
    axes.plot(at, 100 * every, color="0.6", linestyle="", marker=".", markersize=3)
    there = [index for index, spread in enumerate(spreads) if spread is not None]
    found = [spread for spread in spreads if spread is not None]
    mean = 100 * np.array([spread.mean for spread in found])
    low, high = (100 * np.array([getattr(spread, name) for spread in found]) for name in ("low", "high"))
    places = at[there]
    kind = "across chips" if result.chip_axis is not None else "of the images"
    bars = np.maximum([mean - low, high - mean], 0)
    axes.errorbar(places, mean, bars, color=COLOURS[0], marker="o", markersize=4, linewidth=1.2, capsize=3,
                  label=f"mean, 95 % {kind}")  # fmt: skip
    if every.shape[1] > 1:
        worst = 100 * np.array([spread.worst for spread in found])
        axes.plot(places, worst, color=COLOURS[3], linestyle="--", linewidth=1, label="worst")
    _software(axes, result)
    label(axes, key, "images right [%]", f"{result.provenance.network}, {result.images} images")
    axes.legend(fontsize=7, frameon=False)
    return figure


def _survival(result: SweepResult) -> Figure:
    """Plot the share of virtual chips that reach each accuracy, with one curve for each case."""
    figure, axes = new_axes()
    cases = list(result.cases())
    for number, case in enumerate(cases):
        known = np.sort(result.accuracy[case])
        known = known[~np.isnan(known)]
        if not len(known):
            continue
        few = len(cases) <= _NAMED_CASES
        name = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in result.settings(case).items())
        # All chips reach the lowest accuracy. Beyond the accuracy of each chip, there is one chip less.
        shares = 1 - np.arange(len(known) + 1) / len(known)
        axes.step(
            100 * np.append(known, known[-1]), 100 * shares, where="pre", linewidth=1.2,
            color=COLOURS[number % len(COLOURS)] if few else "0.6", label=name if few and name else None,
        )  # fmt: skip
    _software(axes, result, upright=True)
    chips = len(result.axes[CHIPS])
    label(axes, "images right, at least [%]", f"share of {chips} chips [%]", f"{result.provenance.network}, chips")
    axes.set_ylim(0, 104)
    axes.legend(fontsize=6, frameon=False)
    return figure


def _software(axes: Axes, result: SweepResult, *, upright: bool = False) -> None:
    line = axes.axvline if upright else axes.axhline
    line(100 * result.software.share, color="0.3", linewidth=0.8, linestyle=":", label="software")


def _places(axes: Axes, values: tuple[Any, ...]) -> np.ndarray:
    """Places of an axis's values. Numbers lie by size, on a logarithmic scale if they span decades; words in a row."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        axes.set_xticks(range(len(values)), list(map(str, values)))
        return np.arange(len(values), dtype=float)
    places = np.array(values, float)
    if places.min() > 0 and places.max() / places.min() >= 100:
        axes.set_xscale("log")
    return places
