"""Trimming: finds gain and offset of the converters from reads whose ideal results are known.

Registers then correct them (`cosim.readout.registers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cosim.config import Config
from cosim.device import chip_generator
from cosim.errors import ConfigError
from cosim.mapping import Group, TilePlan
from cosim.readout.adc import Converter
from cosim.readout.fit import Moments
from cosim.readout.noise import ReadNoise
from cosim.readout.tables import ideal_sums

# No corner causes a gain outside these bounds. Such a gain means that currents do not follow the sums.
_SANE_GAIN = (0.05, 20.0)


@dataclass(frozen=True, eq=False)
class KnownReads:
    """Reads of a group whose ideal results are known.

    Attributes:
        index: number of the group in its plan.
        states: (n, inputs) share of its full voltage, 0..1, that each input has.
        currents: (n, lines) measured currents [A].
    """

    index: int
    states: np.ndarray
    currents: np.ndarray


def random_states(config: Config, inputs: int, stream: int) -> np.ndarray:
    """Choose the reads of a group that trimming uses.

    The method "reference" opens all inputs in a single read. A calibration reads once without any open input, and
    otherwise opens inputs at random.

    Args:
        config: the configuration.
        inputs: number of inputs of the group.
        stream: number of its stream.

    Returns:
        (reads, inputs) of 0 and 1, in which no two rows are equal.
    """
    if config.trim.method == "reference":
        return np.ones((1, inputs), np.int64)
    generator = chip_generator(config, "calibration reads", stream)
    opened = generator.random((config.trim.reads - 1, inputs)) < config.trim.density
    return np.unique(np.vstack([np.zeros(inputs), opened]), axis=0).astype(np.int64)


def measured_lines(
    config: Config,
    layer: int,
    converters: Sequence[Converter],
    plan: TilePlan,
    reads: Sequence[KnownReads],
    noise: ReadNoise | None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Measure gain and offset of a layer's converters from known reads.

    The method "reference" finds one gain for each tile: the current of its reference column over the ideal current,
    averaged over the tile's groups. A calibration fits, by least squares,

        measured sum = gain * (ideal sum + common * open wordlines) + offset

    with one gain and offset for the layer or for each bitline, and one `common` for the layer. `common` is the current
    that all open cells have in common at temperatures and supplies other than those of programming. A converter's gain
    multiplies it like any other current. It is not corrected: the reference column contains it too, so that subtracting
    that column removes it if gains are equal, the zero point is the reference level and a weight is one cell. A bitline
    whose reads do not decide a gain takes that of its layer. A bitline that has no meaningful gain because of stuck
    cells gets a gain of 1 and no offset.

    Args:
        config: the configuration.
        layer: number of the layer in its network.
        converters: the converters of each tile.
        plan: the tiles and groups of the layer.
        reads: known reads of the layer's groups.
        noise: the layer's noise, which is added to codes; None for none.

    Returns:
        for each tile, gains and offsets [LSB], (bitlines,) or (1,) each.

    Raises:
        ConfigError: a gain is outside the range that corners can cause.
    """
    groups, sums = plan.groups, []
    for tile, converter in enumerate(converters):
        mine = [read for read in reads if groups[read.index].tile == tile]
        each = [
            (_measured(config, layer, read, converter, noise), *_expected(groups[read.index], read, converter))
            for read in mine
        ]
        sums.append(tuple(np.concatenate(parts) for parts in zip(*each, strict=True)))
    if config.trim.method == "reference":
        gains = [np.mean(measured[:, -1:] / ideal[:, -1:], axis=0) for measured, ideal, _ in sums]
        offsets = [np.zeros(1) for _ in gains]
    else:
        whole = Moments.of(*_pooled(sums))
        moments = [Moments.of(*tile) for tile in sums] if config.trim.per == "bitline" else [whole] * len(sums)
        common = Moments.joined(moments).common()
        mean_gain = float(whole.line(common, 1.0)[0][0])
        lines = [each.line(common, mean_gain) for each in moments]
        gains, offsets = [gain for gain, _ in lines], [offset for _, offset in lines]
    sane = [(_SANE_GAIN[0] < found) & (found < _SANE_GAIN[1]) for found in gains]
    for found, here in zip(gains, sane, strict=True):
        if not here.all() and not (config.defects.stuck and here.any()):
            raise ConfigError(
                f"layer {plan.layer.name!r}: trimming found gains of {found.min():.3g} to {found.max():.3g}, expected "
                f"{_SANE_GAIN[0]:g} to {_SANE_GAIN[1]:g}: currents do not follow the sums; read nearer to the "
                'conditions of programming, or set trim.method = "none"'
            )
    # Stuck cells may leave a bitline without a gain. Such a bitline stays untrimmed.
    gains = [np.where(here, found, 1) for found, here in zip(gains, sane, strict=True)]
    offsets = [np.where(here, found, 0) for found, here in zip(offsets, sane, strict=True)]
    # Rounded, so that a chip without errors is left exactly as it is.
    return [(np.round(gain, 9), np.round(offset, 9)) for gain, offset in zip(gains, offsets, strict=True)]


def _measured(
    config: Config, layer: int, read: KnownReads, converter: Converter, noise: ReadNoise | None
) -> np.ndarray:
    """Positions of known reads, or the mean of their codes, (reads, bitlines) [LSB]."""
    positions = converter.in_lsb(read.currents)
    if config.trim.through == "currents":
        return positions
    sigma: np.ndarray | float = 0.0
    if noise is not None:
        sigma = np.sqrt(noise.variance(read.index, read.states, converter.lsb_per_a))
    generator = chip_generator(config, "calibration noise", layer, read.index)
    total = np.zeros_like(positions)
    for _ in range(config.trim.repeats):
        total += converter.quantized(positions + sigma * generator.standard_normal(positions.shape))
    return total / config.trim.repeats - converter.decision_lsb


def _expected(group: Group, read: KnownReads, converter: Converter) -> tuple[np.ndarray, np.ndarray]:
    """Ideal sums of known reads, and one unit current for each open wordline, (reads, bitlines) each [LSB]."""
    opened = read.states.sum(axis=1, keepdims=True)
    ideal = converter.ideal_lsb(ideal_sums(group, read.states))
    return ideal, np.broadcast_to(converter.ideal_lsb(opened), ideal.shape)


def _pooled(sums: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """The sums of all bitlines of all tiles, pooled as if of a single bitline, (values, 1) each."""
    return tuple(np.concatenate([tile[i].ravel() for tile in sums])[:, None] for i in range(3))
