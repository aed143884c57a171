"""Plots of a characterized cell as PNG files. matplotlib is imported when a plot is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cosim.config import Corner
from cosim.experiments.characterization import Characterization
from cosim.report.figures import label, new_axes, write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Currents below this are not shown, since they come from the simulator's rounding [A].
_SMALLEST_A = 1e-15
_PROCESS_LINES = {"tt": "-", "ff": "--", "ss": ":"}


def write_cell_plots(measured: Characterization, folder: Path) -> list[Path]:
    """Write transfer.png, output.png, levels.png, linearity.png and corners.png. Returns their paths."""
    panels: dict[str, Callable[[Characterization, Axes], None]] = {
        "transfer": _transfer, "output": _output, "levels": _levels, "linearity": _linearity,
        "corners": _corners,
    }  # fmt: skip
    paths = []
    for name, draw in panels.items():
        figure, axes = new_axes()
        draw(measured, axes)
        paths.append(write_png(figure, folder / f"{name}.png"))
    return paths


def _transfer(measured: Characterization, axes: Axes) -> None:
    _curves(axes, measured.gate_v, np.maximum(measured.transfer, _SMALLEST_A))
    axes.set_yscale("log")
    read = measured.config.read_at_corner
    axes.axvline(read.wordline_v, color="0.4", linewidth=0.8, linestyle=":")
    label(axes, "V_CG [V]", "drain current [A]", f"transfer curves of the levels, V_D = {read.bitline_v:g} V")


def _output(measured: Characterization, axes: Axes) -> None:
    _curves(axes, measured.drain_v, 1e6 * measured.output)
    read = measured.config.read_at_corner
    axes.axvline(read.bitline_v, color="0.4", linewidth=0.8, linestyle=":")
    label(axes, "V_D [V]", "drain current [uA]", f"output curves of the levels, V_CG = {read.wordline_v:g} V")


def _levels(measured: Characterization, axes: Axes) -> None:
    levels = np.arange(len(measured.shifts))
    for corner, colour, _ in _typical(measured):
        currents = 1e6 * _at(measured, corner)
        axes.plot(levels, currents, color=colour, marker=".", label=f"{corner.temperature_c:g} C")
    label(axes, "level", "read current [uA]", "current of the levels, programmed at 27 C")
    axes.legend(fontsize=7, frameon=False)


def _linearity(measured: Characterization, axes: Axes) -> None:
    levels = np.arange(len(measured.shifts))
    for corner, colour, _ in _typical(measured):
        deviation = measured.nonlinearity(_at(measured, corner))
        axes.plot(levels, 100 * deviation, color=colour, marker=".", label=f"{corner.temperature_c:g} C")
    label(axes, "level", "deviation from a line [% of full scale]", "linearity, gain and offset taken out")
    axes.legend(fontsize=7, frameon=False)


def _corners(measured: Characterization, axes: Axes) -> None:
    levels = np.arange(len(measured.shifts))
    for corner, colour, line in _typical(measured, *_PROCESS_LINES):
        change = (_at(measured, corner) - measured.targets) / measured.config.cell.full_scale_a
        name = f"{corner.process}, {corner.temperature_c:g} C"
        axes.plot(levels, 100 * change, color=colour, linestyle=line, linewidth=1.2, label=name)
    label(axes, "level", "change of the current [% of full scale]", "programmed at tt, 27 C, read at corners")
    axes.legend(fontsize=6, frameon=False, ncols=3)


def _curves(axes: Axes, volts: np.ndarray, currents: np.ndarray) -> None:
    """Draw one curve for each level, coloured by level."""
    from matplotlib import colormaps

    for level, curve in enumerate(currents.T):
        colour = colormaps["viridis"](0.9 * level / (currents.shape[1] - 1))
        ends = level in (0, currents.shape[1] - 1)
        axes.plot(volts, curve, color=colour, linewidth=1, label=f"level {level}" if ends else None)
    axes.legend(fontsize=7, frameon=False)


def _typical(measured: Characterization, *processes: str) -> list[tuple[Corner, str, str]]:
    """Corners at nominal supply, each with its colour, by temperature, and its line style, by process."""
    shown = [corner for corner in measured.corners if corner.supply == 1 and corner.process in (processes or ("tt",))]
    temperatures = sorted({corner.temperature_c for corner in shown})
    colours = dict(zip(temperatures, ("#2b6cb0", "#333333", "#dd8b1f", "#c53030"), strict=True))
    return [(corner, colours[corner.temperature_c], _PROCESS_LINES[corner.process]) for corner in shown]


def _at(measured: Characterization, corner: Corner) -> np.ndarray:
    return measured.corner_currents[measured.corners.index(corner)]
