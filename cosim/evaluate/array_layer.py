"""One layer on arrays: activations in, integer sums out; a source is asked for patterns that have no answer yet."""

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

# Bytes of patterns and what is made of them: a bound on the memory.
_STEP_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Chip:
    """What the layers of one circuit share.

    Attributes:
        config: the configuration.
        source: which gives their currents.
        network: the network's name, for comments in decks.
        stopwatch: where their time goes.
    """

    config: Config
    source: CurrentSource
    network: str
    stopwatch: Stopwatch


class ArrayLayer:
    """A layer whose multiplications are reads of arrays.

    Args:
        layer: the layer.
        number: of the layer in its network.
        chip: what it shares with the others.

    Attributes:
        trim_gain, trim_offset_lsb: what trimming found and took out, empty without trimming.
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
        self._lsb_units: dict[int, np.ndarray] = {}  # of each tile, once a range was calibrated

    @cached_property
    def table(self) -> LayerTable:
        """The pattern table, behind the converters of this chip; trimming reads are simulated when it is first used."""
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
        for index, slots, found in answers:  # what trimming read is not read again
            self._enter(table, index, slots, found)
        return table

    def _known_reads(self) -> tuple[list[KnownReads], list[tuple[int, np.ndarray, GroupCurrents]]]:
        """The reads that trimming goes by, and where patterns are listed, all that were answered for them."""
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
        """Set the converters' range from sample activations (n, inputs, height, width); answers are forgotten."""
        patterns = self.scheme.patterns(self.plan, activations)
        planes = patterns.shape[-1]
        together = 1 if self.scheme.mode == "bit-serial" else planes  # planes that a conversion adds up
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
        """So many images that their patterns, and the indices and weights made of them, stay small."""
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
        # Every block of outputs of a stream is read under the stream's patterns.
        places = reads[..., 0].numel()
        self.reads += self.scheme.real_planes * places * (len(self.plan.groups) // self.plan.streams)
        with stopwatch("tables"):
            self.table.count(met)
            return self.table.apply(met)

    def recall(self, activations: Tensor) -> Tensor:
        """The same sums for activations that were answered before, without counting the reads again.

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
        """Count reads from zero again; answers stay."""
        self.reads = 0
        self.table.forget_uses()

    def _answer(self, missing: list[np.ndarray]) -> None:
        """Fill the table for each stream's slots that have no answer."""
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
        """Group, reads and currents of at least the reads needed of every group, where they are listed."""
        source, groups = self.chip.source, self.plan.groups
        wanted = [
            (index, reads) for index, few in enumerate(needed) for reads in source.batches(few, groups[index].inputs)
        ]
        # Groups that are asked the same share the array that says so.
        drives: dict[tuple[int, bytes], np.ndarray] = {}
        for index, reads in wanted:
            inputs = groups[index].inputs
            if (inputs, reads.tobytes()) not in drives:
                drives[inputs, reads.tobytes()] = self.scheme.drive(reads, inputs)
        return self._ask(wanted, [drives[groups[index].inputs, reads.tobytes()] for index, reads in wanted], title)

    def _ask(
        self, wanted: list[tuple[int, np.ndarray]], drives: list[np.ndarray], title: str
    ) -> Iterator[tuple[int, np.ndarray, GroupCurrents]]:
        """Group, what is read of it, and its currents, for the given drives."""
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
        """(reads,) how far the least settled line of each read of group `index` still moved [LSB]; the largest is
        remembered."""
        return self._note_settling(self.table.converter(index), found)

    def _note_settling(self, converter: Converter, found: GroupCurrents) -> np.ndarray:
        unsettled: np.ndarray = found.unsettled_a / converter.ampere_per_lsb.min()
        self.largest_unsettled_lsb = max(self.largest_unsettled_lsb, float(unsettled.max(initial=0)))
        return unsettled

    def every_request(self) -> Iterator[tuple[int, ReadRequest]]:
        """Group and request of what answers every pattern of every group."""
        for index, group in enumerate(self.plan.groups):
            for amplitude in range(self.scheme.amplitudes):
                every = np.arange(2**group.inputs) + (amplitude << self.scheme.inputs)
                for patterns in self.chip.source.batches(every, group.inputs):
                    yield index, self.request(index, self.scheme.drive(patterns, group.inputs))

    def request(self, index: int, drive: np.ndarray, *, careful: bool = False) -> ReadRequest:
        """What to ask of a source for reads of group `index`.

        Args:
            drive: (reads, inputs) shares of each input's voltage, as `ReadScheme.drive` gives them.
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
        """How weights lie on bitlines, in words."""
        line = "wordline" if self.scheme.mode == "amplitude" else "bitline"
        places = f"a weight takes {len(self.plan.places)} {line}(s), most significant first"
        if self.plan.reference_units is None:
            return f"{places}, each slice a pair for positive and negative weights"
        return f"the last {line} is the reference column, of level {self.plan.reference_units}; {places}"
