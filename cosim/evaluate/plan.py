"""Plans a run before it starts: counts tiles, reads and decks, and estimates time, memory and disk space.

Counts of patterns are upper bounds, since the images decide which patterns occur. Seconds were measured on one machine
and are good to a factor of two. Sense stages of transistors, and source lines with resistance, make decks up to ten
times slower than estimated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from cosim.config import Config, Fidelity
from cosim.errors import ConfigError, MachineError, NetworkError
from cosim.evaluate.circuit import chosen_layers
from cosim.evaluate.inference import BATCH
from cosim.mapping import ENUMERATED_INPUTS, ReadScheme, TilePlan, plan_tiles
from cosim.network import LayerSpec, Network, integer_mvm

# Measured 2026-11-21 on one of two cores beside other work, torch 2.13.0, ngspice-39; docs/performance.md, "Estimates".
CELL_READ_S: dict[Fidelity, float] = {"ideal": 0.0, "solved": 0.004e-6, "dc": 4.4e-6, "tran": 12e-6}
# For reads of a certificate, which follow every edge.
CAREFUL_CELL_READ_S = 26e-6
START_S: dict[Fidelity, float] = {"ideal": 2.0, "solved": 3.0, "dc": 3.0, "tran": 3.0}
# Patterns are made and counted for each stream, plane and output pixel, and looked up once for each block of outputs.
PATTERN_S = 10e-9
LOOKUP_S = 5e-9
LOOKUP_OUTPUTS = 64
# For the integer network and for the float network.
MULTIPLICATION_S = 0.1e-9
# The process with torch and the tensors of a step; then a table's bytes for each pattern and line, for each pattern and
# output, and for each pattern.
PROCESS_BYTES = 400 << 20
LINE_BYTES, PARTIAL_SUM_BYTES, PATTERN_BYTES = 4, 4, 17
# The unit currents of a cell, and its threshold shift if cells differ.
CELL_BYTES = 10
# Real activations of a layer in float64, integer ones and sums in float32, and words of fixed point.
ACTIVATION_BYTES = 24
# A stored current, and the rest of a deck's file.
CURRENT_BYTES, DECK_BYTES = 8, 2048
# A hint may ask for at most this share of a tile's lines in addition.
_FEW_LINES = 1 / 8
_LONG_S = 600.0
_SOURCED: tuple[Fidelity, ...] = ("dc", "tran")
FIDELITIES: tuple[Fidelity, ...] = get_args(Fidelity)


@dataclass(frozen=True)
class Estimate:
    """What a run takes at most.

    Attributes:
        seconds: wall time [s].
        memory_bytes: memory.
        disk_bytes: how much the store grows.
    """

    seconds: float
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class LayerPlan:
    """What a layer on arrays takes.

    Attributes:
        name: name of the layer.
        kernel: (outputs, inputs / groups, height, width), the shape of its weights.
        size: (height, width) of an output channel.
        tiles: number of tiles.
        groups: number of groups of wordlines.
        blocks: into how many blocks, on tiles side by side, the outputs are divided.
        open_inputs: inputs of the largest group.
        cells_used: cells of the tiles that hold a weight or the reference.
        cells_there: all cells of the tiles.
        reads_an_image: reads of groups for one image.
        patterns: distinct reads of all groups, at most.
        decks: decks that a circuit simulator needs for these patterns.
        grows: whether the table holds only patterns that images cause, instead of every pattern.
        table_bytes: size of the pattern table, at most.
        cell_reads: cells of a group times its patterns, summed over groups; the time of a source is proportional to it.
        stored_bytes: size of the decks' results in the store.
        lookups: lookups of patterns for all images.
        rows: rows of partial sums, each for one block of outputs, that are added for all images.
    """

    name: str
    kernel: tuple[int, ...]
    size: tuple[int, int]
    tiles: int
    groups: int
    blocks: int
    open_inputs: int
    cells_used: int
    cells_there: int
    reads_an_image: int
    patterns: int
    decks: int
    grows: bool
    table_bytes: int
    cell_reads: int
    stored_bytes: int
    lookups: int
    rows: int

    @property
    def utilization(self) -> float:
        """Share of the tiles' cells that hold a weight or the reference."""
        return self.cells_used / self.cells_there


