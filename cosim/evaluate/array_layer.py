"""One layer on arrays: activations in, integer sums out, simulating the patterns that have no answer yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cosim.arithmetic.planes import pattern_bits
from cosim.config import Config
from cosim.device import CellVariation
from cosim.evaluate.stopwatch import Stopwatch
from cosim.mapping import Group, ReadScheme, deck_patterns, plan_tiles, pulse_patterns
from cosim.netlist import ArrayDecks, Deck
from cosim.network import LayerSpec
from cosim.readout import (
    Converter,
    KnownReads,
    LayerTable,
    ReadNoise,
    calibrated_lsb_units,
    ideal_sums,
    known_patterns,
    trim,
)
from cosim.spice import Reading, Simulator

# Decks planned and simulated at a time, and bytes of patterns and what is made of them: bounds on the memory.
_DECKS_A_STEP = 512
_STEP_BYTES = 64 << 20
_AUDIT_DRAWS = 16


class Chip(Protocol):
    """What the layers of one circuit share."""

    config: Config
    decks: ArrayDecks | None
    cells: CellVariation | None
    simulator: Simulator | None
    stopwatch: Stopwatch


@dataclass(frozen=True, eq=False)
class PlannedDeck:
    """A deck of a layer: which group it reads, and (reads, wordlines) shares of each input's voltage in its order."""

    group: int
    drive: np.ndarray
    deck: Deck


