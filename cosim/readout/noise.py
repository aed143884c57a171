"""Read noise: what makes two reads of the same pattern differ.

Its parts are the noise of the cells, the noise of the converters, and traps that fill and empty at random. A table
holds the settled current of each pattern once. Noise is added whenever that current is used, before the converter
rounds. Every read of every image thus has noise of its own, and codes have the same distribution as if each read were
simulated with noise. The noise of open cells is normal and independent, so only the variance of their sum is needed.
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
    """The cells of a group that have an active trap.

    Attributes:
        wordlines: (traps,) wordline of each such cell.
        bitlines: (traps,) its bitline.
        half_units: (traps,) half of the step that the trap makes in its current [unit currents].
    """

    wordlines: np.ndarray
    bitlines: np.ndarray
    half_units: np.ndarray


class ReadNoise:
    """The noise of a layer's reads, in unit currents.

    Args:
        config: the configuration, for its variation, converter, seed and chip.
        layer: number of the layer in its network.
        groups: the groups of the layer's plan.
    """

    def __init__(self, config: Config, layer: int, groups: tuple[Group, ...]) -> None:
        variation, cell = config.variation, config.cell
        currents = np.arange(cell.most_units + 1) * cell.unit_a
        sigma = current_sigma(currents, variation.read_sigma_rel, variation.read_saturation_a) / cell.unit_a
        self._config = config
        self._layer = layer
        self._groups = groups
        self._variance = sigma**2  # indexed by the unit currents of an open cell
        self.input_lsb = config.adc.noise_lsb
        self.per_cell = variation.read_sigma_rel > 0
        self.traps = [self._traps(group) for group in groups] if variation.telegraph_share > 0 else None

    @classmethod
    def of(cls, config: Config, layer: int, groups: tuple[Group, ...]) -> ReadNoise | None:
        """The noise of a layer, or None if its reads have no noise."""
        variation = config.variation
        noisy = config.adc.noise_lsb > 0 or variation.read_sigma_rel > 0 or variation.telegraph_share > 0
        return cls(config, layer, groups) if noisy else None

    def _traps(self, group: Group) -> Traps:
        """Draw the traps of a group. They belong to the chip: a cell keeps its trap however the cells are read."""
        variation = self._config.variation
        found = cell_normals(self._config, "traps", self._layer, group) < ndtri(variation.telegraph_share)
        wordlines, bitlines = np.nonzero(found & (group.units > 0))
        half = group.units[wordlines, bitlines] * variation.telegraph_rel / 2
        return Traps(wordlines, bitlines, half.astype(np.float32))

    def normal_variance(self, index: int, states: np.ndarray, lsb_per_unit: np.ndarray) -> np.ndarray:
        """Variance of the normally distributed noise in reads of group `index`: (reads, lines) [LSB^2].

        Args:
            index: number of the group.
            states: (reads, inputs), 1 for each open input and 0 for the others.
            lsb_per_unit: positions per unit current [LSB], (bitlines,) or (1,).
        """
        group = self._groups[index]
        cells = states @ self._variance[group.units]
        return cells * lsb_per_unit**2 + self.input_lsb**2

    def variance(self, index: int, states: np.ndarray, lsb_per_unit: np.ndarray) -> np.ndarray:
        """Variance of the noise with the part of the traps included; arguments as in `normal_variance`."""
        group, total = self._groups[index], self.normal_variance(index, states, lsb_per_unit)
        if self.traps is None:
            return total
        traps, squares = self.traps[index], np.zeros(group.units.shape)
        squares[traps.wordlines, traps.bitlines] = traps.half_units.astype(np.float64) ** 2
        return total + states @ squares * lsb_per_unit**2

    def generator(self, patterns: np.ndarray) -> np.random.Generator:
        """Make the generator of one image's noise on this layer, seeded by the patterns that the image causes.

        The noise of an image therefore depends neither on earlier images nor on how many are computed at a time.
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
            index: number of the group.
            lsb: (images, reads, bitlines) float32 positions [LSB], which are changed.
            sigma: standard deviation of the normal noise [LSB], of a shape that broadcasts to that of `lsb`.
            slots: (images, reads) row of `states` for each read.
            states: (slots, inputs), 1 for each open input and 0 for the others.
            lsb_per_unit: positions per unit current [LSB], (bitlines,) or (1,).
            generators: one for each image.
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
