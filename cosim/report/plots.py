"""Plots of a run as inline SVG whose colours follow the page, light or dark.

Figures are drawn in stand-in colours, which become CSS variables (`--ink`, `--accent`, ...) in the SVG text.
matplotlib is imported when a plot is drawn, so that `import cosim.report` stays fast.
"""

from __future__ import annotations

import base64
import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from cosim.evaluate.record import Waveform
from cosim.evaluate.summary import Densities

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-in colour -> the page's variable. Black is avoided, since matplotlib writes no fill for it.
_INK, _MUTED, _LINE, _ACCENT, _ALARM = "#010101", "#020202", "#030303", "#040404", "#050505"
_SERIES = ("#060601", "#060602", "#060603", "#060604")
_VARIABLES = {_INK: "ink", _MUTED: "muted", _LINE: "line", _ACCENT: "accent", _ALARM: "alarm"} | {
    colour: f"series-{number}" for number, colour in enumerate(_SERIES, 1)
}
# Rasters cannot follow the page's colours, so they are in a blue that stands out from both light and dark.
_DENSITY_RGB = np.array([0x3F, 0x8A, 0xD6]) / 255
_WRONG_RGB = np.array([0xD9, 0x5B, 0x3A]) / 255

_SIZE = (4.2, 3.1)  # inches; at 72 units an inch this is near the pixels a plot gets, so text keeps its size
_CONFUSION_PIXELS = 100
_SHOWN_BITLINES = 4
_THUMBNAIL_PIXELS = 64


def error_histogram(densities: Densities, key: str) -> str:
    """Plot how many conversions have an error of each size."""
    scale, unit = _prefixed(densities)
    counts, edges = densities.error.sum(axis=0), densities.error_edges_lsb * scale
    figure, axes = _figure(xlabel=f"current error [{unit}]", ylabel="conversions")
    axes.set_yscale("log")
    axes.stairs(counts, edges, fill=True, baseline=0.5, facecolor=_ACCENT, alpha=0.85)
    axes.set_ylim(0.5, max(2.0, 2.5 * counts.max()))
    axes.set_xlim(edges[0], edges[-1])
    for half in (-0.5 * scale, 0.5 * scale):
        if edges[0] < half < edges[-1]:
            axes.axvline(half, color=_ALARM, linewidth=1, linestyle=(0, (4, 3)))
    axes.yaxis.set_major_formatter(_compact)
    axes.yaxis.minorticks_off()
    return _svg(figure, key)


