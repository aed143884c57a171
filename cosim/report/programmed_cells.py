"""Reports programmed cells as a table for the terminal, and as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from cosim.experiments.programmed import ProgrammedCells
from cosim.files import write_whole
from cosim.report import provenance
from cosim.report.figures import label, new_axes, write_png

_BINS = 60


def programmed_table(measured: ProgrammedCells) -> Table:
    """A table of the levels: what cells hold as verified, and what has become of them when they are read."""
    corner = measured.config.corner
    title = f"{len(measured.verified_v)} cells of each level of the card {measured.config.cell.card}"
    settings = ", ".join(provenance.changed(measured.config)) or "default settings"
    place = f"read at {corner.process}, {corner.temperature_c:g} C, supply {corner.supply:g}"
    caption = f"mean ± sigma; error and change in unit currents; change: {place}, less a cell without error"
    table = Table(title=escape("\n".join([title, settings, *_figures(measured)])), caption=caption)
    headings = ["level", "shift [V]", "± [mV]", "error", "change"]
    if measured.population is not None:
        headings += ["pulses", "in band"]
    for heading in headings:
        table.add_column(heading, justify="right")
    errors, changes = measured.verified_error_units, measured.read_change_units
    for level, shifts in enumerate(measured.verified_v.T):
        row = [str(level), f"{shifts.mean():.4f}", f"{1e3 * shifts.std():.2f}"]
        row += [
            f"{round(float(values.mean()), 2) + 0.0:+.2f} ± {values.std():.3f}"
            for values in (errors[:, level], changes[:, level])
        ]
        if measured.population is not None and measured.in_band is not None:
            row += [f"{measured.population.pulses[level].mean():.0f}", f"{100 * measured.in_band[level]:.0f} %"]
        table.add_row(*row)
    return table


def _figures(measured: ProgrammedCells) -> list[str]:
    """Lines on all levels together: their spread, and pulses and time if there were pulses."""
    share = measured.sigma_units / measured.config.cell.most_units
    spread = f"{1e3 * measured.sigma_v:.1f} mV, {measured.sigma_units:.3f} units, {100 * share:.2f} % of full scale"
    lines = [f"sigma of all levels: {spread}"]
    if measured.population is not None and measured.cell_s is not None and measured.wordline_s is not None:
        cell, wordline = 1e6 * measured.cell_s.mean(), 1e6 * measured.wordline_s
        lines.append(
            f"{measured.population.pulses.mean():.0f} pulses a cell, {cell:.0f} us; a wordline of "
            f"{measured.config.array.bitlines} cells at once {wordline:.0f} us"
        )
    return lines


def write_programmed(measured: ProgrammedCells, folder: Path) -> list[Path]:
    """Write summary.json, cells.csv and currents.png. Returns their paths."""
    paths = [folder / "summary.json", folder / "cells.csv"]
    write_whole(paths[0], json.dumps(measured.to_json(), indent=1) + "\n")
    levels = range(measured.verified_v.shape[1])
    heading = ",".join([*(f"shift{level}_v" for level in levels), *(f"read{level}_a" for level in levels)])
    rows = np.column_stack([measured.verified_v, measured.read_a])
    write_whole(paths[1], "\n".join([heading, *(",".join(f"{value:.7g}" for value in row) for row in rows)]) + "\n")
    figure, axes = new_axes(width=7.5)
    unit = measured.config.cell.unit_a
    bins = _BINS * measured.verified_v.shape[1]
    beyond = 1.05 * float(max(measured.read_a.max(), measured.verified_a.max())) / unit
    for currents, colour, name in (
        (measured.verified_a, "#718096", "as verified"),
        (measured.read_a, "#c53030", "as read"),
    ):
        found = currents.ravel() / unit
        axes.hist(found, bins=bins, range=(0, beyond), histtype="step", color=colour, linewidth=0.8, label=name)
    axes.set_yscale("log")
    axes.legend(fontsize=7, frameon=False)
    label(axes, "current [units]", "cells", "currents of programmed cells")
    return [*paths, write_png(figure, folder / "currents.png")]
