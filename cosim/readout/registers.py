"""Registers that correct a measured gain and offset, before or after the converter, with a limited resolution."""

from __future__ import annotations

import numpy as np

from cosim.config import Trim
from cosim.readout.adc import Converter


def corrected(
    trim: Trim, converter: Converter, gain: np.ndarray, offset_lsb: np.ndarray
) -> tuple[Converter, np.ndarray]:
    """Correct the converters of a tile for their measured gain and offset.

    A register holds a whole number of steps around a factor of 1 or an offset of 0. Before the converter, it changes
    currents. After it, codes are multiplied and shifted, and keep their rounding errors.

    Args:
        trim: the section trim of the configuration.
        converter: the converters without correction.
        gain: measured gains, (bitlines,) or (1,).
        offset_lsb: measured offsets [LSB], of the same shape.

    Returns:
        the corrected converters, and (bitlines,) or (1,) bool, true where the correction exceeds a register's range.
    """
    if trim.registers == "exact":
        return converter.trimmed(gain, offset_lsb), np.zeros(gain.shape, bool)
    beyond = np.zeros(gain.shape, bool)
    if trim.registers in ("analog", "both"):
        factor, shift, beyond = _settings(trim, gain, offset_lsb)
        converter = converter.trimmed(1 / factor, shift / factor)
        gain, offset_lsb = gain * factor, offset_lsb * factor - shift
    if trim.registers in ("digital", "both"):
        factor, shift, beyond = _settings(trim, gain, offset_lsb)
        converter = converter.digitally_trimmed(factor, shift, trim.fraction_bits)
    return converter, beyond


def _settings(trim: Trim, gain: np.ndarray, offset_lsb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factor and shift [LSB] of the correction, position * factor - shift, and whether one exceeds its register."""
    factor, short = _register(1 / gain - 1, trim.gain_bits, trim.gain_range)
    factor += 1
    shift, far = _register(offset_lsb * factor, trim.offset_bits, trim.offset_range_lsb)
    return factor, shift, short | far


def _register(wanted: np.ndarray, bits: int, span: float) -> tuple[np.ndarray, np.ndarray]:
    """The values that two's complement registers hold, and which of them are more than a step from the wanted ones."""
    step = span / 2 ** (bits - 1)
    held = step * np.clip(np.rint(wanted / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return held, np.abs(wanted - held) > step
