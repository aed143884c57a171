"""Trimming: finds gain and offset of the converters from reads whose answers are known."""

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
from cosim.readout.tables import ideal_sums

# Share of open wordlines in calibration reads. Bit planes of activations behind a ReLU open few, so nearly all reads
# give small sums. If wires compress large sums, a line fitted to those would miss the small ones.
_CALIBRATION_DENSITY = 0.25
# No corner explains a gain outside these bounds: the reads then do not follow the sums.
_SANE_GAIN = (0.05, 20.0)


@dataclass(frozen=True, eq=False)
class KnownReads:
    """Reads of a group whose ideal answers are known.

    Attributes:
        group: the group.
        states: (n, inputs) of 0 and 1; each open input is at its full voltage.
        currents: (n, lines) measured currents [A].
    """

    group: Group
    states: np.ndarray
    currents: np.ndarray


def known_states(config: Config, group: Group) -> np.ndarray:
    """Choose the reads of a group that trimming goes by.

    The method "reference" opens all inputs in a single read. A calibration reads once without any open input, and
    otherwise opens inputs at random.

    Returns:
        (reads, inputs) of 0 and 1, no two alike.
    """
    if config.trim.method == "reference":
        return np.ones((1, group.inputs), np.int64)
    generator = chip_generator(config, "calibration reads", group.stream)
    opened = generator.random((config.trim.reads - 1, group.inputs)) < _CALIBRATION_DENSITY
    return np.unique(np.vstack([np.zeros(group.inputs), opened]), axis=0).astype(np.int64)


def trim(
    config: Config, converters: Sequence[Converter], plan: TilePlan, reads: Sequence[KnownReads]
) -> tuple[list[Converter], np.ndarray, np.ndarray]:
    """Measure gain and offset from known reads, and correct the converters of a layer's tiles for them.

    The method "reference" finds one gain for each tile: the current of its reference column over the ideal current,
    averaged over the tile's groups. A calibration fits, by least squares,

        measured sum = gain * (ideal sum + common * open wordlines) + offset

    with one gain and offset for the layer or for each bitline, and one `common` for the layer. `common` is the part of
    a current that every open cell conducts alike, at temperatures and supplies other than those of programming. A
    converter's gain multiplies it like any other current. It is not corrected: the reference column has it too, and
    subtracting that column removes it if gains are equal, the zero point is the reference level and a weight is one
    cell. A bitline whose reads do not decide a gain takes that of its layer.

    Args:
        config: the configuration.
        converters: the converters of each tile.
        plan: the tiles and groups of the layer.
        reads: known reads of the layer's groups.

    Returns:
        the corrected converters, then the measured gains and offsets [LSB] of all tiles, one tile after the other.

    Raises:
        ConfigError: a gain is outside of what any corner explains.
    """
    tiles = [[_sums(read, converter) for read in reads if read.group.tile == tile]
             for tile, converter in enumerate(converters)]  # fmt: skip
    sums = [tuple(np.concatenate(parts) for parts in zip(*groups, strict=True)) for groups in tiles]
    if config.trim.method == "reference":
        gains = [np.mean(measured[:, -1:] / ideal[:, -1:], axis=0) for measured, ideal, _ in sums]
        offsets = [np.zeros(1) for _ in gains]
    else:
        layer = Moments.of(*_pooled(sums))
        moments = [Moments.of(*tile) for tile in sums] if config.trim.per == "bitline" else [layer] * len(sums)
        common = Moments.joined(moments).common()
        mean_gain = float(layer.line(common, 1.0)[0][0])
        lines = [each.line(common, mean_gain) for each in moments]
        gains, offsets = [gain for gain, _ in lines], [offset for _, offset in lines]
    for found in gains:
        if not (_SANE_GAIN[0] < found.min() and found.max() < _SANE_GAIN[1]):
            raise ConfigError(
                f"layer {plan.layer.name!r}: trimming found gains of {found.min():.3g} to {found.max():.3g}, expected "
                f"{_SANE_GAIN[0]:g} to {_SANE_GAIN[1]:g}: currents do not follow the sums; read nearer to the "
                'condition the cells are programmed at, or set trim.method = "none"'
            )
    # Rounded, so that a chip without errors is left exactly as it is.
    gains, offsets = ([np.round(each, 9) for each in found] for found in (gains, offsets))
    trimmed = [c.trimmed(g, o) for c, g, o in zip(converters, gains, offsets, strict=True)]
    return trimmed, np.concatenate(gains), np.concatenate(offsets)


def _sums(read: KnownReads, converter: Converter) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measured sums, ideal sums, and a unit current for each open wordline, all (reads, bitlines) [LSB]."""
    opened = read.states.sum(axis=1, keepdims=True)
    ideal = converter.ideal_lsb(ideal_sums(read.group, read.states))
    return converter.in_lsb(read.currents), ideal, np.broadcast_to(converter.ideal_lsb(opened), ideal.shape)


def _pooled(sums: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """The sums of all bitlines of all tiles as those of a single bitline, (values, 1) each."""
    return tuple(np.concatenate([tile[i].ravel() for tile in sums])[:, None] for i in range(3))
