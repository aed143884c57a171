"""Reports a search: a table for the terminal and as Markdown, all figures as JSON, and the best design as TOML."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from cosim.experiments.search import Candidate, SearchResult
from cosim.files import write_whole
from cosim.report import provenance, wording

_FAILED = "failed"


def search_table(result: SearchResult) -> Table:
    """A table of the designs in the order of their rank. Below it is why designs failed."""
    head, *rows = search_rows(result)
    table = Table(title=escape("\n".join(search_sentences(result))), caption=escape("\n".join(_failures(result))))
    shown = [number for number, heading in enumerate(head) if heading != _FAILED]
    for number in shown:
        # Where there are too many keys for the terminal, their values are broken, and figures are not.
        table.add_column(wording.narrow(head[number]), justify="right", no_wrap=head[number] not in result.designs)
    for row in rows:
        table.add_row(*(escape(row[number]) for number in shown))
    return table


def search_sentences(result: SearchResult) -> list[str]:
    """Lines that say what was searched, and the best design with the condition that harms it most."""
    came, best = result.provenance, result.best
    settings = ", ".join(provenance.changed(came.config)) or "default settings"
    ranked = "mean over the conditions" if result.by == "mean" else "worst condition"
    said = [
        f"{came.network} on {result.software.images} images of {came.dataset}; {settings}",
        f"software is right on {wording.percent(result.software.share)} %",
        f"{wording.count(len(result.candidates), 'design')}, ranked by the images decided otherwise, {ranked}",
    ]
    if best is not None:
        said.append(f"the best one is {_named(best.design)}")
        if result.conditions:
            said.append(f"its worst condition is {_named(result.worst_condition(best))}")
    if result.failed:
        said.append(f"{result.failed} of {wording.count(len(result.candidates), 'design')} failed")
    return said


def search_rows(result: SearchResult) -> list[list[str]]:
    """The table as texts, with the headings first. Keys with only one value are left out."""
    keys = [key for key, values in result.designs.items() if len(values) > 1]
    figures = ["chips", "decided otherwise [%]", "lost, mean [pt]", "lost, worst condition [pt]",
               "lost, worst chip [pt]"]  # fmt: skip
    rows = [["rank", *keys, *figures, *([_FAILED] if result.failed else [])]]
    for rank, candidate in enumerate(result.candidates, 1):
        named = [str(candidate.design[key]) for key in keys]
        if candidate.reason:
            rows.append(["-", *named, str(candidate.chips), *["-"] * 4, candidate.reason.splitlines()[0]])
        else:
            rows.append([str(rank), *named, *_figures(result, candidate), *([""] if result.failed else [])])
    return rows


def write_search(result: SearchResult, folder: Path) -> list[Path]:
    """Write table.md, search.json and, unless every design failed, best.toml. Returns their paths."""
    texts = {
        "table.md": f"{wording.sentences(search_sentences(result))}\n{wording.markdown(search_rows(result))}",
        "search.json": json.dumps(result.to_json(), indent=1) + "\n",
    }
    if result.best is not None:
        texts["best.toml"] = design_toml(result.best.design)
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def design_toml(design: Mapping[str, Any]) -> str:
    """The keys of a design as a configuration file. TOML has no word for a key that is left out: a comment names it."""
    sections: dict[str, list[str]] = {}
    for key, value in design.items():
        section, _, name = key.partition(".")
        text = json.dumps(value, ensure_ascii=False)  # a number, a boolean or printable text, which TOML writes alike
        line = f"# {name} is left out (--set {key}=none)" if value is None else f"{name} = {text}"
        sections.setdefault(section, []).append(line)
    parts = ["# The best design that `cosim search` found.\n"]
    parts += ["\n".join([f"[{section}]", *lines]) + "\n" for section, lines in sections.items()]
    return "\n".join(parts)


def _figures(result: SearchResult, candidate: Candidate) -> list[str]:
    lost = 100 * result.lost(candidate)
    shown = [wording.percent(candidate.score(result.by))]
    shown += [f"{points:+.2f}" for points in (lost.mean(), lost.mean(axis=0).max(), lost.max())]
    return [str(candidate.chips), *shown]


def _failures(result: SearchResult) -> list[str]:
    """Every reason why designs failed, with their number."""
    counts = Counter(candidate.reason.splitlines()[0] for candidate in result.candidates if candidate.reason)
    return [f"{wording.count(count, 'design')} failed: {reason}" for reason, count in counts.items()]


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items())
