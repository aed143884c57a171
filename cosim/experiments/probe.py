"""Takes one output value of a layer apart: the reads that it is made of, their cells, and the value in software."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cosim.config import Config
from cosim.currents import SpiceSource, transients_of
from cosim.datasets import Dataset
from cosim.errors import ConfigError, DatasetError, NetworkError, nearest
from cosim.evaluate.array_layer import ArrayLayer
from cosim.evaluate.circuit import CircuitNetwork
from cosim.evaluate.inference import prepare
from cosim.evaluate.netlists import deck_name
from cosim.evaluate.provenance import Provenance
from cosim.netlist import Deck
from cosim.network import LayerSpec, Network, integer_mvm
from cosim.network.layers import IMAGES
from cosim.readout import ideal_sums


@dataclass(frozen=True, eq=False)
class ProbedRead:
    """One read of the group of wordlines that holds a chunk of the kernel: of a bit plane, or by amplitudes.

    Arrays are (slices + 1,): the bitlines of the output, most significant first, and the reference column.

    Attributes:
        group: number of the group in the layer's plan.
        tile: number of its tile.
        first_wordline: its first wordline on the tile.
        rows: start and stop of its rows in the unrolled kernel.
        bit: the bit plane, which counts 2^bit; 0 for amplitudes.
        pattern: the pattern on the group's wordlines.
        amplitudes: (inputs,) integer amplitudes of an amplitude read, else None.
        deck: name of the deck that holds the read, as `cosim netlist` calls it. It is None if groups are too large to
            list all their patterns, and for amplitude reads, which combine several decks.
        identity: identity of that deck, or None.
        currents_a: settled currents [A].
        transient_a: currents sampled in the transient of the waveform [A].
        lsb: positions in codes, without noise.
        codes: codes of the converters, noise included.
        ideal_codes: codes of an ideal array.
        partial_sum: the output's partial sum in unit currents, as it goes into the layer's sum.
    """

    group: int
    tile: int
    first_wordline: int
    rows: tuple[int, int]
    bit: int
    pattern: int
    amplitudes: np.ndarray | None
    deck: str | None
    identity: str | None
    currents_a: np.ndarray
    transient_a: np.ndarray
    lsb: np.ndarray
    codes: np.ndarray
    ideal_codes: np.ndarray
    partial_sum: float


@dataclass(frozen=True, eq=False)
class ProbedWave:
    """The transient of a group's reads of the output, most significant bit plane first.

    Attributes:
        group: number of the group.
        name: name of the deck.
        deck: the deck that gave the transient.
        bitlines: (slices + 1,) numbers of the bitlines, the last of which is the reference column.
        time_s: (points,) times [s].
        currents_a: (points, slices + 1) currents [A].
        sample_s: (reads,) times at which reads are sampled [s].
        edge_s: (reads,) times at which the wordlines begin to move [s].
        states: (reads, wordlines) of 0 and 1, or shares of the voltage for amplitude reads.
    """

    group: int
    name: str
    deck: Deck
    bitlines: tuple[int, ...]
    time_s: np.ndarray
    currents_a: np.ndarray
    sample_s: np.ndarray
    edge_s: np.ndarray
    states: np.ndarray


@dataclass(frozen=True, eq=False)
class Probe:
    """The chain from the image to one output value.

    Attributes:
        provenance: network, data set, configuration, versions.
        image: number of the image.
        label: class of the image.
        layer: name of the layer.
        at: row and column of the output.
        channel: channel of the output.
        activation_bits: bits of the layer's inputs.
        image_patch: (channels, kernel height, kernel width) part of the image, 0..1, or None after the first layer.
        activations: the unsigned integer inputs of the output, in the shape of the kernel.
        weights: the signed integer weights of the kernel, of the same shape.
        reads: the reads, by chunk of the kernel and bit plane.
        waves: the transients, one for each group.
        layer_sum: the layer's sum on the circuit.
        exact_sum: the sum of the same activations in exact integers.
        software_sum: the sum of the activations that the integer network has there.
        output: real value on the circuit after scale and bias.
        software_output: real value in the integer network after scale and bias.
        logits: (classes,) logits of the image on the circuit.
        software_logits: (classes,) logits of the image in the integer network.
    """

    provenance: Provenance
    image: int
    label: int
    layer: str
    at: tuple[int, int]
    channel: int
    activation_bits: int
    image_patch: np.ndarray | None
    activations: np.ndarray
    weights: np.ndarray
    reads: tuple[ProbedRead, ...]
    waves: tuple[ProbedWave, ...]
    layer_sum: float
    exact_sum: float
    software_sum: float
    output: float
    software_output: float
    logits: np.ndarray
    software_logits: np.ndarray

    def reads_of(self, wave: ProbedWave) -> list[ProbedRead]:
        """The reads of a transient in the order of the transient, most significant bit plane first."""
        return sorted((read for read in self.reads if read.group == wave.group), key=lambda read: -read.bit)


def probe(
    network: Network,
    dataset: Dataset,
    config: Config | None = None,
    *,
    image: int,
    layer: str,
    at: tuple[int, int],
    channel: int,
    store: str | Path | None = None,
) -> Probe:
    """Take one output value of an array layer apart.

    Args:
        network: the quantized network.
        dataset: the images of the run.
        config: the configuration; None for the default one.
        image: number of the image, counted from 0.
        layer: name of the layer.
        at: row and column of the output.
        channel: channel of the output.
        store: directory of simulation results; None for $COSIM_STORE or the user's cache directory.

    Raises:
        DatasetError, ConfigError, NetworkError: there is no such image, layer on arrays, place or channel.
        CardError, MachineError, SimulationError: as `CircuitNetwork` raises them.
    """
    config = config or Config()
    if config.run.fidelity == "ideal":
        raise ConfigError('run.fidelity = "ideal" has no waveforms to probe: choose "solved", "dc" or "tran"')
    for key, found, expected in (
        ("array.encoding", config.array.encoding, ("offset",)),
        ("read.mode", config.read.mode, ("bit-serial", "amplitude")),
    ):
        if found not in expected:
            raise ConfigError(
                f'a probe shows {" and ".join(expected)} reads only, found {key} = "{found}": set it to "{expected[0]}"'
            )
    if not 0 <= image < len(dataset):
        raise DatasetError(f"{dataset.name} has images 0..{len(dataset) - 1} here, found {image}: choose one of these")
    started = time.perf_counter()
    circuit = CircuitNetwork(network, config, store=store)
    if layer not in circuit.arrays:
        raise ConfigError(f"no layer {layer!r} is on arrays: {nearest(layer, circuit.arrays)}")
    prepare(circuit, dataset)
    shown = dataset.real(image, image + 1)
    logits = circuit(shown)
    array, spec = circuit.arrays[layer], circuit.arrays[layer].layer
    activations = circuit.activations(shown, layer)
    sums = array.recall(activations)
    _check_place(spec, tuple(sums.shape[1:]), at, channel)
    met, software_logits = _software(network, shown, layer)
    software_sum = integer_mvm(spec, met)
    place = (0, channel, *at)
    transients = transients_of(circuit.source)
    decks = circuit.source if isinstance(circuit.source, SpiceSource) else transients
    reads, in_order = _reads(array, decks, activations, at, channel)
    waves, sampled = _waves(array, transients, in_order, channel)
    usage, seconds = circuit.take_usage()
    step = next(step for step in network.steps if step.name == layer)
    padded = F.pad(shown, (spec.padding[1],) * 2 + (spec.padding[0],) * 2)
    return Probe(
        provenance=Provenance.of(
            network,
            dataset,
            config,
            circuit.source.identity,
            chip=circuit.chip_facts(),
            usage=usage,
            seconds=seconds,
            wall_seconds=time.perf_counter() - started,
        ),
        image=image,
        label=int(dataset.labels[image]),
        layer=layer,
        at=at,
        channel=channel,
        activation_bits=spec.activation_bits,
        image_patch=_patch(spec, padded, at, channel) if step.inputs == (IMAGES,) else None,
        activations=_patch(spec, activations, at, channel).astype(int),
        weights=spec.weight[channel].numpy().astype(int),
        reads=tuple(ProbedRead(**read, transient_a=sampled[read["group"], read["bit"]]) for read in reads),
        waves=waves,
        layer_sum=float(sums[place]),
        exact_sum=float(F.conv2d(activations, spec.weight.float(), **spec.geometry())[place]),
        software_sum=float(software_sum[place]),
        output=_output(spec, circuit.rescaling[layer].scale_output(sums), place),
        software_output=_output(spec, spec.scale_output(software_sum), place),
        logits=logits[0].numpy(),
        software_logits=software_logits,
    )


def _check_place(spec: LayerSpec, shape: tuple[int, ...], at: tuple[int, int], channel: int) -> None:
    outputs, height, width = shape
    if not 0 <= channel < outputs:
        raise NetworkError(f"layer {spec.name!r} has output channels 0..{outputs - 1}, found {channel}")
    if not (0 <= at[0] < height and 0 <= at[1] < width):
        raise NetworkError(
            f"outputs of layer {spec.name!r} lie at rows 0..{height - 1} and columns 0..{width - 1}, found "
            f"{at[0]},{at[1]}"
        )


def _software(network: Network, images: Tensor, name: str) -> tuple[Tensor, np.ndarray]:
    """A layer's integer activations in the integer network, and the network's logits."""
    caught: list[Tensor] = []

    def mvm(layer: LayerSpec, activations: Tensor) -> Tensor:
        if layer.name == name:
            caught.append(activations)
        return integer_mvm(layer, activations)

    with torch.no_grad():
        logits = network(images, mvm)
    return caught[0], logits[0].numpy()


def _patch(spec: LayerSpec, padded: Tensor, at: tuple[int, int], channel: int) -> np.ndarray:
    """The part (channels, kernel height, kernel width) of padded inputs (1, inputs, h, w) that an output sees."""
    depth = spec.weight.shape[1]
    first = channel // (spec.outputs // spec.groups) * depth
    spans = [
        slice(place * stride, place * stride + (size - 1) * dilation + 1, dilation)
        for place, stride, size, dilation in zip(at, spec.stride, spec.weight.shape[2:], spec.dilation, strict=True)
    ]
    return padded[0, first : first + depth, spans[0], spans[1]].numpy()


def _output(spec: LayerSpec, output: Tensor, place: tuple[int, ...]) -> float:
    return float(output[place[:2]] if spec.kind == "linear" else output[place])


def _columns(array: ArrayLayer, index: int, channel: int) -> list[int]:
    """Bitlines of an output on a group, most significant slice first, and the reference column."""
    group, slices = array.plan.groups[index], len(array.plan.places)
    first = (channel - group.outputs[0]) * slices
    return [*range(first, first + slices), group.units.shape[1] - 1]


def _reads(
    array: ArrayLayer, decks: SpiceSource, activations: Tensor, at: tuple[int, int], channel: int
) -> tuple[list[dict[str, Any]], dict[int, np.ndarray]]:
    """Look up every read of an output in the tables.

    Returns:
        the attributes of each ProbedRead; and by group, the states of its inputs, most significant bit plane first.
    """
    plan, table, scheme = array.plan, array.table, array.scheme
    patterns = scheme.reads(plan, activations)
    reads, in_order = [], {}
    for index, codes in table.codes(patterns):
        group, converter = plan.groups[index], table.converter(index)
        if not group.outputs[0] <= channel < group.outputs[1]:
            continue
        columns, here = _columns(array, index, channel), patterns[0, at[0], at[1], group.stream].numpy()
        in_order[index], terms, weights = scheme.in_order(here[:, None], partial(table.drive, index))
        drive = in_order[index][::-1]
        lsb = np.tensordot(weights, table.lookup(index, terms[::-1].T), 1)
        read_codes = codes[0, :, at[0], at[1]]
        sums = table.partial_sums(group, read_codes * converter.lsb_units)[:, channel - group.outputs[0]]
        ideal_codes = replace(converter, weights=None).codes(converter.ideal_lsb(ideal_sums(group, drive)))
        mixed = scheme.mode == "amplitude"
        for bit, states in enumerate(drive):
            pattern = int((states > 0) @ (1 << np.arange(group.inputs)))
            name, identity = (None, None) if mixed else _deck_of(array, decks, index, pattern)
            reads.append(
                {
                    "group": index,
                    "tile": group.tile,
                    "first_wordline": group.first_input,
                    "rows": group.rows,
                    "bit": bit,
                    "pattern": pattern,
                    "amplitudes": np.rint(scheme.amplitudes * states).astype(int) if mixed else None,
                    "deck": name,
                    "identity": identity,
                    "currents_a": converter.currents(lsb[bit])[columns],
                    "lsb": lsb[bit, columns],
                    "codes": read_codes[bit, columns].astype(int),
                    "ideal_codes": ideal_codes[bit, columns],
                    "partial_sum": float(sums[bit]),
                }
            )
    return reads, in_order


def _deck_of(array: ArrayLayer, decks: SpiceSource, index: int, pattern: int) -> tuple[str | None, str | None]:
    """Name and identity of the deck that answers a pattern, or None unless decks hold whole blocks of patterns."""
    if not array.scheme.listed:
        return None, None
    inputs = array.plan.groups[index].inputs
    (patterns,) = decks.batches(np.array([pattern]), inputs)
    deck = decks.deck(array.reader.request(index, array.scheme.drive(patterns, inputs)))
    return deck_name(array, index, pattern // len(patterns)), deck.identity(decks.identity)


def _waves(
    array: ArrayLayer, source: SpiceSource, in_order: dict[int, np.ndarray], channel: int
) -> tuple[tuple[ProbedWave, ...], dict[tuple[int, int], np.ndarray]]:
    """The transient of each group's reads, and the currents sampled in it, by (group, bit plane)."""
    requests = [array.reader.request(index, drive, careful=True) for index, drive in in_order.items()]
    waves, sampled = [], {}
    for index, request, found in zip(in_order, requests, source.currents(requests, "probe"), strict=True):
        columns, samples = _columns(array, index, channel), found.measurements["sample_s"]
        for number, currents in enumerate(found.currents):
            sampled[index, len(samples) - 1 - number] = currents[columns]
        waves.append(
            ProbedWave(
                group=index,
                name=deck_name(array, index, "probe"),
                deck=source.deck(request),
                bitlines=tuple(columns),
                time_s=found.measurements["wave_time_s"],
                currents_a=found.measurements["wave_currents_a"][:, columns],
                sample_s=samples,
                edge_s=samples - source.config.read.pulse_s,
                states=request.drive,
            )
        )
    return tuple(waves), sampled
