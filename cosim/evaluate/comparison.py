"""Compares circuit and software in numbers, from the record of a run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from cosim.evaluate.certificate import Certificate
from cosim.evaluate.provenance import Provenance
from cosim.evaluate.record import LayerRecord, RunRecord
from cosim.spice import Usage


@dataclass(frozen=True)
class Accuracy:
    """Share of images that are classified correctly, with its 95 % Wilson confidence interval."""

    correct: int
    images: int

    @property
    def share(self) -> float:
        return self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the confidence interval.

        The formula is written out because importing `scipy.stats` would slow every command down by half a second.

        Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
        """
        z, n, share = NormalDist().inv_cdf(0.975), self.images, self.share
        middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
        return max(middle - half, 0.0), min(middle + half, 1.0)


@dataclass(frozen=True)
class LayerComparison:
    """A layer's reads on the circuit, compared with those of ideal arrays. Errors count every read, not every pattern.

    Attributes:
        name: name of the layer.
        tiles: number of arrays used.
        groups: number of groups of wordlines.
        reads: reads of groups that the images need.
        patterns: distinct reads, summed over all groups.
        conversions: bitline codes of these reads, reference columns included.
        differing_codes: conversions whose code differs from that of an ideal array behind converters without errors.
        clipped_codes: conversions that lose their code because the current is beyond either end of the range.
        error_mean_lsb: mean error of the unrounded positions [LSB], from cells, wires, sense stages, and offset and
            gain of the converters.
        error_rms_lsb: root mean square of this error [LSB].
        error_max_lsb: its largest absolute value [LSB].
        correlation: correlation of circuit and ideal currents (Pearson), or None if one of them does not vary.
        unsettled_lsb: largest movement of a current in the second half of its pulse [LSB].
        lsb_units: width of a code in unit currents.
        noise_lsb: root mean square of the noise of a read [LSB]; the counts and errors above are without noise.
        trim_gain: mean of the gains that trimming corrected.
        trim_gain_spread: largest less smallest of these gains.
        trim_offset_lsb: mean of the offsets that trimming corrected [LSB].
        beyond_registers: number of bitlines that need a correction which no register reaches.
        stuck_cells: number of cells in the layer's groups that are stuck.
        replaced_bitlines: number of dead bitlines that spare ones replace.
        dead_bitlines: number of bitlines that are dead and have no spare.
    """

    name: str
    tiles: int
    groups: int
    reads: int
    patterns: int
    conversions: int
    differing_codes: int
    clipped_codes: int
    error_mean_lsb: float
    error_rms_lsb: float
    error_max_lsb: float
    correlation: float | None
    unsettled_lsb: float
    lsb_units: float
    noise_lsb: float
    trim_gain: float
    trim_gain_spread: float
    trim_offset_lsb: float
    beyond_registers: int
    stuck_cells: int
    replaced_bitlines: int
    dead_bitlines: int

    @property
    def defects(self) -> dict[str, int]:
        """How much of what does not work there is, by name."""
        return {
            "cells stuck": self.stuck_cells,
            "bitlines replaced by spares": self.replaced_bitlines,
            "bitlines dead": self.dead_bitlines,
        }

    @property
    def trimmed(self) -> bool:
        return (self.trim_gain, self.trim_gain_spread, self.trim_offset_lsb) != (1, 0, 0)


