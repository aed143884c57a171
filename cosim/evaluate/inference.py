"""A whole run: sends a data set through float network, integer network and circuit, and records what it finds."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from cosim.datasets import Dataset, training_images
from cosim.errors import DatasetError
from cosim.evaluate.array_layer import ArrayLayer
from cosim.evaluate.circuit import CircuitNetwork
from cosim.evaluate.comparison import Comparison, compare_record
from cosim.evaluate.distance import Distance
from cosim.evaluate.provenance import Provenance
from cosim.evaluate.record import AuditRecord, Geometry, LayerRecord, RunRecord, Waveform
from cosim.evaluate.software import float_logits, software_logits
from cosim.evaluate.summary import summarize
from cosim.progress import progress_bar

# Images computed at a time: few enough that memory for tensors is reused (250 is measured 3 times faster than 1000).
BATCH = 250
# How many of the images that the circuit decided differently are kept in the record.
_KEPT = 64


def infer(circuit: CircuitNetwork, dataset: Dataset) -> RunRecord:
    """Classify a data set on the circuit and in software.

    The record's reads and errors are those of this data set. Its usage and seconds count from the last run on this
    circuit, or from when the circuit was made.

    Raises:
        DatasetError: there is no image.
        NetworkError: the images do not fit the network.
        SimulationError: ngspice failed; finished simulations are stored, and the next run continues from there. Or
            currents were solved, and the certificate refuses the result.
    """
    started = time.perf_counter()
    network = circuit.network
    if len(dataset) == 0:
        raise DatasetError("a run needs at least one image, found none")
    network.check_images(dataset.real(0, 1))
    prepare(circuit, dataset)
    found: list[Tensor] = []
    with progress_bar("images", len(dataset)) as advance, torch.no_grad():
        for array in circuit.arrays.values():
            array.forget_counts()
        for first in range(0, len(dataset), BATCH):
            images = dataset.real(first, first + BATCH)
            found.append(circuit(images))
            advance(len(images))
        with circuit.stopwatch("software network"):
            software = software_logits(network, dataset, circuit.source.store, BATCH)
            floating = float_logits(network, dataset, circuit.source.store, BATCH)
        audits, certificate = [], None
        if circuit.config.run.fidelity == "solved":  # solved currents do not depend on the order of reads
            certificate = circuit.certify()
        else:
            audits = circuit.audit(dataset.real(0, min(len(dataset), BATCH)))
    logits = torch.cat(found).numpy()
    disagreeing = np.flatnonzero(logits.argmax(1) != software.argmax(1))
    usage, seconds = circuit.take_usage()
    provenance = Provenance.of(
        network,
        dataset,
        circuit.config,
        circuit.source.identity,
        chip=circuit.chip_facts(),
        usage=usage,
        seconds=seconds,
        wall_seconds=time.perf_counter() - started,
    )
    return RunRecord(
        provenance=provenance,
        labels=dataset.labels.numpy(),
        logits_float=floating,
        logits_software=software,
        logits_circuit=logits,
        disagreeing=disagreeing,
        disagreeing_images=dataset.images[torch.from_numpy(disagreeing[:_KEPT])].numpy(),
        levels_shift_v=circuit.source.cell.shifts if circuit.source.cell else np.zeros(0),
        layers=[_layer_record(array) for array in circuit.arrays.values()],
        audit=_audit_record(audits),
        certificate=certificate,
        waveform=_waveform(audits),
    )


def prepare(circuit: CircuitNetwork, dataset: Dataset) -> None:
    """Give a circuit the training images that it wants to have, if it was not given any.

    Raises:
        DatasetError: the data set has no training images.
    """
    if not circuit.calibrated:
        circuit.calibrate(training_images(dataset, circuit.config.adc.calibration_images))


def _layer_record(array: ArrayLayer) -> LayerRecord:
    table, gain, offset = array.table, array.converters.gain, array.converters.offset_lsb
    groups, highest = array.plan.groups, table.converters[0].highest
    return LayerRecord(
        name=array.layer.name,
        geometry=Geometry.of(array.layer),
        tiles=array.plan.tiles,
        reads=array.reads,
        lsb_units=float(np.concatenate([converter.lsb_units for converter in table.converters]).mean()),
        highest_code=highest,
        unsettled_lsb=array.largest_unsettled_lsb,
        noise_lsb=table.noise_lsb(),
        trim_gain=float(gain.mean()) if gain.size else 1.0,
        trim_gain_spread=float(np.ptp(gain)) if gain.size else 0.0,
        trim_offset_lsb=float(offset.mean()) if offset.size else 0.0,
        beyond_registers=array.converters.beyond_registers,
        stuck_cells=array.stuck_cells(),
        replaced_bitlines=array.converters.replaced_bitlines,
        dead_bitlines=array.converters.dead_bitlines,
        tile=np.array([group.tile for group in groups]),
        first_input=np.array([group.first_input for group in groups]),
        inputs=np.array([group.inputs for group in groups]),
        summary=summarize(table.reads, len(groups), highest),
        kept=tuple(map(table.reads, range(len(groups)))) if array.chip.config.run.keep_reads else None,
    )


def compare(circuit: CircuitNetwork, images: Tensor, labels: Tensor) -> Comparison:
    """Classify images on the circuit and in software, and compare.

    Args:
        circuit: the circuit.
        images: (n, channels, height, width) with values in 0..1.
        labels: (n,) classes.
    """
    dataset = Dataset("images", images, 1, labels, digest="")
    return compare_record(infer(circuit, dataset))


def _audit_record(audits: list[Distance]) -> AuditRecord | None:
    if not audits:
        return None
    return AuditRecord(
        decks=len(audits),
        reads=sum(len(audit.found_lsb) for audit in audits),
        patterns=sum(audit.distinct_reads for audit in audits),
        max_error_lsb=max(audit.max_error_lsb for audit in audits),
        differing_codes=sum(int(audit.codes_differ.sum()) for audit in audits),
    )


def _waveform(audits: list[Distance]) -> Waveform | None:
    """The waveform of the audit whose currents move most, so that its plot shows something."""
    with_waves = [audit for audit in audits if "wave_time_s" in audit.currents.measurements]
    if not with_waves:
        return None
    audit = max(with_waves, key=lambda audit: float(np.ptp(audit.currents.measurements["wave_currents_a"])))
    found = audit.currents.measurements
    time_s, samples = found["wave_time_s"], found["sample_s"]
    shown = samples[samples <= time_s[-1] * (1 + 1e-9)]
    return Waveform(f"{audit.layer}, group {audit.group}", time_s, found["wave_currents_a"], shown)
