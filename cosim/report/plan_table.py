"""Reports the plan of a run as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from cosim.evaluate.plan import FIDELITIES, RunPlan, size_in_words
from cosim.report import wording
from cosim.report.tables import LayerTable


def plan_layers(plan: RunPlan) -> LayerTable:
    """A table of the layers: where they lie, and how many reads they need."""
    layers = plan.layers
    rows = {
        "kernel": ["x".join(map(str, layer.kernel)) for layer in layers],
        "output size": ["x".join(map(str, layer.size)) for layer in layers],
        "tiles": [f"{layer.tiles:,}" for layer in layers],
        "groups": [f"{layer.groups:,}" for layer in layers],
        "cells used": [f"{100 * layer.utilization:.3g} %" for layer in layers],
        "reads an image": [f"{layer.reads_an_image:,}" for layer in layers],
        "patterns at most": [f"{layer.patterns:,}" for layer in layers],
        "decks at most": [f"{layer.decks:,}" for layer in layers],
        "table": [size_in_words(layer.table_bytes) for layer in layers],
    }
    return LayerTable(f"layers of {plan.network.name} on arrays", [layer.name for layer in layers], rows)


def plan_sums(plan: RunPlan) -> Table:
    """The row with the sums over all layers."""
    layers, array = plan.layers, plan.config.array
    table = Table(title=escape(f"{plan.network.name} on {plan.images:,} images"), show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    used, there = sum(layer.cells_used for layer in layers), sum(layer.cells_there for layer in layers)
    table.add_row("layers on arrays / in software", f"{len(layers)} / {len(plan.software)}")
    tiles = sum(layer.tiles for layer in layers)
    table.add_row(f"tiles of {array.wordlines} x {array.bitlines} cells", f"{tiles:,}")
    table.add_row("cells used of those there", f"{used:,} of {there:,} ({100 * used / there:.3g} %)")
    table.add_row("groups", f"{sum(layer.groups for layer in layers):,}")
    table.add_row("reads an image", f"{sum(layer.reads_an_image for layer in layers):,}")
    table.add_row("patterns, at most", f"{sum(layer.patterns for layer in layers):,}")
    table.add_row("decks, at most", f"{sum(layer.decks for layer in layers):,}")
    return table


def plan_estimates(plans: Sequence[RunPlan]) -> Table:
    """A table of the time, memory and disk space of consecutive runs, by fidelity. That of the first run is marked."""
    runs = f"{len(plans)} runs" if len(plans) > 1 else "a run"
    table = Table(title=f"about what {runs} with an empty store take{'s' if len(plans) == 1 else ''}")
    for heading in ("fidelity", "time", "memory at most", "disk at most"):
        table.add_column(heading, justify="left" if heading == "fidelity" else "right")
    for fidelity in FIDELITIES:
        found = [plan.estimate(fidelity) for plan in plans]
        table.add_row(
            f"{fidelity} (chosen)" if fidelity == plans[0].fidelity else fidelity,
            wording.seconds(float(f"{sum(each.seconds for each in found):.2g}")),
            size_in_words(max(each.memory_bytes for each in found)),
            size_in_words(sum(each.disk_bytes for each in found)),
            style="bold" if fidelity == plans[0].fidelity else None,
        )
    return table
