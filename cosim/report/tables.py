"""A comparison as tables for the terminal."""

from __future__ import annotations

from rich.table import Table

from cosim.evaluate import Accuracy, Comparison


def percent(accuracy: Accuracy | None) -> str:
    """An accuracy with its confidence interval, in percent."""
    if accuracy is None:
        return "not known (no float weights)"
    low, high = accuracy.interval
    return f"{100 * accuracy.share:.2f} %  ({100 * low:.2f} .. {100 * high:.2f})"


def summary_table(comparison: Comparison) -> Table:
    """What a run found and what it took."""
    facts, usage = comparison.facts, comparison.facts["usage"]
    table = Table(title=f"{facts['network']} on {comparison.images} images of {facts['dataset']}", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("float network", percent(comparison.accuracy_float))
    table.add_row("quantized, in software", percent(comparison.accuracy_software))
    table.add_row("quantized, on the circuit", percent(comparison.accuracy_circuit))
    table.add_row("images decided differently", str(len(comparison.disagreements)))
    table.add_section()
    table.add_row("reads the images need", f"{comparison.reads:,}")
    table.add_row("patterns simulated", f"{usage.get('patterns_simulated', 0):,}")
    table.add_row("patterns reused from the store", f"{usage.get('patterns_reused', 0):,}")
    table.add_row("decks simulated", f"{usage.get('decks', 0):,}")
    if comparison.audit_max_error_lsb is not None:
        table.add_row("audit, largest error", f"{comparison.audit_max_error_lsb:.2g} LSB")
    table.add_section()
    table.add_row("ngspice, CPU seconds", f"{usage.get('ngspice_seconds', 0.0):.1f}")
    table.add_row("wall seconds", f"{facts['wall_seconds']:.1f}")
    return table


def layer_table(comparison: Comparison) -> Table:
    """Each array layer, a column, against ideal integers; errors count every read."""
    table = Table(title="array layers against ideal integers")
    table.add_column("", style="bold")
    layers = comparison.layers
    for layer in layers:
        table.add_column(layer.name, justify="right")
    rows = {
        "tiles": [str(layer.tiles) for layer in layers],
        "groups of wordlines": [str(layer.groups) for layer in layers],
        "reads": [f"{layer.reads:,}" for layer in layers],
        "distinct patterns": [f"{layer.patterns:,}" for layer in layers],
        "codes": [f"{layer.conversions:,}" for layer in layers],
        "codes that differ": [f"{layer.differing_codes:,}" for layer in layers],
        "error, mean [LSB]": [f"{layer.error_mean_lsb:+.4f}" for layer in layers],
        "error, rms [LSB]": [f"{layer.error_rms_lsb:.4f}" for layer in layers],
        "error, max [LSB]": [f"{layer.error_max_lsb:.4f}" for layer in layers],
        "correlation": [f"{layer.correlation:.6f}" for layer in layers],
        "unsettled, max [LSB]": [f"{layer.unsettled_lsb:.1e}" for layer in layers],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    return table