@dataclass(frozen=True)
class Comparison:
    """The comparison of circuit and software over a run.

    Attributes:
        images: number of images.
        accuracy_float: accuracy of the float network, or None without float weights.
        accuracy_software: accuracy of the integer network.
        accuracy_circuit: accuracy of the circuit.
        disagreements: numbers of the images that circuit and integer network decide differently.
        layers: comparison of each layer on arrays.
        provenance: how the run came about.
        audit_max_error_lsb: largest error that the audit found [LSB], or None without an audit.
        audit_differing_codes: number of differing codes that the audit found, or None without an audit.
        certificate: the certificate, or None if there is none.
    """

    images: int
    accuracy_float: Accuracy | None
    accuracy_software: Accuracy
    accuracy_circuit: Accuracy
    disagreements: tuple[int, ...]
    layers: tuple[LayerComparison, ...]
    provenance: Provenance
    audit_max_error_lsb: float | None
    audit_differing_codes: int | None
    certificate: Certificate | None

    @property
    def reads(self) -> int:
        return sum(layer.reads for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values; docs/formats/json.md describes the keys."""
        usage, certificate = self.provenance.usage or Usage(), self.certificate
        return {
            "images": self.images,
            "accuracy_float": self.accuracy_float.share if self.accuracy_float else None,
            "accuracy_software": self.accuracy_software.share,
            "accuracy_circuit": self.accuracy_circuit.share,
            "accuracy_circuit_interval": list(self.accuracy_circuit.interval),
            "disagreements": len(self.disagreements),
            "disagreeing_images": list(self.disagreements),
            "reads": self.reads,
            "patterns_simulated": usage.patterns_simulated,
            "patterns_reused": usage.patterns_reused,
            "decks": usage.decks,
            "decks_reused": usage.decks_reused,
            "decks_retried": usage.retried,
            "ngspice_seconds": usage.ngspice_seconds,
            "wall_seconds": self.provenance.wall_seconds,
            "audit_max_error_lsb": self.audit_max_error_lsb,
            "audit_differing_codes": self.audit_differing_codes,
            "certificate_reads": certificate.reads if certificate else None,
            "certificate_max_error_lsb": certificate.max_error_lsb if certificate else None,
            "certificate_codes_differing": certificate.codes_differing if certificate else None,
            "certificate_share": certificate.share if certificate else None,
            "layers": [asdict(layer) for layer in self.layers],
        }


def compare_record(record: RunRecord) -> Comparison:
    """Compare circuit and software in a run's record."""

    def accuracy(logits: np.ndarray) -> Accuracy:
        return Accuracy(int((logits.argmax(1) == record.labels).sum()), len(record.labels))

    return Comparison(
        images=len(record.labels),
        accuracy_float=None if record.logits_float is None else accuracy(record.logits_float),
        accuracy_software=accuracy(record.logits_software),
        accuracy_circuit=accuracy(record.logits_circuit),
        disagreements=tuple(record.disagreeing.tolist()),
        layers=tuple(_compare_layer(layer) for layer in record.layers),
        provenance=record.provenance,
        audit_max_error_lsb=record.audit.max_error_lsb if record.audit else None,
        audit_differing_codes=record.audit.differing_codes if record.audit else None,
        certificate=record.certificate,
    )


def _compare_layer(layer: LayerRecord) -> LayerComparison:
    """Combine the statistics of a layer's groups."""
    groups = layer.summary.groups
    conversions = int(groups.conversions.sum())
    return LayerComparison(
        name=layer.name,
        tiles=layer.tiles,
        groups=len(groups.reads),
        reads=layer.reads,
        patterns=int(groups.patterns.sum()),
        conversions=conversions,
        differing_codes=int(groups.differing_codes.sum()),
        clipped_codes=int(groups.clipped_codes.sum()),
        error_mean_lsb=float(groups.conversions @ groups.error_mean_lsb / conversions),
        error_rms_lsb=float(np.sqrt(groups.conversions @ groups.error_rms_lsb**2 / conversions)),
        error_max_lsb=float(groups.error_max_lsb.max()),
        correlation=layer.summary.correlation,
        unsettled_lsb=layer.unsettled_lsb,
        lsb_units=layer.lsb_units,
        noise_lsb=layer.noise_lsb,
        trim_gain=layer.trim_gain,
        trim_gain_spread=layer.trim_gain_spread,
        trim_offset_lsb=layer.trim_offset_lsb,
        beyond_registers=layer.beyond_registers,
        stuck_cells=layer.stuck_cells,
        replaced_bitlines=layer.replaced_bitlines,
        dead_bitlines=layer.dead_bitlines,
    )
