"""Reports a probe as tables, JSON, a plot, a waveform file, and the decks of its waveforms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from cosim.experiments.probe import Probe, ProbedRead, ProbedWave
from cosim.files import write_whole
from cosim.report.figures import COLOURS, label, style, write_png
from cosim.report.vcd import vcd_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN_GROUPS = 4
_AMPLITUDES_A_LINE = 3


def probe_tables(found: Probe) -> list[Table]:
    """Tables of the inputs, of every read, and of the output beside that of software."""
    return [_inputs(found), _reads(found), _outputs(found)]


def write_probe(found: Probe, folder: Path) -> list[Path]:
    """Write probe.json, waveform.png, waveform.vcd and the waveforms' decks with their cards. Returns their paths."""
    paths = [folder / "probe.json", folder / "waveform.vcd"]
    write_whole(paths[0], json.dumps(_json(found), indent=1) + "\n")
    write_whole(paths[1], vcd_text(found))
    paths.append(write_png(_plot(found), folder / "waveform.png"))
    for wave in found.waves:
        paths.append(folder / f"{wave.name}.cir")
        write_whole(paths[-1], wave.deck.text(f"{wave.name}.raw"))
        for card, text in wave.deck.cards.items():
            write_whole(folder / card, text)
    return paths


def _inputs(found: Probe) -> Table:
    came, (row, column) = found.provenance, found.at
    table = Table(
        title=escape(
            f"{came.network}, image {found.image} of {came.dataset}, label {found.label}\n"
            f"layer {found.layer}, row {row}, column {column}, channel {found.channel}"
        )
    )
    table.add_column("input channel", justify="right")
    if found.image_patch is not None:
        table.add_column("image patch")
    table.add_column("activations")
    table.add_column("weights")
    for channel, (activations, weights) in enumerate(zip(found.activations, found.weights, strict=True)):
        image = [] if found.image_patch is None else [_grid(found.image_patch[channel], ".2f")]
        table.add_row(str(channel), *image, _grid(activations, "2d"), _grid(weights, "+d"))
    return table


def _reads(found: Probe) -> Table:
    table = Table(title="reads; below each value that of the reference column; sum: partial sum")
    for heading in ("deck", "bit", "pattern", "current\n[uA]", "tran\n[uA]", "code", "ideal", "sum"):
        table.add_column(heading, justify="right", no_wrap=True)
    for read in found.reads:
        bit, pattern = str(read.bit), format(read.pattern, f"0{read.rows[1] - read.rows[0]}b")
        pattern = pattern if len(pattern) <= 12 else f"{read.pattern:x}h"
        if read.amplitudes is not None:
            bit, pattern = (
                "all",
                "\n".join(
                    " ".join(map(str, read.amplitudes[first : first + _AMPLITUDES_A_LINE].tolist()))
                    for first in range(0, len(read.amplitudes), _AMPLITUDES_A_LINE)
                ),
            )
        table.add_row(
            f"{escape(read.deck or f'group {read.group}')}\ntile {read.tile}, row {read.first_wordline}",
            bit,
            pattern,
            *("\n".join(f"{1e6 * value:.4f}" for value in values) for values in (read.currents_a, read.transient_a)),
            *("\n".join(map(str, values)) for values in (read.codes, read.ideal_codes)),
            f"{read.partial_sum:g}",
        )
    return table


def _outputs(found: Probe) -> Table:
    table = Table(title="what comes out")
    for heading in ("", "circuit", "software"):
        table.add_column(heading, justify="right")
    table.add_row("layer sum", f"{found.layer_sum:g}", f"{found.software_sum:g}")
    table.add_row("of the circuit's activations", f"{found.layer_sum:g}", f"{found.exact_sum:g} (exact)")
    table.add_row("output", f"{found.output:.6g}", f"{found.software_output:.6g}")
    table.add_row("image decided as", str(found.logits.argmax()), str(found.software_logits.argmax()))
    return table


def _grid(values: np.ndarray, form: str) -> str:
    """A plane of a kernel as text, with one line for each row."""
    return "\n".join(" ".join(format(value, form) for value in row) for row in values.tolist())


def _json(found: Probe) -> dict[str, Any]:
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(found).items()}
    reads = [
        {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(read).items()}
        for read in found.reads
    ]
    waves = [{"name": wave.name, "bitlines": wave.bitlines, "sample_s": wave.sample_s.tolist()} for wave in found.waves]
    return {**plain, "provenance": found.provenance.to_json(), "reads": reads, "waves": waves}


def _plot(found: Probe) -> Figure:
    """Plot the bitline currents of the first groups, with their samples and the currents of an ideal array."""
    from matplotlib.figure import Figure

    shown = found.waves[:_SHOWN_GROUPS]
    figure = Figure(figsize=(6.4, 2.3 * len(shown) + 0.4), layout="constrained")
    for axes, wave in zip(figure.subplots(len(shown), squeeze=False)[:, 0], shown, strict=True):
        style(axes)
        _waveform(axes, wave, found.reads_of(wave))
    return figure


def _waveform(axes: Axes, wave: ProbedWave, reads: list[ProbedRead]) -> None:
    line = "bitline" if reads[0].amplitudes is None else "source line"
    labels = [f"{line} {bitline}" for bitline in wave.bitlines[:-1]] + ["reference column"]
    for column, name in enumerate(labels):
        colour = "0.4" if column == len(labels) - 1 else COLOURS[column % len(COLOURS)]
        axes.plot(1e9 * wave.time_s, 1e6 * wave.currents_a[:, column], color=colour, linewidth=1, label=name)
        sampled = [1e6 * read.transient_a[column] for read in reads]
        axes.plot(1e9 * wave.sample_s, sampled, "o", color=colour, markersize=3)
    for read, edge in zip(reads, wave.edge_s, strict=True):
        axes.axvline(1e9 * edge, color="0.7", linewidth=0.6, linestyle=":")
        name = f"bit {read.bit}" if read.amplitudes is None else "amplitudes"
        axes.annotate(name, (1e9 * edge, 1.0), xycoords=axes.get_xaxis_transform(), fontsize=7)
    label(axes, "time [ns]", "current [uA]", f"{wave.name}\n")
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
