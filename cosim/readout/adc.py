"""The analog-to-digital converters, which turn bitline currents into codes."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from cosim.arithmetic.codes import code_units, decision_offset, nearest_codes
from cosim.config import Config
from cosim.currents import SenseMismatch
from cosim.device import chip_generator


@dataclass(frozen=True, eq=False)
class Converter:
    """The converters behind the bitlines of a tile, and the sense stages before them.

        position in codes = sum of current over pulses / (unit_a * lsb_units) * gain + offset_lsb

    An ideal converter rounds the position to the nearest code in the range 0..`highest`. With `weights`, the code is
    the one that a successive approximation finds: it tries the bits from the largest to the smallest, and keeps a bit
    if the position is at least the sum of its weight and the weights kept so far.

    Attributes:
        unit_a: current between neighbouring levels, `Cell.unit_a` [A].
        lsb_units: width of a code in unit currents, (bitlines,), or (1,) if all bitlines agree; 1 loses nothing.
        highest: the largest code, or None for no limit.
        gain: gain of sense stage, converter and trimming together, (bitlines,) or (1,).
        offset_lsb: their offset [LSB], of the same shape.
        weights: what each bit counts [LSB], (bitlines, bits), least significant first; None for 1, 2, 4, ...
        pulses: number of pulses whose charge one conversion adds up; 1 if it converts a current.
        factor: what codes are multiplied by, (bitlines,) or (1,); None if codes are not corrected.
        shift_lsb: shift that is then subtracted [LSB], of the same shape.
        fraction_bits: number of fraction bits that the result keeps.
    """

    unit_a: float
    lsb_units: np.ndarray
    highest: int | None
    gain: np.ndarray
    offset_lsb: np.ndarray
    weights: np.ndarray | None = None
    pulses: int = 1
    factor: np.ndarray | None = None
    shift_lsb: np.ndarray | None = None
    fraction_bits: int = 0

    @classmethod
    def from_config(
        cls, config: Config, lsb_units: np.ndarray | None = None, pulses: int = 1, unit_a: float | None = None
    ) -> Converter:
        """Make the converters of a configuration without their errors.

        Args:
            config: the configuration.
            lsb_units: widths of a code that a calibration found, (bitlines,) or (1,); None for those of `code_units`.
            pulses: number of pulses whose charge one conversion adds up.
            unit_a: unit current that the reference gives [A]; None for that of the design.
        """
        found, highest = code_units(config, pulses)
        widths = np.array([found]) if lsb_units is None else lsb_units
        unit = config.cell.unit_a if unit_a is None else unit_a
        return cls(unit, widths, highest, np.ones(1), np.zeros(1), pulses=pulses)

    @classmethod
    def drawn(
        cls,
        config: Config,
        layer: int,
        tile: int,
        bitlines: int,
        lsb_units: np.ndarray | None = None,
        pulses: int = 1,
        unit_a: float | None = None,
        sense: SenseMismatch | None = None,
    ) -> Converter:
        """Make the converters and sense stages of one tile of a chip, with the errors drawn for that chip.

        Args:
            config: the configuration.
            layer: number of the layer in its network.
            tile: number of the tile within the layer.
            bitlines: number of bitlines that the tile uses.
            lsb_units: as in `from_config`.
            pulses: as in `from_config`.
            unit_a: as in `from_config`.
            sense: what mismatch of the sense stages does at the corner; None for no mismatch.
        """
        adc, variation, ideal = config.adc, config.variation, cls.from_config(config, lsb_units, pulses, unit_a)

        def errors(effect: str, sigma: float) -> np.ndarray:
            return (
                sigma * chip_generator(config, effect, layer, tile).standard_normal(bitlines) if sigma else np.zeros(1)
            )

        gain_error = errors("sense gain", variation.sense_gain_sigma)
        offset_a = errors("sense offset", variation.sense_offset_sigma_a)
        if sense is not None:
            drawn_gain, drawn_a = sense.drawn(config, layer, tile, bitlines)
            gain_error, offset_a = gain_error + drawn_gain, offset_a + drawn_a
        sense_gain, sense_offset = 1 + gain_error, offset_a / ideal.ampere_per_lsb
        gain = 1 + errors("converter gain", adc.gain_error)
        offset = errors("converter offset", adc.offset_lsb)
        weights = None
        if adc.capacitor_sigma > 0:
            assert isinstance(adc.bits, int)
            weights = bit_weights(
                adc.bits, adc.capacitor_sigma, bitlines, chip_generator(config, "capacitors", layer, tile)
            )
        return replace(ideal, gain=sense_gain * gain, offset_lsb=sense_offset * gain + offset, weights=weights)

    @functools.cached_property
    def decision_lsb(self) -> np.ndarray:
        """The `decision_offset` of each code width, (bitlines,) or (1,), which is added before rounding [LSB]."""
        return np.array([decision_offset(units) for units in self.lsb_units.tolist()])

    @property
    def ampere_per_lsb(self) -> np.ndarray:
        """Current that moves an ideal converter by one code if it lasts for every pulse [A], (bitlines,) or (1,)."""
        return self.unit_a * self.lsb_units / self.pulses

    @property
    def lsb_per_a(self) -> np.ndarray:
        """How far a current that lasts for every pulse moves the position [LSB/A], (bitlines,) or (1,)."""
        return self.gain / self.ampere_per_lsb

    def in_lsb(self, currents: np.ndarray) -> np.ndarray:
        """Unrounded positions in codes of currents (..., bitlines) [A] that last for every pulse of a conversion.

        If the current changes from pulse to pulse, the position is the mean over the pulses.
        """
        return currents / self.ampere_per_lsb * self.gain + self.offset_lsb

    def ideal_lsb(self, sums: np.ndarray) -> np.ndarray:
        """Unrounded positions in codes of sums (..., bitlines) in unit currents, without the converters' errors."""
        return sums * self.pulses / self.lsb_units

    def currents(self, lsb: np.ndarray) -> np.ndarray:
        """Currents [A] that lie at the given positions (..., bitlines), 0 on dead bitlines: the inverse of `in_lsb`."""
        dead = self.gain == 0
        return np.where(dead, 0, (lsb - self.offset_lsb) / np.where(dead, 1, self.gain) * self.ampere_per_lsb)

    def codes(self, lsb: np.ndarray) -> np.ndarray:
        """Codes, int32, of positions (..., bitlines) as `in_lsb` gives them."""
        return self.quantized(lsb).astype(np.int32)

    def quantized(self, lsb: np.ndarray) -> np.ndarray:
        """The codes of `codes`, but as floats of the same type as the positions."""
        if self.decision_lsb.any():
            lsb = lsb + self.decision_lsb.astype(lsb.dtype)
        if self.weights is None:
            return nearest_codes(lsb, self.highest)
        weights = self.weights.astype(lsb.dtype)
        code, reached = np.zeros_like(lsb), np.full_like(lsb, -0.5)  # an ideal code begins half a code lower
        for bit in reversed(range(weights.shape[1])):
            kept = lsb >= reached + weights[:, bit]
            reached += kept * weights[:, bit]
            code += kept * lsb.dtype.type(2**bit)
        return code

    def trimmed(self, gain: np.ndarray, offset_lsb: np.ndarray) -> Converter:
        """These converters after correction of their measured gain and offset, each (bitlines,) or (1,)."""
        return replace(self, gain=self.gain / gain, offset_lsb=(self.offset_lsb - offset_lsb) / gain)

    def behind(self, dead: np.ndarray) -> Converter:
        """These converters for bitlines some of which are dead, (bitlines,) bool."""
        if not dead.any():
            return self
        return replace(self, gain=np.where(dead, 0, self.gain), offset_lsb=self.offset_lsb + np.zeros(len(dead)))

    def digitally_trimmed(self, factor: np.ndarray, shift_lsb: np.ndarray, fraction_bits: int) -> Converter:
        """These converters with a correction of their codes: codes times `factor` minus `shift_lsb`."""
        return replace(self, factor=factor, shift_lsb=shift_lsb, fraction_bits=fraction_bits)

    def corrected(self, codes: np.ndarray) -> np.ndarray:
        """Codes (..., bitlines), as `quantized` returns them, after digital correction."""
        if self.factor is None:
            return codes
        assert self.shift_lsb is not None
        # That codes of an even width begin half a unit lower is not an offset of the converter.
        exact = (codes - self.decision_lsb) * self.factor - self.shift_lsb + self.decision_lsb
        return (np.rint(np.ldexp(exact, self.fraction_bits)) / 2**self.fraction_bits).astype(codes.dtype)


def bit_weights(bits: int, sigma: float, bitlines: int, generator: np.random.Generator) -> np.ndarray:
    """Weights of the bits of charge-redistribution converters: (bitlines, bits) [LSB], least significant first.

    Bit b switches 2^b unit capacitors, each with the relative standard deviation `sigma`, and one more unit capacitor
    terminates the array. The weight of a bit is its share of the array's capacitance times 2^bits. In the middle of the
    range, the differential non-linearity then has a standard deviation of sqrt(2^bits - 1) * sigma LSB, and the
    integral non-linearity half of that.

    Source: McCreary and Gray, "All-MOS charge redistribution analog-to-digital conversion techniques", JSSC 1975;
    Saberi et al., "Analysis of power consumption and linearity in capacitive digital-to-analog converters used in
    successive approximation ADCs", TCAS-I 2011.
    """
    units = np.append(2.0 ** np.arange(bits), 1)
    capacitors = units + sigma * np.sqrt(units) * generator.standard_normal((bitlines, bits + 1))
    return 2**bits * capacitors[:, :-1] / capacitors.sum(axis=1, keepdims=True)
