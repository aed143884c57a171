"""Reports a comparison as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.markup import escape
from rich.table import Table

from cosim.evaluate import Accuracy, Comparison, RunRecord
from cosim.report import provenance, wording
from cosim.spice import Usage

_LABEL_WIDTH = 20  # longer names of quantities or layers break


def summary_table(comparison: Comparison) -> Table:
    """A table of the results of a run, and of what it took."""
    came, usage = comparison.provenance, comparison.provenance.usage or Usage()
    title = f"{came.network} on {comparison.images} images of {came.dataset}"
    settings = ", ".join(provenance.changed(came.config)) or "default settings"
    table = Table(title=escape(f"{title}\n{settings}"), show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("float network", _accuracy(comparison.accuracy_float))
    table.add_row("quantized, in software", _accuracy(comparison.accuracy_software))
    table.add_row("quantized, on the circuit", _accuracy(comparison.accuracy_circuit))
    table.add_row("images decided differently", str(len(comparison.disagreements)))
    table.add_section()
    table.add_row("reads the images need", f"{comparison.reads:,}")
    for what, reads, decks in (
        ("simulated now, by ngspice", usage.patterns_simulated, usage.decks),
        ("found in the store", usage.patterns_reused, usage.decks_reused),
    ):
        table.add_row(what, f"{wording.count(reads, 'read')} in {wording.count(decks, 'deck')}")
    if usage.retried:
        table.add_row("decks repeated with tightened options", f"{usage.retried:,}")
    separation, sigma_v, loss = map(came.chip.get, ("smallest_separation_sigmas", "program_sigma_v", "charge_loss"))
    if separation is not None and sigma_v is not None:
        table.add_row("sigma of a programmed threshold", f"{1000 * sigma_v:.3g} mV")
        table.add_row("closest levels", f"{separation:.3g} sigmas apart")
    if loss:
        table.add_row("charge lost since programming", f"{100 * loss:.3g} %")
    if comparison.audit_max_error_lsb is not None:
        table.add_row("audit, largest error", f"{comparison.audit_max_error_lsb:.2g} LSB")
    certificate = comparison.certificate
    if certificate is not None:
        largest = max(certificate.max_error_lsb, certificate.adverse_max_error_lsb)
        table.add_row("certificate, largest error", f"{largest:.2g} LSB")
        table.add_row("reads it drew, and adverse ones", f"{certificate.reads:,} and {certificate.adverse_reads:,}")
        table.add_row("farther off, with 99.9 % confidence", f"at most {wording.percent(certificate.share)} % of reads")
    table.add_section()
    table.add_row("ngspice, CPU seconds", f"{usage.ngspice_seconds:.1f}")
    table.add_row("wall seconds", f"{came.wall_seconds:.1f}")
    return table


def layer_table(comparison: Comparison) -> LayerTable:
    """A table that compares each array layer with ideal arrays. Errors count every read."""
    layers = comparison.layers
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
    for name in layers[0].defects if layers else ():
        if any(layer.defects[name] for layer in layers):
            rows[name] = [f"{layer.defects[name]:,}" for layer in layers]
    if any(layer.trimmed for layer in layers):
        rows["trimmed gain, mean"] = [f"{layer.trim_gain:.4f}" for layer in layers]
        rows["trimmed gain, spread"] = [f"{layer.trim_gain_spread:.4f}" for layer in layers]
        rows["trimmed offset, mean [LSB]"] = [f"{layer.trim_offset_lsb:+.4f}" for layer in layers]
    return LayerTable("array layers against ideal integers", [layer.name for layer in layers], rows)


@dataclass(frozen=True)
class LayerTable:
    """A table with one column for each layer. If it is too wide, there is one row for each layer, in several tables.

    Attributes:
        title: title of the table.
        layers: names of the layers.
        values: quantity -> its value in each layer.
    """

    title: str
    layers: list[str]
    values: dict[str, list[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        across = zip(self.layers, *self.values.values(), strict=True)
        widths = [_LABEL_WIDTH, *(max(map(cell_len, column)) for column in across)]
        if _table_width(widths) <= options.max_width:
            yield self._by_columns()
        else:
            yield from self._by_rows(options.max_width)

    def _by_columns(self) -> Table:
        table = Table(title=self.title)
        table.add_column("", style="bold")
        for layer in self.layers:
            table.add_column(escape(layer), justify="right", no_wrap=True)
        for quantity, values in self.values.items():
            table.add_row(quantity, *values)
        return table

    def _by_rows(self, room: int) -> Iterator[Table]:
        """Put quantities side by side as long as there is room. Headings are broken between words."""
        name_width = min(max(map(cell_len, ["layer", *self.layers])), _LABEL_WIDTH)
        widths = {
            quantity: max(map(cell_len, [*quantity.split(), *values])) for quantity, values in self.values.items()
        }
        waiting = list(self.values)
        while waiting:
            shown = [waiting.pop(0)]
            while waiting and _table_width([name_width, *(widths[key] for key in (*shown, waiting[0]))]) <= room:
                shown.append(waiting.pop(0))
            table = Table(title=self.title)
            table.add_column("layer", style="bold", max_width=name_width, overflow="fold")
            for quantity in shown:
                table.add_column(escape(quantity), justify="right", max_width=widths[quantity])
            for number, layer in enumerate(self.layers):
                table.add_row(escape(layer), *(self.values[quantity][number] for quantity in shown))
            yield table


def _table_width(columns: Sequence[int]) -> int:
    """Width of a table: each column has a blank at both sides and a line behind it, and a line is before the first."""
    return 1 + sum(width + 3 for width in columns)


def disagreement_table(record: RunRecord, limit: int = 20) -> Table:
    """A table of the first images that circuit and integer network decide differently, with both decisions."""
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
