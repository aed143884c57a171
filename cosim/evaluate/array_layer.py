"""One layer on arrays: turns activations into integer sums, and asks a source for the currents of new patterns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cosim.arithmetic.patterns import out_size, plane_count
from cosim.config import Config
from cosim.currents import CurrentSource, GroupCurrents
from cosim.device import chip_generator
from cosim.evaluate.converters import behind_bitlines, layer_converters
from cosim.evaluate.reader import LayerReader
from cosim.evaluate.stopwatch import Stopwatch
from cosim.mapping import ReadScheme, plan_tiles
from cosim.network import LayerSpec
from cosim.readout import Converter, LayerTable, ReadNoise, calibrated_lsb_units, random_states

# Largest number of bytes for a step's patterns and the tensors that are made of them.
_STEP_BYTES = 64 << 20
# Number of reads of training images that are searched for each calibration read, since most reads are repeated or open
# no input.
_SAMPLED = 16


@dataclass(frozen=True, eq=False)
class Chip:
    """What the layers of one circuit share.

    Attributes:
        config: the configuration.
        source: the source of their currents in the conditions in which images are read.
        calibrating: the source in the conditions of the calibration; the same object if these are the same.
        network: the network's name, for comments in decks.
        stopwatch: measures how long their stages take.
    """

    config: Config
    source: CurrentSource
    calibrating: CurrentSource
    network: str
    stopwatch: Stopwatch


class ArrayLayer:
    """A layer whose multiplications are done by reads of arrays.

    Args:
        layer: the layer.
        number: number of the layer in its network.
        chip: what the layer shares with the other layers.

    Attributes:
        plan: the tiles and groups of the layer.
        scheme: how the layer is read.
        reads: number of reads so far.
        largest_unsettled_lsb: largest movement of any current in the second half of its pulse [LSB].
        reader: asks the chip's source for reads.
        converters: the converters, and what trimming found; set with the table.
    """

    def __init__(self, layer: LayerSpec, number: int, chip: Chip) -> None:
        self.layer = layer
        self.number = number
        self.chip = chip
        read = chip.config.read
        self.plan = plan_tiles(layer, chip.config.array, chip.config.cell, transposed=read.mode == "amplitude")
        self.scheme = ReadScheme.of(read, self.plan)
        self.reads = 0
        self.largest_unsettled_lsb = 0.0
        self.reader = LayerReader(
            chip.config, chip.network, number, self.plan, self.scheme, chip.source, chip.stopwatch
        )
        same = chip.calibrating is chip.source
        self._calibrating = self.reader if same else replace(self.reader, source=chip.calibrating)
        self._lsb_units: dict[int, np.ndarray] = {}  # by tile, if the range has been calibrated
        inputs = self.plan.stream_inputs()
        self._known_states = [random_states(chip.config, count, stream) for stream, count in enumerate(inputs)]

    @cached_property
    def table(self) -> LayerTable:
        """The pattern table with the converters of this chip; its first use makes the reads that trimming needs."""
        cell = self.chip.source.cell
        slopes = cell.slopes if cell is not None else None
        noise = ReadNoise.of(self.chip.config, self.number, self.plan, self.scheme, slopes)
        trimmed = layer_converters(self.reader, self._calibrating, self._lsb_units, self._known_states, noise)
        self.converters = behind_bitlines(self.reader, trimmed)
        table = LayerTable(self.plan, self.scheme, self.converters.tiles, noise)
        for index, slots, found in self.converters.answers:  # so that they are not read again
            self._enter(table, index, slots, found)
        return table

    def stuck_cells(self) -> int:
        """Number of cells in the layer's groups that are stuck."""
        cell = self.chip.source.cell
        if cell is None or cell.stuck is None:
            return 0
        return sum(int(kind.sum()) for group in self.plan.groups for kind in cell.stuck.stuck(self.number, group))

    def calibrate(self, activations: Tensor) -> None:
        """Prepare everything that the configuration takes from sample activations. All known results are discarded.

        Args:
            activations: (n, inputs, height, width), of training images.
        """
        config = self.chip.config
        self.__dict__.pop("table", None)
        if config.adc.range != "cover":
            opened = [self._opened(activations, stream) for stream in range(self.plan.streams)]
            self._lsb_units = dict(enumerate(calibrated_lsb_units(config, self.plan, opened)))
        if config.trim.patterns == "images":
            self._known_states = [self._sampled(activations, stream) for stream in range(self.plan.streams)]

    def _opened(self, activations: Tensor, stream: int) -> np.ndarray:
        """Distinct conversions of a stream: (conversions, inputs), for how many pulses each input is open."""
        patterns = self.scheme.patterns(self.plan, activations)
        planes = patterns.shape[-1]
        together = 1 if self.scheme.mode == "bit-serial" else planes  # number of planes that one conversion adds up
        mine = patterns[..., stream, :].reshape(-1, together).numpy()
        _, first = np.unique(mine, axis=0, return_index=True)
        places = np.unravel_index(first * together, (*patterns.shape[:3], planes))
        states = [
            self.scheme.states_at(self.plan, activations, stream, torch.from_numpy(np.stack(each, axis=1)))
            for each in ((*places[:3], places[3] + plane) for plane in range(together))
        ]
        found: np.ndarray = torch.stack(states).sum(0).numpy()
        return found

    def _sampled(self, activations: Tensor, stream: int) -> np.ndarray:
        """Shares (reads, inputs) of reads drawn from those that the activations cause, and a read without any input."""
        config, (n, _, *size) = self.chip.config, activations.shape
        bits, kernel = self.plan.layer.activation_bits, self.plan.chunks.kernel
        height, width = out_size(kernel, (size[0], size[1]), self.plan.layer.geometry())
        ends = (n, height, width, plane_count(self.scheme.kind, bits))
        generator = chip_generator(config, "calibration reads", self.number, stream)
        places = generator.integers(0, ends, (_SAMPLED * config.trim.reads, 4))
        states = self.scheme.states_at(self.plan, activations, stream, torch.from_numpy(places)).numpy()
        states = np.vstack([np.zeros_like(states[:1]), states])
        _, first = np.unique(states, axis=0, return_index=True)
        return self.scheme.shares(states[np.sort(first)[: config.trim.reads]].astype(np.int64))

    def __call__(self, activations: Tensor) -> Tensor:
        """Layer sums (n, outputs, height, width) of integer activations (n, inputs, height, width)."""
        return torch.cat([self._sums(part) for part in activations.split(self._images_a_step(activations))])

    def _images_a_step(self, activations: Tensor) -> int:
        """How many images to compute at a time, such that their patterns and the tensors made of them stay small."""
        height, width = activations.shape[2:]
        per_image = 16 * self.scheme.planes * self.plan.streams * height * width
        return max(1, _STEP_BYTES // per_image)

    def _sums(self, activations: Tensor) -> Tensor:
        stopwatch = self.chip.stopwatch
        with stopwatch("patterns"):
            reads = self.scheme.reads(self.plan, activations)
            met = self.table.meet(reads, activations)
            missing = self.table.missing(met)
        self._answer(missing)
        # The patterns of a stream are read once for each of its blocks of outputs.
        places = reads[..., 0].numel()
        self.reads += self.scheme.real_planes * places * (len(self.plan.groups) // self.plan.streams)
        with stopwatch("tables"):
            self.table.count(met)
            return self.table.apply(met)

    def recall(self, activations: Tensor) -> Tensor:
        """Layer sums of activations that the layer has computed before, without counting the reads again.

        Raises:
            RuntimeError: a pattern has no stored result.
        """
        met = self.table.meet(self.scheme.reads(self.plan, activations), activations)
        if any(len(unanswered) for unanswered in self.table.missing(met)):
            raise RuntimeError(
                f"layer {self.layer.name!r} has not seen these activations: run the circuit on them first"
            )
        return self.table.apply(met)

    def forget_counts(self) -> None:
        """Set the count of reads to zero, and keep the answers."""
        self.reads = 0
        self.table.forget_uses()

    def _answer(self, missing: list[np.ndarray]) -> None:
        """Read the missing patterns, given as each stream's slots, and enter their codes into the table."""
        if not any(len(slots) for slots in missing):
            return
        groups, slots_of = self.plan.groups, self.table.slots
        needed = [missing[group.stream] for group in groups]
        if self.scheme.listed:
            answers = self.reader.listed(needed, self.layer.name)
        else:
            wanted = [(index, slots) for index, slots in enumerate(needed) if len(slots)]
            drives = [slots_of.drive(groups[index].stream, slots) for index, slots in wanted]
            answers = self.reader.driven(wanted, drives, self.layer.name)
        for index, slots, found in answers:
            self._enter(self.table, index, slots, found)

    def _enter(self, table: LayerTable, index: int, slots: np.ndarray, found: GroupCurrents) -> None:
        """Put currents of group `index` into the table."""
        self._note_settling(table.converter(index), found)
        table.fill(index, slots, found.currents)

    def note_settling(self, index: int, found: GroupCurrents) -> np.ndarray:
        """Record the largest movement of any line in reads of group `index`.

        Returns:
            (reads,) movement of the least settled line of each read [LSB].
        """
        return self._note_settling(self.table.converter(index), found)

    def _note_settling(self, converter: Converter, found: GroupCurrents) -> np.ndarray:
        unsettled: np.ndarray = found.unsettled_a / converter.ampere_per_lsb.min()
        self.largest_unsettled_lsb = max(self.largest_unsettled_lsb, float(unsettled.max(initial=0)))
        return unsettled
