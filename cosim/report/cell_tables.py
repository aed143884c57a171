"""Reports a characterized cell as tables for the terminal, and as CSV files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from cosim.experiments.characterization import THRESHOLD_A, Characterization
from cosim.files import write_whole
from cosim.report import provenance

_Rows = Sequence[Sequence[object]] | np.ndarray


def cell_table(measured: Characterization) -> Table:
    """A table of the levels, with the cell's figures below the title."""
    config = measured.config
    settings = ", ".join(provenance.changed(config)) or "default settings"
    figures = (
        f"on/off {measured.on_off:.2g}, swing {1e3 * measured.swing:.0f} mV a decade, INL "
        f"{_percent(measured.inl(measured.currents))} of full scale (equal steps of threshold: "
        f"{_percent(measured.inl(measured.equal_steps))})"
    )
    table = Table(title=escape(f"cell of the card {config.cell.card}\n{settings}\n{figures}"))
    for heading in ("level", "shift [V]", f"V_CG at {1e6 * THRESHOLD_A:g} uA [V]", "current [uA]", "dI/dVt [uA/V]"):
        table.add_column(heading, justify="right")
    rows = zip(measured.shifts, measured.thresholds, measured.currents, measured.slopes, strict=True)
    for level, (shift, threshold, current, slope) in enumerate(rows):
        table.add_row(
            str(level),
            f"{shift:.4f}",
            f"{threshold:.3f}" if np.isfinite(threshold) else "-",
            f"{1e6 * current:.4g}",
            f"{-1e6 * slope:.3g}",
        )
    return table


def cell_corner_table(measured: Characterization) -> Table:
    """A table of the corners: how each changes currents, differences of currents, and linearity."""
    table = Table(title="levels programmed at tt, 27 C, read at corners")
    difference = f"highest less level {measured.middle}"
    for heading in ("process", "C", "supply", "level 1 [units]", "highest level", difference, "INL [% FS]"):
        table.add_column(heading, justify="right")
    unit, full_scale = measured.config.cell.unit_a, measured.config.cell.full_scale_a
    rows = zip(measured.corners, measured.corner_currents, measured.span_changes, strict=True)
    for corner, currents, change in rows:
        table.add_row(
            corner.process,
            f"{corner.temperature_c:g}",
            f"{corner.supply:g}",
            f"{currents[1] / unit:.3f}",
            _change(currents[-1] / full_scale - 1),
            _change(change),
            f"{100 * float(measured.inl(currents)):.2f}",
        )
    return table


def write_cell_tables(measured: Characterization, folder: Path) -> list[Path]:
    """Write transfer.csv, output.csv, levels.csv, corners.csv and summary.json. Returns their paths."""
    levels = range(len(measured.shifts))
    headings = [f"level{level}_a" for level in levels]
    corners = [
        [corner.process, corner.temperature_c, corner.supply, *currents]
        for corner, currents in zip(measured.corners, measured.corner_currents, strict=True)
    ]
    tables: dict[str, tuple[list[str], _Rows]] = {
        "transfer.csv": (["gate_v", *headings], np.column_stack([measured.gate_v, measured.transfer])),
        "output.csv": (["drain_v", *headings], np.column_stack([measured.drain_v, measured.output])),
        "levels.csv": (
            ["level", "shift_v", "threshold_v", "target_a", "current_a", "slope_a_per_v", "equal_steps_a"],
            np.column_stack([levels, measured.shifts, measured.thresholds, measured.targets, measured.currents,
                             -measured.slopes, measured.equal_steps]),
        ),
        "corners.csv": (["process", "temperature_c", "supply", *headings], corners),
    }  # fmt: skip
    for name, (heading, rows) in tables.items():
        write_whole(folder / name, _csv(heading, rows))
    write_whole(folder / "summary.json", json.dumps(measured.to_json(), indent=1) + "\n")
    return [folder / name for name in (*tables, "summary.json")]


def _csv(heading: Sequence[str], rows: _Rows) -> str:
    lines = [",".join(heading)]
    lines += [",".join(value if isinstance(value, str) else f"{value:.9g}" for value in row) for row in rows]
    return "\n".join(lines) + "\n"


def _change(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f} %"


def _percent(share: float | np.ndarray) -> str:
    return f"{100 * float(share):.2g} %"
