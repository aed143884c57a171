"""The converters of a layer: drawn for the chip, with replica cells as their reference, and trimmed by known reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cosim.arithmetic.patterns import pattern_bits
from cosim.currents import GroupCurrents
from cosim.device import RepairedBitlines
from cosim.evaluate.reader import LayerReader
from cosim.readout import Converter, KnownReads, ReadNoise, corrected, measured_lines, replica_group, unit_current
from cosim.readout.replica import CHIP_LAYER

# A layer's group, reads of it, and the source's answer.
Answer = tuple[int, np.ndarray, GroupCurrents]


@dataclass(frozen=True, eq=False)
class LayerConverters:
    """The converters of a layer's tiles, and the results of trimming.

    Attributes:
        tiles: the converters of each tile.
        gain: measured gains of all tiles, one tile after the other; empty without trimming.
        offset_lsb: measured offsets, of the same shape [LSB].
        beyond_registers: number of bitlines whose correction exceeds the range of a register.
        answers: results of known reads that are also valid when images are read.
        replaced_bitlines: number of dead bitlines that spare ones replace.
        dead_bitlines: number of bitlines that are dead and have no spare.
    """

    tiles: list[Converter]
    gain: np.ndarray
    offset_lsb: np.ndarray
    beyond_registers: int
    answers: list[Answer]
    replaced_bitlines: int = 0
    dead_bitlines: int = 0


def layer_converters(
    reading: LayerReader,
    calibrating: LayerReader,
    lsb_units: dict[int, np.ndarray],
    states: Sequence[np.ndarray],
    noise: ReadNoise | None,
) -> LayerConverters:
    """Make the converters of a layer as they are when images are read.

    Args:
        reading: reads the arrays in the conditions in which images are read.
        calibrating: reads them in the conditions of the calibration; the same object if these are the same.
        lsb_units: for each tile, widths of a code from a calibrated range; empty without one.
        states: for each stream, (reads, inputs) of the known reads; not used without trimming.
        noise: the layer's noise, or None.

    Raises:
        ConfigError: known reads do not follow their ideal sums.
    """
    config, plan = reading.config, reading.plan
    lines = plan.widths()

    def drawn(reader: LayerReader) -> list[Converter]:
        pulses, cell = reader.scheme.pulses, reader.source.cell
        sense = None if cell is None else cell.sense
        return [
            Converter.drawn(config, reader.number, tile, lines[tile], lsb_units.get(tile), pulses, unit_a, sense)
            for tile, unit_a in enumerate(_reference_units_a(reader))
        ]

    converters = drawn(reading)
    if config.trim.method == "none":
        return LayerConverters(converters, np.zeros(0), np.zeros(0), 0, [])
    known, answers = _known_reads(calibrating, states)
    at_calibration = converters if calibrating is reading else drawn(calibrating)
    found = measured_lines(config, reading.number, at_calibration, plan, known, noise)
    tiles, beyond = [], 0
    for converter, (gain, offset) in zip(converters, found, strict=True):
        tile, unreached = corrected(config.trim, converter, gain, offset)
        tiles.append(tile)
        beyond += int(unreached.sum())
    gains, offsets = (np.concatenate(each) for each in zip(*found, strict=True))
    return LayerConverters(tiles, gains, offsets, beyond, answers if calibrating is reading else [])


def behind_bitlines(reader: LayerReader, converters: LayerConverters) -> LayerConverters:
    """A layer's converters, where some bitlines are dead.

    Trimming a dead bitline has no meaning, so converters are trimmed as if all bitlines worked.
    """
    found = [
        RepairedBitlines.drawn(reader.config, reader.number, tile, width)
        for tile, width in enumerate(reader.plan.widths())
    ]
    return replace(
        converters,
        tiles=[tile.behind(bitlines.dead) for tile, bitlines in zip(converters.tiles, found, strict=True)],
        replaced_bitlines=sum(bitlines.replaced for bitlines in found),
        dead_bitlines=sum(int(bitlines.dead.sum()) for bitlines in found),
    )


def _reference_units_a(reader: LayerReader) -> list[float | None]:
    """Unit current of the reference of each tile's converters [A]; None for that of the design."""
    config, tiles = reader.config, reader.plan.tiles
    if config.adc.reference == "fixed":
        return [None] * tiles
    shared = config.adc.replica_per == "chip"
    number = CHIP_LAYER if shared else reader.number
    groups = [replica_group(config, tile) for tile in ([0] if shared else range(tiles, 2 * tiles))]
    requests = [reader.request_of(group, np.ones((1, group.inputs)), number) for group in groups]
    with reader.stopwatch("currents"):
        found = list(reader.source.currents(requests, "replica columns"))
    units_a: list[float | None] = [unit_current(config, answer.currents[0]) for answer in found]
    return units_a * tiles if shared else units_a


def _known_reads(reader: LayerReader, states: Sequence[np.ndarray]) -> tuple[list[KnownReads], list[Answer]]:
    """The known reads and, if patterns are listed, all results that the source gave for them."""
    groups, scheme = reader.plan.groups, reader.scheme
    of_group = [states[group.stream] for group in groups]
    if not scheme.listed:
        wanted = [(index, opened) for index, opened in enumerate(of_group)]
        found = reader.driven(wanted, [opened.astype(float) for opened in of_group], "trimming reads")
        return [KnownReads(index, opened, answer.currents) for index, opened, answer in found], []
    numbers = [scheme.full(opened @ (1 << np.arange(opened.shape[1]))) for opened in of_group]
    known, answers = [], []
    for index, reads, answer in reader.listed(numbers, "trimming reads"):
        chosen = np.isin(reads, numbers[index])
        opened = pattern_bits(scheme.pattern(reads[chosen]), groups[index].inputs)
        known.append(KnownReads(index, opened, answer.currents[chosen]))
        answers.append((index, reads, answer))
    return known, answers
