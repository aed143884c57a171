"""What the plots in PNG files have in common. matplotlib is imported when a plot is drawn."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from cosim.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2b6cb0", "#dd8b1f", "#2f855a", "#c53030", "#6b46c1", "#718096", "#b7791f", "#0987a0")
_DOTS = 90  # an inch
_PALETTE = 64


def new_axes(width: float = 4.6, height: float = 3.2) -> tuple[Figure, Axes]:
    """An empty plot of the given size in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    style(axes)
    return figure, axes


def style(axes: Axes) -> None:
    """The style that all plots have."""
    axes.grid(linewidth=0.4, alpha=0.6)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def label(axes: Axes, x: str, y: str, title: str) -> None:
    """Name the axes and the plot."""
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.set_title(title, fontsize=8)


def write_png(figure: Figure, path: Path) -> Path:
    """Write a figure as a small PNG file. Returns its path."""
    from PIL import Image

    drawn, content = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DOTS)
    Image.open(drawn).convert("RGB").quantize(_PALETTE).save(content, format="png", optimize=True)
    write_whole(path, content.getvalue())
    return path
