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

        measured sum = gain * ideal sum + a * open wordlines + offset

    with one gain and offset for the layer or for each bitline, and one `a` for the layer. The current `a`, which every
    open cell conducts alike, is not corrected: the reference column has it too, and subtracting that column removes it
    if the zero point is the reference level and a weight is one cell. A bitline whose ideal sums do not vary takes the
    gain of its layer.

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
        gain, _, offset = _plane(*(np.concatenate([part[i].ravel() for part in sums]) for i in range(3)))
        gains, offsets = [np.array([gain])] * len(sums), [np.array([offset])] * len(sums)
        if config.trim.per == "bitline":
            each_cell = _common(sums)
            lines = [_lines(m - each_cell * opened, ideal, gain) for m, ideal, opened in sums]
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


def _plane(measured: np.ndarray, ideal: np.ndarray, opened: np.ndarray) -> tuple[float, float, float]:
    """Fit the plane of `trim`: returns gain, `a` and offset."""
    found = np.linalg.lstsq(np.stack([ideal, opened, np.ones_like(ideal)], axis=1), measured, rcond=None)[0]
    return float(found[0]), float(found[1]), float(found[2])


def _common(sums: Sequence[tuple[np.ndarray, ...]]) -> float:
    """Fit the `a` of `trim` when each bitline has a gain and an offset of its own.

    This is a regression in two steps (Frisch and Waugh, "Partial time regressions as compared with individual trends",
    1933). First, measured sums and open wordlines are each fitted to the ideal sums, bitline by bitline. Then the
    residuals of the measured sums are fitted to the residuals of the open wordlines.
    """
    product = square = 0.0
    for measured, ideal, opened in sums:
        left, unexplained = (values - _line_values(values, ideal) for values in (measured, opened))
        product += float((left * unexplained).sum())
        square += float((unexplained**2).sum())
    return product / square if square > 1e-9 else 0.0


def _line_values(values: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    gains, offsets = _lines(values, ideal, 0.0)
    return gains * ideal + offsets


def _lines(measured: np.ndarray, ideal: np.ndarray, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit a line to measured over ideal values (reads, columns): returns gains and offsets, (columns,).

    A column whose ideal values are constant gets the given `gain`.
    """
    variance = ideal.var(axis=0)
    varies = variance > 1e-9
    covariance = ((ideal - ideal.mean(axis=0)) * measured).mean(axis=0)
    gains = np.where(varies, covariance / np.where(varies, variance, 1), gain)
    return gains, measured.mean(axis=0) - gains * ideal.mean(axis=0)
