"""Reports what each effect costs, as a table, as JSON, and as a waterfall plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape
from rich.table import Table

from cosim.experiments.attribution import Attribution
from cosim.experiments.bench import Outcome
from cosim.files import write_whole
from cosim.report import wording
from cosim.report.figures import COLOURS, label, new_axes, write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNQUANTIZED, _QUANTIZED, _IDEAL = "float", "quantization", "ideal circuit"


def attribution_table(found: Attribution) -> Table:
    """A table of the effects, each alone and on top of those before it."""
    came = found.provenance
    title = f"{came.network} on {came.images} images of {came.dataset}"
    meaning = "right in %; diff: images decided otherwise than in software; errors in unit currents"
    table = Table(title=escape(f"{title}\n{meaning}"))
    table.add_column("effect", style="bold", no_wrap=True)
    for of in ("alone:", "added:"):
        for heading in (f"{of}\nright", "\ndiff", "error\nrms", "\nmax"):
            table.add_column(heading, justify="right", no_wrap=True)
    dashes = ["-"] * 3
    if found.accuracy_float is not None:
        table.add_row(_UNQUANTIZED, wording.percent(found.accuracy_float.share), *dashes, "-", *dashes)
    software, changed = wording.percent(found.accuracy_software.share), wording.if_known(found.quantization, "d")
    table.add_row(_QUANTIZED, software, changed, "-", "-", software, changed, "-", "-")
    table.add_section()
    table.add_row(_IDEAL, *_figures(found.ideal), *_figures(found.ideal))
    for each in found.contributions:
        table.add_row(escape(each.name), *_figures(each.alone), *_figures(each.cumulative))
    return table


def write_attribution(found: Attribution, folder: Path) -> list[Path]:
    """Write attribution.json and waterfall.png. Returns their paths."""
    path = folder / "attribution.json"
    write_whole(path, json.dumps(found.to_json(), indent=1) + "\n")
    return [path, write_png(_waterfall(found), folder / "waterfall.png")]


def _figures(outcome: Outcome | None) -> list[str]:
    if outcome is None:
        return ["none", "", "", ""]
    error = [f"{outcome.code_error_rms:.2f}", f"{outcome.code_error_max:.1f}"]
    return [wording.percent(outcome.accuracy), str(outcome.disagreements), *error]


def _waterfall(found: Attribution) -> Figure:
    """Plot the accuracy from the float network down to the full circuit.

    A bar is what an effect adds to those before it, and a dot is what it costs alone.
    """
    steps: list[tuple[str, float, float | None]] = []
    if found.accuracy_float is not None:
        steps.append((_UNQUANTIZED, found.accuracy_float.share, None))
    steps += [(_QUANTIZED, found.accuracy_software.share, None), (_IDEAL, found.ideal.accuracy, None)]
    steps += [
        (each.name, each.cumulative.accuracy, each.alone.accuracy)
        for each in found.contributions
        if each.cumulative is not None and each.alone is not None
    ]
    figure, axes = new_axes(6.0, 0.32 * len(steps) + 1.0)
    right = 100 * np.array([accuracy for _, accuracy, _ in steps])
    before = np.concatenate([right[:1], right[:-1]])
    rows = np.arange(len(steps))
    low, high = np.minimum(before, right), np.maximum(before, right)
    axes.barh(rows, high - low, left=low, height=0.6,
              color=[COLOURS[3] if fell else COLOURS[2] for fell in right < before])  # fmt: skip
    axes.vlines(right[:-1], rows[:-1], rows[1:], color="0.4", linewidth=0.8)
    alone = [(row, 100 * value) for row, (_, _, value) in enumerate(steps) if value is not None]
    costs = np.array([value for _, value in alone])
    if alone:
        axes.plot(costs, [row for row, _ in alone], "o", color=COLOURS[0], markersize=4, label="alone")
        axes.legend(fontsize=7, frameon=False, loc="lower left")
    for row, (end, value) in enumerate(zip(high, right, strict=True)):
        axes.annotate(f"{value:.2f}", (end, row), xytext=(6, 0), textcoords="offset points", fontsize=7, va="center")
    lowest, highest = min([low.min(), *costs]), max([high.max(), *costs])
    margin = max(highest - lowest, 0.05)
    axes.set_xlim(lowest - 0.3 * margin, highest + 0.2 * margin)
    axes.set_yticks(rows, [name for name, _, _ in steps])
    axes.invert_yaxis()
    came = found.provenance
    label(axes, "images right [%]", "", f"{came.network}, {came.images} images, effects added up")
    return figure