@dataclass(frozen=True)
class RunPlan:
    """What a run will take.

    Attributes:
        network: the network.
        config: the configuration.
        images: number of images.
        cores: number of processor cores.
        layers: the layers on arrays.
        software: names of the other layers.
        multiplications: multiplications for one image, in all layers.
        activation_bytes: memory for the activations of the widest layer, for the images computed at a time.
        tile_hints: sentences that say what would make better use of tiles, or keep tables small.
    """

    network: Network
    config: Config
    images: int
    cores: int
    layers: tuple[LayerPlan, ...]
    software: tuple[str, ...]
    multiplications: int
    activation_bytes: int
    tile_hints: tuple[str, ...]

    @property
    def fidelity(self) -> Fidelity:
        return self.config.run.fidelity

    @property
    def memory_bytes(self) -> int:
        """Memory that the run takes at most. Tables that grow with the images rarely come close to their bound."""
        return self._memory_bytes(self.layers)

    @property
    def hints(self) -> tuple[str, ...]:
        """Sentences that say what would make the run cheaper, or make better use of the tiles."""
        slow, solved = self.estimate(self.fidelity).seconds, self.estimate("solved").seconds
        if slow < _LONG_S or solved > slow / 2:
            return self.tile_hints
        quicker = f"With run.fidelity=solved it takes about 1/{slow / solved:.0f} of the time: settled currents only."
        return (*self.tile_hints, quicker)

    def estimate(self, fidelity: Fidelity) -> Estimate:
        """What the run takes at the given fidelity if the store is empty."""
        simulated = CELL_READ_S[fidelity] * sum(layer.cell_reads for layer in self.layers)
        tensors = sum(PATTERN_S * layer.lookups + LOOKUP_S * layer.rows for layer in self.layers)
        networks = 1 + (self.network.float_weights is not None)
        software = networks * self.images * self.multiplications * MULTIPLICATION_S
        if fidelity == "solved":
            simulated += self._certificate_s / self.cores
        elif fidelity in _SOURCED:
            simulated /= self.cores
        seconds = START_S[fidelity] + simulated + tensors + software
        disk = sum(layer.stored_bytes for layer in self.layers) if fidelity in _SOURCED else 0
        return Estimate(seconds, self.memory_bytes, disk)

    @property
    def _certificate_s(self) -> float:
        """Seconds that one core needs for the certificate of a solved result."""
        reads = sum(layer.reads_an_image for layer in self.layers)
        cells = sum(layer.reads_an_image * layer.cells_used / layer.groups for layer in self.layers)
        drawn = min(self.config.run.certificate_reads, sum(layer.patterns for layer in self.layers))
        return CAREFUL_CELL_READ_S * drawn * cells / reads

    def check_memory(self, available_bytes: int | None = None) -> None:
        """Refuse a run that will not fit into memory. Tables that grow with the images are left out of account.

        Args:
            available_bytes: memory that is available; None for what is free on this machine.

        Raises:
            MachineError: the run does not fit; the message says what would.
        """
        available = free_memory() if available_bytes is None else available_bytes
        needed = self._memory_bytes([layer for layer in self.layers if not layer.grows])
        if needed <= available:
            return
        largest = max(self.layers, key=lambda layer: layer.table_bytes)
        remedies = [text for text in (self._fewer_wordlines(available), self._fewer_layers(available)) if text]
        remedy = ", or ".join(remedies) or "take a machine with more memory"
        raise MachineError(
            f"network {self.network.name!r} on these arrays would take {size_in_words(needed)} of memory, expected "
            f"at most the {size_in_words(available)} that are free (its largest table, of layer {largest.name!r}, "
            f"{size_in_words(largest.table_bytes)}): {remedy}"
        )

    def _memory_bytes(self, layers: Iterable[LayerPlan]) -> int:
        held = sum(layer.table_bytes + CELL_BYTES * layer.cells_there for layer in layers)
        return PROCESS_BYTES + self.activation_bytes + held

    def _fewer_wordlines(self, available: int) -> str | None:
        """Advice on how many wordlines to open such that the run fits, or None if no number does."""
        opened = self.config.array.open_wordlines
        for fewer in range(min(opened - 1, ENUMERATED_INPUTS), 0, -1):
            plan = self._with({"array.open_wordlines": fewer})
            if plan is not None and plan.memory_bytes <= available:
                return f"set array.open_wordlines={fewer} ({size_in_words(plan.memory_bytes)})"
        return None

    def _fewer_layers(self, available: int) -> str | None:
        """Advice to put only the layers with the smallest tables on arrays, as many as fit, or None if none does."""
        names: list[str] = []
        left = available - PROCESS_BYTES - self.activation_bytes
        for layer in sorted(self.layers, key=lambda layer: layer.table_bytes):
            left -= layer.table_bytes + CELL_BYTES * layer.cells_there
            if left >= 0:
                names.append(layer.name)
        ordered = [layer.name for layer in self.layers if layer.name in names]
        return f"set run.layers={','.join(ordered)}" if ordered else None

    def _with(self, values: dict[str, Any]) -> RunPlan | None:
        """The plan with other values of some keys, or None if these values are impossible."""
        try:
            return plan_run(self.network, self.config.with_values(values), self.images, cores=self.cores)
        except (ConfigError, NetworkError):
            return None

    def to_json(self) -> dict[str, Any]:
        """The plan in JSON's types (docs/howto/plan.md)."""
        return {
            "network": self.network.name,
            "images": self.images,
            "cores": self.cores,
            "fidelity": self.fidelity,
            "layers": [{**asdict(layer), "utilization": layer.utilization} for layer in self.layers],
            "software_layers": list(self.software),
            "multiplications_an_image": self.multiplications,
            "estimates": {fidelity: asdict(self.estimate(fidelity)) for fidelity in FIDELITIES},
            "hints": list(self.hints),
        }


