"""What differs between two reads of one pattern: cells' and converters' noise, and traps that come and go.

Tables hold the settled current of every pattern once. Noise is added to each use of it, before the converter rounds,
so that every read of every image has its own and codes follow the very distribution they would follow if each read
were simulated with noise. The noise of open cells is normal and independent; of their sum only the variance is needed.
Traps are drawn one by one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from cosim.config import Config
from cosim.device import cell_normals, chip_generator, current_sigma
from cosim.mapping import Group


@dataclass(frozen=True, eq=False)
class Traps:
    """A group's cells with an active trap: (traps,) wordline, bitline, and half the step of their current [units]."""

    wordlines: np.ndarray
    bitlines: np.ndarray
    half_units: np.ndarray


class ReadNoise:
    """The noise of a layer's reads, in unit currents.

    Args:
        config: variation, converter, seed and chip.
        layer: number of the layer in its network.
        groups: of its plan.
    """

    def __init__(self, config: Config, layer: int, groups: tuple[Group, ...]) -> None:
        variation, cell = config.variation, config.cell
        currents = np.arange(cell.most_units + 1) * cell.unit_a
        sigma = current_sigma(currents, variation.read_sigma_rel, variation.read_saturation_a) / cell.unit_a
        self._config = config
        self._layer = layer
        self._groups = groups
        self._variance = sigma**2  # of an open cell of so many units
        self.input_lsb = config.adc.noise_lsb
        self.per_cell = variation.read_sigma_rel > 0
        self.traps = [self._traps(group) for group in groups] if variation.telegraph_share > 0 else None

    @classmethod
    def of(cls, config: Config, layer: int, groups: tuple[Group, ...]) -> ReadNoise | None:
        """The noise of a layer, None where there is none."""
        variation = config.variation
        noisy = config.adc.noise_lsb > 0 or variation.read_sigma_rel > 0 or variation.telegraph_share > 0
        return cls(config, layer, groups) if noisy else None

    def _traps(self, group: Group) -> Traps:
        """Which cells have a trap is the chip's: a cell keeps it whatever the configuration reads."""
        variation = self._config.variation
        found = cell_normals(self._config, "traps", self._layer, group) < ndtri(variation.telegraph_share)
        wordlines, bitlines = np.nonzero(found & (group.units > 0))
        half = group.units[wordlines, bitlines] * variation.telegraph_rel / 2
        return Traps(wordlines, bitlines, half.astype(np.float32))

    def normal_variance(self, index: int, states: np.ndarray, lsb_per_unit: np.ndarray) -> np.ndarray:
        """Variance of the normal part in reads of group `index`: (reads, lines) [LSB^2].

        Args:
            states: (reads, inputs) of 0 and 1, which inputs are open.
            lsb_per_unit: (bitlines,) or (1,).
        """
        group = self._groups[index]
        cells = states @ self._variance[group.units]
        return cells * lsb_per_unit**2 + self.input_lsb**2

    def variance(self, index: int, states: np.ndarray, lsb_per_unit: np.ndarray) -> np.ndarray:
        """The same with what traps add."""
        group, total = self._groups[index], self.normal_variance(index, states, lsb_per_unit)
        if self.traps is None:
            return total
        traps, squares = self.traps[index], np.zeros(group.units.shape)
        squares[traps.wordlines, traps.bitlines] = traps.half_units.astype(np.float64) ** 2
        return total + states @ squares * lsb_per_unit**2

    def generator(self, patterns: np.ndarray) -> np.random.Generator:
        """The generator of one image's noise on this layer, seeded by the patterns that the image causes.

        So the noise of an image does not depend on those before it, nor on how many are computed at a time.
        """
        digest = hashlib.blake2b(np.ascontiguousarray(patterns).view(np.uint8).data, digest_size=16).digest()
        words = np.frombuffer(digest, np.uint32).tolist()
        return chip_generator(self._config, "read noise", self._layer, *words)

    def add(
        self,
        index: int,
        lsb: np.ndarray,
        sigma: np.ndarray | float,
        slots: np.ndarray,
        states: np.ndarray,
        lsb_per_unit: np.ndarray,
        generators: list[np.random.Generator],
    ) -> None:
        """Add noise to reads of group `index`, in place.

        Args:
            lsb: (images, reads, bitlines) float32 positions [LSB]; sigma: of the normal part, of a shape that fits.
            slots: (images, reads) rows of `states`, (slots, inputs) of 0 and 1, which inputs are open.
            generators: one an image.
        """
        normal = np.empty_like(lsb)
        for image, generator in enumerate(generators):
            generator.standard_normal(out=normal[image], dtype=np.float32)
        normal *= sigma
        lsb += normal
        if self.traps is None:
            return
        traps = self.traps[index]
        steps = traps.half_units * np.broadcast_to(lsb_per_unit, lsb.shape[-1:])[traps.bitlines].astype(np.float32)
        for image, generator in enumerate(generators):
            filled = generator.integers(2, size=(len(steps), slots.shape[1]), dtype=np.int8)
            opened = states[slots[image]][:, traps.wordlines].T.astype(np.int8)
            moves = ((2 * filled - 1) * opened).astype(np.float32) * steps[:, None]
            np.add.at(lsb[image].T, traps.bitlines, moves)
