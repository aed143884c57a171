"""A comparison as tables for the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from cosim.evaluate import Accuracy, Comparison, RunRecord
from cosim.report import provenance, wording


def summary_table(comparison: Comparison) -> Table:
    """What a run found and what it took."""
    facts, usage = comparison.facts, comparison.facts["usage"]
    title = f"{facts['network']} on {comparison.images} images of {facts['dataset']}"
    settings = ", ".join(provenance.changed(facts)) or "default settings"
    table = Table(title=escape(f"{title}\n{settings}"), show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("float network", _accuracy(comparison.accuracy_float))
    table.add_row("quantized, in software", _accuracy(comparison.accuracy_software))
    table.add_row("quantized, on the circuit", _accuracy(comparison.accuracy_circuit))
    table.add_row("images decided differently", str(len(comparison.disagreements)))
    table.add_section()
    table.add_row("reads the images need", f"{comparison.reads:,}")
    table.add_row("patterns simulated", f"{usage.get('patterns_simulated', 0):,}")
    table.add_row("patterns reused from the store", f"{usage.get('patterns_reused', 0):,}")
    table.add_row("decks simulated", f"{usage.get('decks', 0):,}")
    if usage.get("retried", 0) > 0:
        table.add_row("decks repeated with tightened options", f"{usage['retried']:,}")
    chip = facts.get("chip", {})
    if chip.get("smallest_separation_sigmas") is not None:
        table.add_row("sigma of a programmed threshold", f"{1000 * chip['program_sigma_v']:.3g} mV")
        table.add_row("closest levels", f"{chip['smallest_separation_sigmas']:.3g} sigmas apart")
    if chip.get("charge_loss"):
        table.add_row("charge lost since programming", f"{100 * chip['charge_loss']:.3g} %")
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
        table.add_column(escape(layer.name), justify="right")
    rows = {
        "tiles": [str(layer.tiles) for layer in layers],
        "groups of wordlines": [str(layer.groups) for layer in layers],
        "reads": [f"{layer.reads:,}" for layer in layers],
        "distinct patterns": [f"{layer.patterns:,}" for layer in layers],
        "codes": [f"{layer.conversions:,}" for layer in layers],
        "codes that differ": [wording.share(layer.differing_codes, layer.conversions) for layer in layers],
        "codes clipped by the converter": [wording.share(layer.clipped_codes, layer.conversions) for layer in layers],
        "LSB, in unit currents": [f"{layer.lsb_units:.4g}" for layer in layers],
        "error, mean [LSB]": [f"{layer.error_mean_lsb:+.4f}" for layer in layers],
        "error, rms [LSB]": [f"{layer.error_rms_lsb:.4f}" for layer in layers],
        "error, max [LSB]": [f"{layer.error_max_lsb:.4f}" for layer in layers],
        "correlation": [wording.if_known(layer.correlation, ".6f") for layer in layers],
        "unsettled, max [LSB]": [f"{layer.unsettled_lsb:.1e}" if layer.unsettled_lsb else "-" for layer in layers],
    }
    if any(layer.noise_lsb for layer in layers):
        rows["noise of a read, rms [LSB]"] = [f"{layer.noise_lsb:.4f}" for layer in layers]
    if any(layer.trimmed for layer in layers):
        rows["trimmed gain, mean"] = [f"{layer.trim_gain:.4f}" for layer in layers]
        rows["trimmed gain, spread"] = [f"{layer.trim_gain_spread:.4f}" for layer in layers]
        rows["trimmed offset, mean [LSB]"] = [f"{layer.trim_offset_lsb:+.4f}" for layer in layers]
    for name, values in rows.items():
        table.add_row(name, *values)
    return table


def disagreement_table(record: RunRecord, limit: int = 20) -> Table:
    """The first images that circuit and integer network decide differently, and how."""
    count = len(record.disagreeing)
    table = Table(title=f"images decided differently: {count}" + (f", the first {limit}" if count > limit else ""))
    for heading in ("image", "label", "software", "circuit"):
        table.add_column(heading, justify="right")
    for image in record.disagreeing[:limit].tolist():
        software, circuit = record.logits_software[image].argmax(), record.logits_circuit[image].argmax()
        table.add_row(str(image), str(record.labels[image]), str(software), str(circuit))
    return table


def _accuracy(accuracy: Accuracy | None) -> str:
    """An accuracy with its confidence interval, in percent."""
    if accuracy is None:
        return "not known (no float weights)"
    low, high = (wording.percent(bound) for bound in accuracy.interval)
    return f"{wording.percent(accuracy.share)} %  ({low} .. {high})"