def plan_run(network: Network, config: Config, images: int, *, cores: int | None = None) -> RunPlan:
    """Plan a run of a network, without simulating anything.

    Args:
        network: the network.
        config: the configuration.
        images: number of images.
        cores: number of cores that ngspice runs on; None for run.workers or, if that is not set, those of this process.

    Raises:
        ConfigError: run.layers names a layer that the network does not have.
        NetworkError: a layer does not fit a tile.
    """
    chosen = {layer.name for layer in chosen_layers(network, config.run.layers)}
    shapes = _shapes(network)
    layers = [
        _plan_layer(layer, shapes[layer.name][1], config, images) for layer in network.layers if layer.name in chosen
    ]
    multiplications = {
        layer.name: layer.weight.numel() * math.prod(shapes[layer.name][1][2:]) for layer in network.layers
    }
    widest = max(sum(map(math.prod, pair)) for pair in shapes.values())
    return RunPlan(
        network,
        config,
        images,
        cores or config.run.workers or len(os.sched_getaffinity(0)),
        tuple(plan for plan, _ in layers),
        tuple(layer.name for layer in network.layers if layer.name not in chosen),
        sum(multiplications.values()),
        ACTIVATION_BYTES * widest * min(images, BATCH),
        tuple(_tile_hints(config, layers)),
    )


def _shapes(network: Network) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """For each layer, the shapes of its padded activations and of its sums for one image."""
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def mvm(layer: LayerSpec, activations: Tensor) -> Tensor:
        sums = integer_mvm(layer, activations)
        found[layer.name] = tuple(activations.shape), tuple(sums.shape)
        return sums

    with torch.no_grad():
        network(torch.zeros(1, *network.input_shape), mvm)
    return found