def current_density(densities: Densities, key: str) -> str:
    """Plot the circuit's currents over ideal currents, with the line on which they are equal."""
    edges = densities.current_edges_lsb
    figure, axes = _figure(xlabel="ideal current [LSB]", ylabel="circuit current [LSB]")
    _density(axes, densities.circuit, edges, edges)
    axes.plot(edges[[0, -1]], edges[[0, -1]], color=_MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    return _svg(figure, key)


def error_density(densities: Densities, key: str) -> str:
    """Plot the error of currents over ideal currents, which shows where on the scale the circuit departs."""
    scale, unit = _prefixed(densities)
    figure, axes = _figure(xlabel="ideal current [LSB]", ylabel=f"current error [{unit}]")
    _density(axes, densities.error, densities.current_edges_lsb, densities.error_edges_lsb * scale)
    axes.axhline(0, color=_MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    return _svg(figure, key)


def waveform_plot(waveform: Waveform, key: str, *, reference: bool, wide: bool) -> str:
    """Plot the currents of the bitlines that move most, of the reference column if there is one, and the samples."""
    time_ns, currents_ua = waveform.time_s * 1e9, waveform.currents_a * 1e6
    sample_ns = waveform.sample_s * 1e9
    weights = currents_ua[:, :-1] if reference else currents_ua
    moving = np.argsort(-np.ptp(weights, axis=0), kind="stable")[:_SHOWN_BITLINES]
    figure, axes = _figure(xlabel="time [ns]", ylabel="bitline current [µA]", size=(10.4, 3.7) if wide else (4.2, 4.0))
    for sample in sample_ns:
        axes.axvline(sample, color=_LINE, linewidth=1)
    lines: list[tuple[int, str, Any, str]] = [
        (int(bitline), _SERIES[i], "-", f"bitline {bitline}") for i, bitline in enumerate(np.sort(moving))
    ]
    if reference:
        lines.append((-1, _INK, (0, (4, 2)), "reference"))
    for column, colour, style, label in lines:
        axes.plot(time_ns, currents_ua[:, column], color=colour, linestyle=style, linewidth=1.4, label=label)
        sampled = np.interp(sample_ns, time_ns, currents_ua[:, column])
        axes.plot(sample_ns, sampled, color=colour, linestyle="none", marker="o", markersize=3.2)
    axes.set_xlim(time_ns[0], time_ns[-1] * 1.005)
    # The legend is above the axes, where it hides no curve.
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=5 if wide else 3, frameon=False, labelcolor=_INK,
        fontsize=8.5, borderaxespad=0.2, handlelength=1.6, columnspacing=1.2,
    )  # fmt: skip
    return _svg(figure, key)


def threshold_plot(levels_shift_v: np.ndarray, key: str) -> str:
    """Plot the programmed threshold shift of every level."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(xlabel="level", ylabel="threshold shift [V]")
    axes.plot(levels_shift_v, color=_ACCENT, marker="o", markersize=4, linewidth=1.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _svg(figure, key)


def confusion_image(counts: np.ndarray, key: str) -> str:
    """A confusion matrix (truth, decision) with too many classes for numbers: blue is right, red is wrong.

    With very many classes, a pixel stands for a block of neighbours, so that a single image is still visible.
    """
    classes = len(counts)
    block = confusion_block(classes)
    starts = np.arange(0, classes, block)
    right, wrong = (
        np.add.reduceat(np.add.reduceat(part, starts, 0), starts, 1)
        for part in (counts * np.eye(classes, dtype=int), counts * (1 - np.eye(classes, dtype=int)))
    )
    colours = np.empty((*right.shape, 4))
    colours[..., :3] = np.where((wrong > right)[..., None], _WRONG_RGB, _DENSITY_RGB)
    colours[..., 3] = _opacity(right + wrong)
    figure, axes = _figure(xlabel="decision", ylabel="truth", size=(4.2, 4.0))
    end = len(starts) * block - 0.5
    axes.imshow(colours, interpolation="none", aspect="equal", extent=(-0.5, end, end, -0.5))
    axes.grid(False)
    return _svg(figure, key)


def confusion_block(classes: int) -> int:
    """Number of neighbouring classes that share a pixel of `confusion_image`."""
    return -(-classes // _CONFUSION_PIXELS)


def thumbnail(image: np.ndarray, full_scale: float) -> str:
    """An image (channels, height, width) as a PNG data URI: in colour if it has three channels, otherwise gray."""
    from matplotlib.image import imsave

    step = -(-max(image.shape[1:]) // _THUMBNAIL_PIXELS)
    pixels = image[:, ::step, ::step].astype(np.float64) / (full_scale or 1)
    if len(pixels) != 3:
        pixels = np.repeat(pixels.mean(0, keepdims=True), 3, 0)
    content = io.BytesIO()
    imsave(content, (pixels.clip(0, 1).transpose(1, 2, 0) * 255).astype(np.uint8), format="png")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def _figure(*, xlabel: str, ylabel: str, size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.set_xlabel(xlabel, color=_MUTED, fontsize=9)
    axes.set_ylabel(ylabel, color=_MUTED, fontsize=9)
    axes.tick_params(colors=_LINE, labelcolor=_MUTED, labelsize=8.5)
    axes.grid(color=_LINE, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    return figure, axes


def _density(axes: Axes, counts: np.ndarray, x_edges: np.ndarray, y_edges: np.ndarray) -> None:
    """Draw counts (x, y) as one raster, which is more opaque the larger the count is."""
    colours = np.empty((*counts.T.shape, 4))
    colours[..., :3] = _DENSITY_RGB
    colours[..., 3] = _opacity(counts.T)
    extent = (x_edges[0], x_edges[-1], y_edges[0], y_edges[-1])
    axes.imshow(colours, origin="lower", extent=extent, aspect="auto", interpolation="none", zorder=2)


def _opacity(counts: np.ndarray) -> np.ndarray:
    """Opacity of counts: 0 for a count of 0, then from 0.3 to 1 by the logarithm of the count."""
    strength = np.log1p(counts) / np.log1p(max(1.0, counts.max(initial=0)))
    return np.where(counts > 0, 0.3 + 0.7 * strength, 0.0)


def _prefixed(densities: Densities) -> tuple[float, str]:
    """Factor and unit that make a layer's errors easy to read."""
    largest_lsb = float(np.abs(densities.error_edges_lsb).max())
    if largest_lsb >= 0.1:
        return 1.0, "LSB"
    return (1e3, "mLSB") if largest_lsb >= 1e-4 else (1e6, "µLSB")


def _compact(value: float, _: Any = None) -> str:
    """A number as short text, such as 1 k for 1000 and 2 M for 2000000."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:g}{prefix}"
    return f"{value:g}"


def _svg(figure: Figure, key: str) -> str:
    """The figure as SVG text to be inlined, with identifiers made from `key`, and the fonts and colours of the page."""
    import matplotlib

    content = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(content, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = content.getvalue()
    text = text[text.index("<svg") :].replace("xlink:href", "href")
    # In HTML, a <style> inside an SVG would apply to the whole page.
    text = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    width, height = figure.get_size_inches() * 72
    opening = f'<svg aria-hidden="true" viewBox="0 0 {width:g} {height:g}">'
    text = re.sub(r"<svg[^>]*>", opening, text, count=1)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r" font-family: [^;\"]*;?", "", text)
    referenced = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in referenced else "", text)
    text = re.sub("#0[1-6]0[1-6]0[1-6]", lambda m: f"var(--{_VARIABLES[m[0]]})", text)
    return re.sub(r"\n\s*", "\n", text)
