"""Trimming: gain and offset of the converters from reads whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cosim.config import Config
from cosim.device import chip_generator
from cosim.errors import ConfigError
from cosim.mapping import Group, TilePlan
from cosim.readout.adc import Converter
from cosim.readout.tables import ideal_sums

# Gains that no corner explains: reads that do not follow the sums.
_SANE_GAIN = (0.05, 20.0)


@dataclass(frozen=True, eq=False)
class KnownReads:
    """Reads of a group of which the ideal answer is known: (n,) patterns, and (n, bitlines) currents [A]."""

    group: Group
    patterns: np.ndarray
    currents: np.ndarray


def known_patterns(config: Config, group: Group) -> np.ndarray:
    """The patterns that trimming reads on a group: all wordlines open, and for a calibration others drawn at random."""
    every = 2**group.wordlines - 1
    if config.trim.method == "reference":
        return np.array([every])
    drawn = chip_generator(config, "calibration reads", group.stream).integers(every, size=config.trim.reads - 1)
    return np.unique(np.append(drawn, every))


def trim(
    config: Config, converters: Sequence[Converter], plan: TilePlan, reads: Sequence[KnownReads]
) -> tuple[list[Converter], np.ndarray, np.ndarray]:
    """Take gain and offset, as known reads show them, out of the converters of a layer's tiles.

    By the reference column a tile has one gain: the column's current over its ideal current, the mean of the tile's
    groups. By calibration gain and offset are the straight line of least squares through measured against ideal sums,
    of the whole layer or of each bitline; a bitline whose ideal sums do not vary takes its layer's.

    Returns:
        the converters; the gains and offsets [LSB] that were measured, of every tile, one after the other.

    Raises:
        ConfigError: a gain that no corner explains.
    """
    measured: list[list[np.ndarray]] = [[] for _ in converters]
    ideal: list[list[np.ndarray]] = [[] for _ in converters]
    for read in reads:
        converter = converters[read.group.tile]
        measured[read.group.tile].append(converter.in_lsb(read.currents))
        ideal[read.group.tile].append(ideal_sums(read.group, read.patterns) / converter.lsb_units)
    by_tile = [(np.concatenate(m), np.concatenate(i)) for m, i in zip(measured, ideal, strict=True)]
    if config.trim.method == "reference":
        gains = [np.mean(m[:, -1:] / i[:, -1:], axis=0) for m, i in by_tile]
        offsets = [np.zeros(1) for _ in gains]
    else:
        everything = [np.concatenate([sums[side].ravel() for sums in by_tile])[:, None] for side in (0, 1)]
        pooled = _line(everything[0], everything[1], (np.ones(1), np.zeros(1)))
        lines = [_line(m, i, pooled) if config.trim.per == "bitline" else pooled for m, i in by_tile]
        gains, offsets = [gain for gain, _ in lines], [offset for _, offset in lines]
    for gain in gains:
        if not (_SANE_GAIN[0] < gain.min() and gain.max() < _SANE_GAIN[1]):
            raise ConfigError(
                f"layer {plan.layer.name!r}: trimming found gains of {gain.min():.3g} to {gain.max():.3g}, expected "
                f"{_SANE_GAIN[0]:g} to {_SANE_GAIN[1]:g}: currents do not follow the sums; read nearer to the "
                'condition the cells are programmed at, or set trim.method = "none"'
            )
    trimmed = [c.trimmed(g, o) for c, g, o in zip(converters, gains, offsets, strict=True)]
    return trimmed, np.concatenate(gains), np.concatenate(offsets)


def _line(
    measured: np.ndarray, ideal: np.ndarray, instead: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Gain and offset, (columns,), of measured over ideal (reads, columns); `instead` where the ideal does not vary."""
    variance = ideal.var(axis=0)
    varies = variance > 1e-9
    covariance = ((ideal - ideal.mean(axis=0)) * measured).mean(axis=0)
    gain = covariance / np.where(varies, variance, 1)
    offset = measured.mean(axis=0) - gain * ideal.mean(axis=0)
    return np.where(varies, gain, instead[0]), np.where(varies, offset, instead[1])