def _plan_layer(layer: LayerSpec, sums: tuple[int, ...], config: Config, images: int) -> tuple[LayerPlan, TilePlan]:
    array = config.array
    plan = plan_tiles(layer, array, config.cell, transposed=config.read.mode == "amplitude")
    scheme = ReadScheme.of(config.read, plan)
    pixels = math.prod(sums[2:])
    blocks = len(plan.groups) // plan.streams
    occurring = scheme.planes * images * pixels
    patterns = decks = cell_reads = stored_bytes = 0
    table_bytes = 0.0
    for group in plan.groups:
        reads = scheme.possible(group.inputs)
        if not scheme.listed:
            reads = min(reads, occurring + (0 if config.trim.method == "none" else config.trim.reads))
        lines, outputs = group.units.shape[1], group.outputs[1] - group.outputs[0]
        in_decks = math.ceil(reads / config.run.patterns_per_deck)
        patterns += reads
        decks += in_decks
        cell_reads += group.units.size * reads
        stored_bytes += CURRENT_BYTES * (lines + 1) * reads + DECK_BYTES * in_decks
        entries = reads if scheme.listed else 2 * reads  # a growing table makes twice the room it needs
        table_bytes += entries * (LINE_BYTES * lines + PARTIAL_SUM_BYTES * outputs + PATTERN_BYTES / blocks)
    lookups = images * scheme.planes * pixels * plan.streams
    planned = LayerPlan(
        name=layer.name,
        kernel=tuple(layer.weight.shape),
        size=(sums[2], sums[3]),
        tiles=plan.tiles,
        groups=len(plan.groups),
        blocks=blocks,
        open_inputs=scheme.inputs,
        cells_used=sum(group.units.size for group in plan.groups),
        cells_there=plan.tiles * array.wordlines * array.bitlines,
        reads_an_image=scheme.real_planes * pixels * len(plan.groups),
        patterns=patterns,
        decks=decks,
        grows=not scheme.listed,
        table_bytes=int(table_bytes),
        cell_reads=cell_reads,
        stored_bytes=stored_bytes,
        lookups=lookups,
        rows=lookups * math.ceil(layer.outputs // layer.groups / LOOKUP_OUTPUTS),
    )
    return planned, plan


def _tile_hints(config: Config, layers: Iterable[tuple[LayerPlan, TilePlan]]) -> Iterator[str]:
    """Yield sentences that say what would make better use of tiles, or keep tables small."""
    kind = "wordlines" if config.read.mode == "amplitude" else "bitlines"
    there = getattr(config.array, kind)
    widened: dict[int, list[str]] = {}
    growing, reference = [], config.array.encoding == "offset"
    for planned, plan in layers:
        columns = plan.layer.outputs // plan.layer.groups
        if planned.blocks > 1:
            lines = math.ceil(columns / (planned.blocks - 1)) * len(plan.places) + reference
            if lines - there <= _FEW_LINES * there:
                widened.setdefault(lines, []).append(planned.name)
        if planned.grows:
            growing.append(planned.name)
    for lines, names in sorted(widened.items()):
        why = f"of {there} {kind} one is the reference column" if reference else f"there are {there} {kind}"
        yield (
            f"Outputs of {_listed(names)} lie on one more tile side by side than with array.{kind}={lines} "
            f"({why}): set it, or leave it where the tile is given."
        )
    if growing:
        those, most = _listed(growing), ENUMERATED_INPUTS
        reason, remedy = f"Groups of {those} have more than {most} inputs", f"open at most {most}"
        if config.read.mode == "amplitude" and config.read.mixed == "direct":
            reason, remedy = f"Amplitudes of {those} are read as they occur", 'set read.mixed = "nested"'
        yield f"{reason}: their patterns are those that images cause, and tables and time grow with images; {remedy}."


def _listed(names: list[str], shown: int = 4) -> str:
    """Names of layers as text; of many, only the first few."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def free_memory() -> int:
    """Bytes that a process may still take, on the machine or in its control group, whichever are fewer."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) << 10
    limit, used = (_lines(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit and used and limit[0] != "max":
        free = min(free, int(limit[0]) - int(used[0]))
    return free


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def size_in_words(size: float) -> str:
    """A number of bytes as text, such as 12.3 KiB, 12.3 MiB or 12.3 GiB; "0" for none."""
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if size >= 2**power:
            return f"{size / 2**power:.3g} {unit}"
    return f"{size / 2**10:.3g} KiB" if size else "0"
