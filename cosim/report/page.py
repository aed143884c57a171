"""Reports a run as one self-contained HTML page, which needs neither a network nor another file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cosim.evaluate import Accuracy, Comparison, LayerComparison, RunRecord, compare_record
from cosim.evaluate.certificate import Certificate
from cosim.evaluate.provenance import Provenance
from cosim.evaluate.record import AuditRecord, LayerRecord
from cosim.files import write_whole
from cosim.report import plots, provenance, wording
from cosim.report.cautions import find_cautions
from cosim.spice import Usage

if TYPE_CHECKING:
    from jinja2 import Template

# With more classes than this, a confusion matrix is an image without numbers.
_NUMBERED_CLASSES = 20
# Only this many layers, those with the largest errors, are drawn, so that pages of large networks stay small.
_DRAWN_LAYERS = 24


def write_page(record: RunRecord, path: Path) -> None:
    """Write the page of a run.

    Args:
        record: the run.
        path: an .html file, which is replaced if it exists, or `-`.

    Raises:
        OutputError, MachineError: it cannot be written.
    """
    write_whole(path, render_page(record).encode("utf-8", "replace").decode())


def render_page(record: RunRecord) -> str:
    """The page as HTML text. Equal records give equal texts."""
    comparison = compare_record(record)
    came = record.provenance
    return _template().render(
        facts=came,
        images=comparison.images,
        ideal=came.config.run.fidelity == "ideal",
        fidelity=came.config.run.fidelity,
        verdict=_verdict(record, comparison),
        cautions=find_cautions(comparison),
        accuracies=_accuracies(comparison),
        cards=_cards(comparison),
        confusions=_confusions(record),
        layers=_layers(record, comparison),
        waveform=_waveform(record),
        threshold_plot=plots.threshold_plot(record.levels_shift_v, "levels") if len(record.levels_shift_v) else None,
        levels=len(record.levels_shift_v),
        mistakes=_mistakes(record),
        disagreements=len(record.disagreeing),
        checks=_checks(record),
        stages=provenance.stages(came),
        wall_seconds=wording.seconds(came.wall_seconds),
        settings=list(provenance.settings(came.config)),
        provenance=list(provenance.other_facts(came)),
        command=provenance.command(came),
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = wording.percent
    return environment.get_template("template.html")


def _arrays(came: Provenance) -> str:
    """Names what computed the currents of the arrays."""
    return "ideal arrays" if came.config.run.fidelity == "ideal" else "circuit"


def _verdict(record: RunRecord, comparison: Comparison) -> str:
    """One or two sentences that sum up the run, made from its numbers alone."""
    images, differing = comparison.images, len(comparison.disagreements)
    if record.provenance.config.run.fidelity == "ideal":
        subject, note = "The ideal integer array", " No circuit was simulated."
    else:
        subject = "The circuit"
        conversions = sum(layer.conversions for layer in comparison.layers)
        codes = sum(layer.differing_codes for layer in comparison.layers)
        note = f" Of its {conversions:,} codes, {wording.share(codes, conversions)} differ from an ideal array's."
    if differing == 0:
        return f"{subject} decides every one of the {images:,} images as the integer network does.{note}"
    lost, gained = (
        int(((first.argmax(1) == record.labels) & (second.argmax(1) != record.labels)).sum())
        for first, second in (
            (record.logits_software, record.logits_circuit),
            (record.logits_circuit, record.logits_software),
        )
    )
    gain = comparison.accuracy_circuit.share - comparison.accuracy_software.share
    change = f"{'falls' if gain < 0 else 'rises'} by {wording.percent(abs(gain))} points"
    outcome = "accuracy stays the same" if lost == gained else f"accuracy {change}"
    return (
        f"{subject} decides {differing:,} of {images:,} images differently from the integer network: "
        f"{wording.become(lost, 'wrong')} and {wording.become(gained, 'right')}, so {outcome}.{note}"
    )


def _accuracies(comparison: Comparison) -> list[dict[str, Any]]:
    """The three accuracies with their confidence intervals, on a common axis."""
    named: list[tuple[str, Accuracy | None]] = [
        ("float network", comparison.accuracy_float),
        ("quantized, in software", comparison.accuracy_software),
        (f"quantized, on the {_arrays(comparison.provenance)}", comparison.accuracy_circuit),
    ]
    low = min(accuracy.interval[0] for _, accuracy in named if accuracy)
    high = max(accuracy.interval[1] for _, accuracy in named if accuracy)
    span = max(high - low, 1e-9)
    return [
        {
            "name": name,
            "accuracy": accuracy,
            "from": 100 * (accuracy.interval[0] - low) / span if accuracy else 0,
            "width": 100 * (accuracy.interval[1] - accuracy.interval[0]) / span if accuracy else 0,
            "at": 100 * (accuracy.share - low) / span if accuracy else 0,
        }
        for name, accuracy in named
    ]


def _cards(comparison: Comparison) -> list[dict[str, str]]:
    """The other numbers in large print: name, value and note of each."""
    usage, images = comparison.provenance.usage or Usage(), comparison.images
    patterns = sum(layer.patterns for layer in comparison.layers)
    simulated, reused = usage.patterns_simulated, usage.patterns_reused
    differing = len(comparison.disagreements)
    cards = [
        {
            "name": "decided differently",
            "value": f"{differing:,}",
            "note": f"of {images:,} images, {wording.percent(differing / images)} %",
        },
        {
            "name": "reads needed",
            "value": f"{comparison.reads:,}",
            "note": f"of {patterns:,} distinct patterns, {comparison.reads / patterns:,.0f} reads each on average"
            if patterns
            else "no layer on an array",
        },
    ]
    if comparison.provenance.config.run.fidelity != "ideal":
        ratio = (
            f"one for {comparison.reads / simulated:,.0f} reads; "
            if 2 * simulated <= comparison.reads and simulated
            else ""
        )
        cards += [
            {
                "name": "reads simulated",
                "value": f"{simulated:,}",
                "note": f"{ratio}{reused:,} reused from the store (programming and audit included)",
            },
            {
                "name": "ngspice, CPU time",
                "value": wording.seconds(usage.ngspice_seconds),
                "note": f"{usage.decks:,} decks simulated, {usage.decks_reused:,} reused",
            },
        ]
    cards.append(
        {
            "name": "wall time",
            "value": wording.seconds(comparison.provenance.wall_seconds),
            "note": "for the whole run",
        }
    )
    return cards


def _confusions(record: RunRecord) -> list[dict[str, Any]]:
    """Confusion matrices (truth, decision) of software and circuit, in this order."""
    classes = max(record.logits_circuit.shape[1], int(record.labels.max()) + 1)
    made = []
    for key, name, logits in (
        ("software", "integer network", record.logits_software),
        ("circuit", _arrays(record.provenance), record.logits_circuit),
    ):
        flat = np.bincount(record.labels * classes + logits.argmax(1), minlength=classes**2)
        counts = flat.reshape(classes, classes)
        wrong = counts * (1 - np.eye(classes, dtype=int))
        numbered = classes <= _NUMBERED_CLASSES
        made.append(
            {
                "name": name,
                "wrong": int(wrong.sum()),
                "rows": counts.tolist() if numbered else None,
                "largest_right": max(1, int(np.diagonal(counts).max())),
                "largest_wrong": max(1, int(wrong.max())),
                "note": _confusion_note(classes),
                "plot": None if numbered else plots.confusion_image(counts, f"confusion-{key}"),
            }
        )
    return made


def _confusion_note(classes: int) -> str:
    block = plots.confusion_block(classes)
    pixel = "" if block == 1 else f" A pixel is a block of {block} by {block} classes."
    return f"Stronger colour: more images (logarithmic).{pixel}"


def _layers(record: RunRecord, comparison: Comparison) -> list[dict[str, Any]]:
    """The figures of every layer, with plots of the layers with the largest rms errors."""
    by_error = np.argsort([-layer.error_rms_lsb for layer in comparison.layers], kind="stable")
    drawn = set(by_error[:_DRAWN_LAYERS].tolist())
    made = []
    for number, (layer, figures) in enumerate(zip(record.layers, comparison.layers, strict=True)):
        remark, drawings = "", []
        if figures.error_max_lsb == 0:
            remark = "Every current equals the ideal one: there is no error to draw."
        elif number not in drawn:
            remark = f"Not drawn: the page draws the {_DRAWN_LAYERS} layers with the largest rms errors."
        else:
            drawings = _layer_plots(layer, number)
        statistics = _statistics(figures)
        made.append({"name": figures.name, "statistics": statistics, "remark": remark, "plots": drawings})
    return made


def _statistics(layer: LayerComparison) -> list[tuple[str, str]]:
    rows = [
        ("tiles", f"{layer.tiles:,}"),
        ("groups", f"{layer.groups:,}"),
        ("reads", f"{layer.reads:,}"),
        ("patterns", f"{layer.patterns:,}"),
        ("codes", f"{layer.conversions:,}"),
        ("codes differing", wording.share(layer.differing_codes, layer.conversions)),
        ("error, mean", f"{wording.number(layer.error_mean_lsb, '+.3g')} LSB"),
        ("error, rms", f"{wording.number(layer.error_rms_lsb, '.3g')} LSB"),
        ("error, largest", f"{wording.number(layer.error_max_lsb, '.3g')} LSB"),
        ("correlation", wording.if_known(layer.correlation, ".7f")),
        ("unsettled, at most", f"{wording.number(layer.unsettled_lsb, '.2g')} LSB"),
    ]
    if layer.clipped_codes:
        rows.append(("codes clipped", wording.share(layer.clipped_codes, layer.conversions)))
    if layer.noise_lsb:
        rows.append(("noise of a read, rms", f"{layer.noise_lsb:.3g} LSB"))
    rows += [(name, f"{count:,}") for name, count in layer.defects.items() if count]
    if layer.trimmed:
        rows.append(("trimmed gain", f"{layer.trim_gain:.4f}, spread {layer.trim_gain_spread:.2g}"))
        rows.append(("trimmed offset", f"{wording.number(layer.trim_offset_lsb, '+.2g')} LSB"))
    return rows


def _layer_plots(layer: LayerRecord, number: int) -> list[dict[str, str]]:
    densities = layer.summary.densities
    return [
        {
            "title": "Current error",
            "plot": plots.error_histogram(densities, f"histogram-{number}"),
            "note": "Every conversion of every read counts, the reference columns' too. "
            "Dashed, where in range: half a code.",
        },
        {
            "title": "Circuit against ideal",
            "plot": plots.current_density(densities, f"currents-{number}"),
            "note": "Dashed: equal. Stronger colour: more reads (logarithmic).",
        },
        {
            "title": "Error over the scale",
            "plot": plots.error_density(densities, f"errors-{number}"),
            "note": "A curve is systematic, as a wire's voltage drop is; a cloud depends on the pattern.",
        },
    ]


def _waveform(record: RunRecord) -> dict[str, str] | None:
    if record.waveform is None or len(record.waveform.time_s) < 2:
        return None
    reference = record.provenance.config.array.encoding == "offset"
    return {
        "title": record.waveform.title,
        "wide": plots.waveform_plot(record.waveform, "wave-wide", reference=reference, wide=True),
        "narrow": plots.waveform_plot(record.waveform, "wave-narrow", reference=reference, wide=False),
    }


def _mistakes(record: RunRecord) -> list[dict[str, Any]]:
    """The images that circuit and software decide differently, as far as the record keeps them."""
    images = record.disagreeing_images
    full_scale = record.provenance.image_full_scale
    decisions = zip(record.disagreeing.tolist(), images, strict=False)
    return [
        {
            "index": index,
            "picture": plots.thumbnail(image, full_scale),
            "label": int(record.labels[index]),
            "software": int(record.logits_software[index].argmax()),
            "circuit": int(record.logits_circuit[index].argmax()),
        }
        for index, image in decisions
    ]


def _checks(record: RunRecord) -> list[dict[str, str]]:
    """How the pattern tables were checked: a heading, the findings, and what they mean."""
    if record.provenance.config.run.fidelity == "solved":
        return [_certificate(record.certificate)]
    if record.audit is None:
        found = "No audit: no circuit was simulated, so there is no pattern table to check."
    else:
        found = _audit(record.audit)
    note = (
        "A pattern is simulated once and looked up for every read of it. That is exact for reads that settle and keep "
        "no memory, which the audit checks on every run."
    )
    return [{"name": "Audit", "found": found, "note": note}]


def _certificate(certificate: Certificate | None) -> dict[str, str]:
    if certificate is None:
        found = "None: no read of the array solver was compared with the circuit simulator (run.certificate_reads)."
    else:
        codes = "none of their codes differs"
        if certificate.codes_differing:
            codes = f"{certificate.codes_differing:,} of their codes differ"
        found = (
            f"{certificate.reads:,} reads drawn from those the images caused, each as likely as it is often, were "
            f"simulated as transients in the full deck of their group. The array solver is off by "
            f"{wording.number(certificate.max_error_lsb, '.2g')} LSB at most and "
            f"{wording.number(certificate.rms_error_lsb, '.2g')} LSB rms; {codes}. With 99.9 % confidence at most "
            f"{wording.percent(certificate.share)} % of all reads are farther off. Of {certificate.adverse_reads:,} "
            f"adverse reads (every input at once, the far end, the heaviest load) the largest distance is "
            f"{wording.number(certificate.adverse_max_error_lsb, '.2g')} LSB; the least settled current still moved by "
            f"{wording.number(certificate.unsettled_lsb, '.2g')} LSB. The worst read of all is "
            f"{certificate.read} on group {certificate.group} of layer {certificate.layer}."
        )
    note = (
        "The array solver gives settled currents without a circuit simulator; the certificate checks it on every run."
    )
    return {"name": "Certificate", "found": found, "note": note}


def _audit(audit: AuditRecord) -> str:
    found = (
        "none of their codes differs"
        if audit.differing_codes == 0
        else f"{audit.differing_codes:,} of their codes differ"
    )
    return (
        f"{audit.reads:,} reads in {audit.decks:,} decks were simulated again in the order the images cause them. "
        f"Against the pattern tables {found}; the largest distance of a current is {audit.max_error_lsb:.2g} LSB."
    )