class ArrayLayer:
    """A layer whose multiplications are reads of simulated arrays.

    Args:
        layer: the layer.
        number: of the layer in its network.
        chip: configuration, decks and simulator; without a simulator the cells are ideal.
        network: the network's name, for comments in decks.

    Attributes:
        trim_gain, trim_offset_lsb: what trimming found and took out, empty without trimming.
    """

    def __init__(self, layer: LayerSpec, number: int, chip: Chip, network: str) -> None:
        self.layer = layer
        self.number = number
        self.chip = chip
        self.network = network
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
        config, bitlines = self.chip.config, {group.tile: group.units.shape[1] for group in self.plan.groups}
        converters = [
            Converter.drawn(config, self.number, tile, bitlines[tile], self._lsb_units.get(tile), self.scheme.pulses)
            for tile in range(self.plan.tiles)
        ]
        if config.trim.method != "none":
            converters, self.trim_gain, self.trim_offset_lsb = trim(config, converters, self.plan, self._known_reads())
        noise = ReadNoise.of(config, self.number, self.plan.groups)
        return LayerTable(self.plan, self.scheme, converters, noise)

    def calibrate(self, activations: Tensor) -> None:
        """Set the converters' range from sample activations (n, inputs, height, width); answers are forgotten."""
        if self.scheme.mode == "bit-serial":  # every bit plane is converted by itself
            patterns = self.scheme.reads(self.plan, activations).flatten(3).flatten(0, 1)[None]
        else:  # an amplitude counts as often as so many pulses
            patterns = pulse_patterns(self.plan, activations).flatten(3)
        opened = []
        for stream, wordlines in enumerate(self.plan.stream_inputs()):
            distinct = np.unique(patterns[:, :, stream].flatten(1).numpy(), axis=1)
            opened.append(np.sum([pattern_bits(pulse, wordlines) for pulse in distinct], axis=0))
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
            patterns = self.scheme.reads(self.plan, activations)
            met = self.table.meet(patterns)
            missing = self.table.missing(met)
        self._answer(missing)
        # Every block of outputs of a stream is read under the stream's patterns.
        self.reads += self.scheme.real_planes * patterns[0].numel() * (len(self.plan.groups) // self.plan.streams)
        with stopwatch("tables"):
            self.table.count(met)
            return self.table.apply(patterns)

    def recall(self, activations: Tensor) -> Tensor:
        """The same sums for activations that were answered before, without counting the reads again.

        Raises:
            RuntimeError: a pattern has no answer.
        """
        patterns = self.scheme.reads(self.plan, activations)
        if any(len(unanswered) for unanswered in self.table.missing(self.table.meet(patterns))):
            raise RuntimeError(
                f"layer {self.layer.name!r} has not seen these activations: run the circuit on them first"
            )
        return self.table.apply(patterns)

    def forget_counts(self) -> None:
        """Count reads from nought again; answers stay."""
        self.reads = 0
        self.table.forget_uses()

    def _answer(self, missing: list[np.ndarray]) -> None:
        """Fill the table for each stream's missing patterns."""
        if not any(len(patterns) for patterns in missing):
            return
        if self.chip.simulator is None:
            for index, group in enumerate(self.plan.groups):
                patterns = missing[group.stream]
                self.table.fill(index, patterns, self._ideal_currents(group, patterns))
            return
        needed = [missing[group.stream] for group in self.plan.groups]
        for index, patterns, reading in self._simulated(needed):
            self.note_settling(index, reading)
            self.table.fill(index, patterns, reading.currents)

    def _ideal_currents(self, group: Group, reads: np.ndarray) -> np.ndarray:
        return ideal_sums(group, self.scheme.drive(reads, group.inputs)) * self.chip.config.cell.unit_a

    def _simulated(self, needed: list[np.ndarray]) -> Iterator[tuple[int, np.ndarray, Reading]]:
        """Group, patterns and readings of decks that read at least the patterns needed of every group, a step at a
        time."""
        assert self.chip.simulator is not None
        wanted = [(index, patterns) for index, few in enumerate(needed) for patterns in self._deck_patterns(index, few)]
        for first in range(0, len(wanted), _DECKS_A_STEP):
            step = wanted[first : first + _DECKS_A_STEP]
            with self.chip.stopwatch("decks"):
                decks = [self.planned_deck(*want).deck for want in step]
            with self.chip.stopwatch("ngspice"):
                readings = self.chip.simulator.simulate(decks, f"ngspice, {self.layer.name}")
            for (index, patterns), reading in zip(step, readings, strict=True):
                yield index, patterns, reading

    def _known_reads(self) -> list[KnownReads]:
        """The reads that trimming goes by."""
        config, groups = self.chip.config, self.plan.groups
        known = [known_patterns(config, group) for group in groups]
        wanted = [self.scheme.full(patterns) for patterns in known]
        if self.chip.simulator is None:
            return [
                KnownReads(group, patterns, self._ideal_currents(group, reads))
                for group, patterns, reads in zip(groups, known, wanted, strict=True)
            ]
        found = []
        for index, reads, reading in self._simulated(wanted):
            chosen = np.isin(reads, wanted[index])
            found.append(KnownReads(groups[index], self.scheme.pattern(reads[chosen]), reading.currents[chosen]))
        return found

    def _deck_patterns(self, index: int, needed: np.ndarray) -> list[np.ndarray]:
        return deck_patterns(needed, self.plan.groups[index].inputs, self.chip.config.run.patterns_per_deck)

    def every_deck(self) -> Iterator[PlannedDeck]:
        """The decks that answer every pattern of every group."""
        for index, group in enumerate(self.plan.groups):
            for amplitude in range(self.scheme.amplitudes):
                every = np.arange(2**group.inputs) + (amplitude << self.scheme.inputs)
                for patterns in self._deck_patterns(index, every):
                    yield self.planned_deck(index, patterns)

    def note_settling(self, index: int, reading: Reading) -> None:
        """Remember how far the least settled read of group `index` was from its sample."""
        converter = self.table.converter(index)
        unsettled = float(reading.unsettled.max() / converter.ampere_per_lsb.min())
        self.largest_unsettled_lsb = max(self.largest_unsettled_lsb, unsettled)

    def planned_deck(self, index: int, patterns: np.ndarray, *, careful: bool = False) -> PlannedDeck:
        """The deck that reads `patterns`, in that order, on group `index`.

        Args:
            patterns: (n,) reads as `ReadScheme` numbers them, or (n, wordlines) shares of each input's voltage.
        """
        assert self.chip.decks is not None
        group = self.plan.groups[index]
        first, last = group.outputs
        comments = (
            f"network {self.network}, layer {self.layer.name}, tile {group.tile}, group {index}",
            f"weights: outputs {first}..{last - 1}, rows {group.rows[0]}..{group.rows[1] - 1} of the unrolled kernel "
            "(input channel, row, column)",
            self._encoding(),
        )
        shifts = self.chip.cells.cell_shifts(self.number, group) if self.chip.cells else None
        drive = patterns if patterns.ndim == 2 else self.scheme.drive(patterns, group.inputs)
        return PlannedDeck(index, drive, self.chip.decks.deck(group, drive, comments, careful=careful, shifts=shifts))

    def _encoding(self) -> str:
        """How weights lie on bitlines, in words."""
        line = "wordline" if self.scheme.mode == "amplitude" else "bitline"
        places = f"a weight takes {len(self.plan.places)} {line}(s), most significant first"
        if self.plan.reference_units is None:
            return f"{places}, each slice a pair for positive and negative weights"
        return f"the last {line} is the reference column, of level {self.plan.reference_units}; {places}"

    def audit(self, activations: Tensor, rng: np.random.Generator) -> tuple[PlannedDeck, np.ndarray]:
        """A deck of reads of one image in the order it causes them, on a random group.

        Of several runs of reads drawn at random the one with most distinct patterns is taken: the margins of an image
        cause nothing but closed wordlines, which would test little.

        Args:
            activations: (1, inputs, height, width) of the image; its patterns must have been answered.

        Returns:
            the deck, and the currents in LSB that the table holds for its reads.
        """
        index = int(rng.integers(len(self.plan.groups)))
        group = self.plan.groups[index]
        reads = self.scheme.reads(self.plan, activations)[:, 0, group.stream].flatten(1).numpy()
        in_order, terms, weights = self.scheme.in_order(reads, group.inputs)
        count = min(self.chip.config.run.audit_reads, len(in_order))
        starts = rng.integers(len(in_order) - count + 1, size=_AUDIT_DRAWS)
        spans = [slice(start, start + count) for start in starts.tolist()]
        chosen = max(spans, key=lambda span: len(np.unique(in_order[span], axis=0)))
        held = np.tensordot(weights, self.table.lookup(index, terms[chosen].T), 1)
        return self.planned_deck(index, in_order[chosen], careful=True), held
