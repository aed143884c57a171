"""Reports a sweep as tables for the terminal, and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from cosim.experiments.sweep_result import SweepResult
from cosim.files import write_whole
from cosim.report import provenance, wording

_FAILED = "failed"
_TIMES = ("ngspice [s]", "wall [s]")
_ERRORS = ("code error, rms [units]", "code error, max [units]")
_CERTIFICATE = "certificate, max [LSB]"
_WIDE = {_FAILED, *_TIMES, *_ERRORS, _CERTIFICATE}


def sweep_table(result: SweepResult) -> Table:
    """A table of the cases of the grid, in the columns that fit a terminal. The chips of a case share a row."""
    head, *rows = sweep_rows(result)
    shown = [number for number, heading in enumerate(head) if heading not in _WIDE]
    shown += [len(head) - 1] if result.failed else []
    table = Table(title=escape("\n".join(sweep_sentences(result))))
    for number in shown:
        last = number == len(head) - 1
        table.add_column(wording.narrow(head[number]), justify="left" if last else "right", no_wrap=not last)
    for row in rows:
        table.add_row(*(escape(row[number]) for number in shown))
    return table


def sweep_sentences(result: SweepResult) -> list[str]:
    """Lines that say what was swept, with the mean and the worst accuracy."""
    came, software = result.provenance, wording.percent(result.software.share)
    settings = ", ".join(provenance.changed(came.config)) or "default settings"
    said = [
        f"{came.network} on {result.images} images of {came.dataset}; {settings}",
        f"software is right on {software} %",
    ]
    worst = result.worst
    if worst is not None:
        lost = 100 * (result.software.share - result.accuracy)
        place = ", ".join(f"{key} = {value}" for key, value in result.settings(worst).items())
        said.append(
            f"{int(result.done.sum())} points lose {np.nanmean(lost):.2f} points of accuracy on average, "
            f"at most {lost[worst]:.2f}: {place}"
        )
    if result.failed:
        said.append(f"{result.failed} of {result.done.size} points failed")
    return said


def sweep_rows(result: SweepResult) -> list[list[str]]:
    """The table as texts, with the headings first."""
    chips = result.chip_axis is not None
    keys = [key for number, key in enumerate(result.axes) if number != result.chip_axis]
    figures = ["right [%]", "95 % interval", "lost [pt]", *(["worst chip [%]"] if chips else []), "decided otherwise"]
    rows = [[*keys, *figures, *_ERRORS, _CERTIFICATE, *_TIMES, _FAILED]]
    for case in result.cases():
        spread = result.spread(case)
        cells = [str(value) for value in result.settings(case).values()]
        if spread is None:
            cells += ["-"] * (len(rows[0]) - len(keys) - 1)
        else:
            mean, low, high, worst = map(wording.percent, (spread.mean, spread.low, spread.high, spread.worst))
            lost = f"{100 * (result.software.share - spread.mean):+.2f}"
            cells += [mean, f"{low} .. {high}", lost, *([worst] if chips else [])]
            cells += [
                f"{np.nanmean(result.disagreements[case]):.4g}",
                f"{np.sqrt(np.nanmean(result.code_error_rms[case] ** 2)):.3f}",
                f"{np.nanmax(result.code_error_max[case]):.2f}",
                _largest(result.certificate_max_error_lsb[case]),
                f"{np.nansum(result.ngspice_seconds[case]):.1f}",
                f"{np.nansum(result.seconds[case]):.1f}",
            ]
        rows.append([*cells, _failures(result.reasons[case])])
    return rows


def write_sweep_table(result: SweepResult, path: Path) -> Path:
    """Write the table and its summary as Markdown. Returns the path."""
    write_whole(path, f"{wording.sentences(sweep_sentences(result))}\n{wording.markdown(sweep_rows(result))}")
    return path


def _largest(distances: Any) -> str:
    """The largest distance over all points that have a certificate, or a dash if none has one."""
    known = np.atleast_1d(distances)[~np.isnan(np.atleast_1d(distances))]
    return f"{known.max():.2g}" if known.size else "-"


def _failures(reasons: Any) -> str:
    """How many points failed, and the first line of the reason of the first one."""
    said = [reason for reason in np.atleast_1d(reasons).ravel() if reason]
    if not said:
        return ""
    first = said[0].splitlines()[0]
    return f"{len(said)}: {first}" if np.size(reasons) > 1 else first
