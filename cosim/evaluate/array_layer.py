"""One layer on arrays: turns activations into integer sums, and asks a source for patterns without an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cosim.arithmetic.patterns import pattern_bits
from cosim.config import Config
from cosim.currents import CurrentSource, GroupCurrents, ReadRequest
from cosim.evaluate.stopwatch import Stopwatch
from cosim.mapping import ReadScheme, plan_tiles
from cosim.network import LayerSpec
from cosim.readout import Converter, KnownReads, LayerTable, ReadNoise, calibrated_lsb_units, known_states, trim

# How many bytes of memory a step's patterns, and the tensors made of them, may take.
_STEP_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Chip:
    """What the layers of one circuit share.

    Attributes:
        config: the configuration.
        source: the source of their currents.
        network: the network's name, for comments in decks.
        stopwatch: measures how long their stages take.
    """

    config: Config
    source: CurrentSource
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
        trim_gain: gains that trimming found and corrected, empty without trimming.
        trim_offset_lsb: offsets that trimming found and corrected [LSB], empty without trimming.
    """

    def __init__(self, layer: LayerSpec, number: int, chip: Chip) -> None:
        self.layer = layer
        self.number = number
        self.chip = chip
        mode = chip.config.read.mode
        self.plan = plan_tiles(layer, chip.config.array, chip.config.cell, transposed=mode == "amplitude")
        self.scheme = ReadScheme(mode, layer.activation_bits, max(self.plan.stream_inputs()))
        self.reads = 0
        self.largest_unsettled_lsb = 0.0
        self.trim_gain, self.trim_offset_lsb = np.zeros(0), np.zeros(0)
        self._lsb_units: dict[int, np.ndarray] = {}  # by tile, once a range has been calibrated

    @cached_property
    def table(self) -> LayerTable:
        """The pattern table with the converters of this chip; its first use simulates the reads for trimming."""
        config, lines = self.chip.config, {group.tile: group.units.shape[1] for group in self.plan.groups}
        converters = [
            Converter.drawn(config, self.number, tile, lines[tile], self._lsb_units.get(tile), self.scheme.pulses)
            for tile in range(self.plan.tiles)
        ]
        answers: list[tuple[int, np.ndarray, GroupCurrents]] = []
        if config.trim.method != "none":
            known, answers = self._known_reads()
            converters, self.trim_gain, self.trim_offset_lsb = trim(config, converters, self.plan, known)
        table = LayerTable(self.plan, self.scheme, converters, ReadNoise.of(config, self.number, self.plan.groups))
        for index, slots, found in answers:  # so that they are not read again
            self._enter(table, index, slots, found)
        return table

    def _known_reads(self) -> tuple[list[KnownReads], list[tuple[int, np.ndarray, GroupCurrents]]]:
        """The reads that trimming goes by and, if patterns are listed, every answer that the source gave for them."""
        groups = self.plan.groups
        states = [known_states(self.chip.config, group) for group in groups]
        if not self.plan.enumerated:
            requests = [self.request(index, opened) for index, opened in enumerate(states)]
            with self.chip.stopwatch("currents"):
                found = list(self.chip.source.currents(requests, "trimming reads"))
            read = zip(groups, states, found, strict=True)
            return [KnownReads(group, opened, each.currents) for group, opened, each in read], []
        wanted = [self.scheme.full(opened @ (1 << np.arange(opened.shape[1]))) for opened in states]
        known, answers = [], []
        for index, reads, answer in self._asked(wanted, "trimming reads"):
            chosen = np.isin(reads, wanted[index])
            opened = pattern_bits(self.scheme.pattern(reads[chosen]), groups[index].inputs)
            known.append(KnownReads(groups[index], opened, answer.currents[chosen]))
            answers.append((index, reads, answer))
        return known, answers

    def calibrate(self, activations: Tensor) -> None:
        """Set the converters' range from sample activations (n, inputs, height, width). This discards all answers."""
        patterns = self.scheme.patterns(self.plan, activations)
        planes = patterns.shape[-1]
        together = 1 if self.scheme.mode == "bit-serial" else planes  # how many planes one conversion adds up
        opened = []
        for stream in range(self.plan.streams):
            mine = patterns[..., stream, :].reshape(-1, together).numpy()
            _, first = np.unique(mine, axis=0, return_index=True)
            places = np.unravel_index(first * together, (*patterns.shape[:3], planes))
            states = [
                self.scheme.states_at(self.plan, activations, stream, torch.from_numpy(np.stack(each, axis=1)))
                for each in ((*places[:3], places[3] + plane) for plane in range(together))
            ]
            opened.append(torch.stack(states).sum(0).numpy())
        self._lsb_units = dict(enumerate(calibrated_lsb_units(self.chip.config, self.plan, opened)))
        self.__dict__.pop("table", None)

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
        """Layer sums of activations that the layer has answered before, without counting the reads again.

        Raises:
            RuntimeError: a pattern has no answer.
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
        """Get the missing answers, given as each stream's slots, and enter them into the table."""
        if not any(len(slots) for slots in missing):
            return
        groups, slots_of = self.plan.groups, self.table.slots
        needed = [missing[group.stream] for group in groups]
        if self.plan.enumerated:
            answers = self._asked(needed, self.layer.name)
        else:
            wanted = [(index, slots) for index, slots in enumerate(needed) if len(slots)]
            drives = [slots_of.drive(groups[index].stream, slots) for index, slots in wanted]
            answers = self._ask(wanted, drives, self.layer.name)
        for index, slots, found in answers:
            self._enter(self.table, index, slots, found)

    def _asked(self, needed: list[np.ndarray], title: str) -> Iterator[tuple[int, np.ndarray, GroupCurrents]]:
        """Yield group, reads and currents for at least the needed reads of each group, if patterns are listed."""
        source, groups = self.chip.source, self.plan.groups
        wanted = [
            (index, reads) for index, few in enumerate(needed) for reads in source.batches(few, groups[index].inputs)
        ]
        # Groups with the same reads share one array of drives.
        drives: dict[tuple[int, bytes], np.ndarray] = {}
        for index, reads in wanted:
            inputs = groups[index].inputs
            if (inputs, reads.tobytes()) not in drives:
                drives[inputs, reads.tobytes()] = self.scheme.drive(reads, inputs)
        return self._ask(wanted, [drives[groups[index].inputs, reads.tobytes()] for index, reads in wanted], title)

    def _ask(
        self, wanted: list[tuple[int, np.ndarray]], drives: list[np.ndarray], title: str
    ) -> Iterator[tuple[int, np.ndarray, GroupCurrents]]:
        """Ask the source for the given drives. Yields the group, what `wanted` names for it, and its currents."""
        with self.chip.stopwatch("currents"):
            requests = [self.request(index, drive) for (index, _), drive in zip(wanted, drives, strict=True)]
            answers = self.chip.source.currents(requests, title)
        for index, reads in wanted:
            with self.chip.stopwatch("currents"):
                found = next(answers)
            yield index, reads, found

    def _enter(self, table: LayerTable, index: int, slots: np.ndarray, found: GroupCurrents) -> None:
        """Put currents of group `index` into the table."""
        self._note_settling(table.converter(index), found)
        table.fill(index, slots, found.currents)

    def note_settling(self, index: int, found: GroupCurrents) -> np.ndarray:
        """Remember the largest movement of any line in reads of group `index`.

        Returns:
            (reads,) how far the least settled line of each read still moved [LSB].
        """
        return self._note_settling(self.table.converter(index), found)

    def _note_settling(self, converter: Converter, found: GroupCurrents) -> np.ndarray:
        unsettled: np.ndarray = found.unsettled_a / converter.ampere_per_lsb.min()
        self.largest_unsettled_lsb = max(self.largest_unsettled_lsb, float(unsettled.max(initial=0)))
        return unsettled

    def every_request(self) -> Iterator[tuple[int, ReadRequest]]:
        """Yield requests that together answer every pattern of every group, each after its group's number."""
        for index, group in enumerate(self.plan.groups):
            for amplitude in range(self.scheme.amplitudes):
                every = np.arange(2**group.inputs) + (amplitude << self.scheme.inputs)
                for patterns in self.chip.source.batches(every, group.inputs):
                    yield index, self.request(index, self.scheme.drive(patterns, group.inputs))

    def request(self, index: int, drive: np.ndarray, *, careful: bool = False) -> ReadRequest:
        """Make the request to a source for reads of group `index`.

        Args:
            index: number of the group in the plan.
            drive: (reads, inputs) share of its full voltage that each input has, as `ReadScheme.drive` gives it.
            careful: whether to follow every edge, as audits and certificates do.
        """
        group, cell = self.plan.groups[index], self.chip.source.cell
        first, last = group.outputs
        comments = (
            f"network {self.chip.network}, layer {self.layer.name}, tile {group.tile}, group {index}",
            f"weights: outputs {first}..{last - 1}, rows {group.rows[0]}..{group.rows[1] - 1} of the unrolled kernel "
            "(input channel, row, column)",
            self._encoding(),
        )
        cells = None
        if cell is not None and cell.variation is not None:
            cells = cell.variation.cell_shifts(self.number, group)
        return ReadRequest(group, drive, cells, careful, comments)

    def _encoding(self) -> str:
        """Describes in words how weights lie on bitlines."""
        line = "wordline" if self.scheme.mode == "amplitude" else "bitline"
        places = f"a weight takes {len(self.plan.places)} {line}(s), most significant first"
        if self.plan.reference_units is None:
            return f"{places}, each slice a pair for positive and negative weights"
        return f"the last {line} is the reference column, of level {self.plan.reference_units}; {places}"
