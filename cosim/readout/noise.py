"""Read noise, which makes two reads of the same pattern differ.

Its parts are the noise of the cells, the noise of the converters, and traps that fill and empty at random
(`cosim.readout.telegraph`). A table holds the settled current of each pattern once. Noise is added whenever that
current is used, before the converter rounds. Codes thus have the same distribution as if each read were simulated with
noise. The noise of open cells is normal and independent from read to read, so only the variance of their sum is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from cosim.config import Config
from cosim.device import chip_generator, current_sigma
from cosim.errors import ConfigError
from cosim.mapping import ReadSchedule, ReadScheme, TilePlan
from cosim.readout.telegraph import Telegraph


class ReadNoise:
    """The noise of a layer's reads.

    Args:
        config: the configuration, for its variation, converter, read time, seed and chip.
        layer: number of the layer in its network.
        plan: the tiles and groups of the layer.
        scheme: how the layer is read.
        slopes: (units,) change of the current of a cell with its threshold, by the units that it holds [A/V]; needed
            only with variation.telegraph_traps.

    Attributes:
        per_cell: whether cells have noise from read to read.

    Raises:
        ConfigError: there are traps, but the cells have no thresholds.
    """

    def __init__(
        self, config: Config, layer: int, plan: TilePlan, scheme: ReadScheme, slopes: np.ndarray | None = None
    ) -> None:
        self._config, self._layer, self._plan, self._scheme = config, layer, plan, scheme
        self.per_cell = config.variation.read_sigma_rel > 0
        self._telegraph: Telegraph | None = None
        if config.variation.telegraph_traps > 0:
            if slopes is None:
                raise ConfigError(
                    "variation.telegraph_traps move the thresholds of cells, but this source of currents has no "
                    "thresholds: choose another source, or set telegraph_traps to 0"
                )
            self._telegraph = Telegraph(config, layer, ReadSchedule(plan, scheme), slopes)

    @property
    def of_sums(self) -> bool:
        """Whether noise is drawn for sums instead of reads."""
        return self._config.run.noise == "sums"

    @property
    def has_traps(self) -> bool:
        """Whether there is random telegraph noise."""
        return self._telegraph is not None

    @classmethod
    def of(
        cls, config: Config, layer: int, plan: TilePlan, scheme: ReadScheme, slopes: np.ndarray | None
    ) -> ReadNoise | None:
        """The noise of a layer, or None if its reads have no noise."""
        variation = config.variation
        noisy = config.adc.noise_lsb > 0 or variation.read_sigma_rel > 0 or variation.telegraph_traps > 0
        return cls(config, layer, plan, scheme, slopes) if noisy else None

    def variance(self, index: int, drive: np.ndarray, lsb_per_a: np.ndarray) -> np.ndarray:
        """Variance of the noise of conversions: (conversions, lines) [LSB^2].

        Args:
            index: number of the group.
            drive: (conversions, inputs) share of its full voltage, 0..1, that each input has, in all planes that are
                converted together.
            lsb_per_a: positions per current, `Converter.lsb_per_a`, (lines,) or (1,).
        """
        found = self.read_variance(index, drive, lsb_per_a) / self._scheme.averaged
        if self._telegraph is not None:
            found = found + self._telegraph.variance(index, drive, lsb_per_a)
        total: np.ndarray = found + self._config.adc.noise_lsb**2
        return total

    def read_variance(self, index: int, drive: np.ndarray, lsb_per_a: np.ndarray) -> np.ndarray:
        """Variance of single reads from the noise of cells: (reads, lines) [LSB^2]; arguments as in `variance`."""
        variation, cell, units = self._config.variation, self._config.cell, self._plan.groups[index].units
        found = np.zeros((len(drive), units.shape[1]))
        if variation.read_sigma_rel > 0:
            currents = np.arange(cell.most_units + 1) * cell.unit_a
            for share in np.unique(drive[drive > 0]):
                sigma = current_sigma(share * currents, variation.read_sigma_rel, variation.read_saturation_a)
                found += (drive == share) @ (sigma**2)[units]
        return found * lsb_per_a**2

    def of_sum(self, sums: np.ndarray) -> np.random.Generator:
        """The generator of the noise of one image's sums, seeded by the sums without noise (outputs, height, width)."""
        digest = hashlib.blake2b(np.ascontiguousarray(sums).view(np.uint8).data, digest_size=16).digest()
        return chip_generator(self._config, "noise of sums", self._layer, *np.frombuffer(digest, np.uint32).tolist())

    def of_images(self, patterns: Sequence[np.ndarray]) -> ImageNoise:
        """Begin to draw the noise of some images.

        Args:
            patterns: for each image, the patterns that it causes in the layer. They seed its noise, which therefore
                depends neither on other images nor on how many are computed at a time.
        """
        seeds = []
        for image in patterns:
            digest = hashlib.blake2b(np.ascontiguousarray(image).view(np.uint8).data, digest_size=16).digest()
            seeds.append(np.frombuffer(digest, np.uint32).tolist())

        def generators(effect: str) -> list[np.random.Generator]:
            return [chip_generator(self._config, effect, self._layer, *words) for words in seeds]

        switching = generators("states of traps") if self._telegraph is not None else []
        return ImageNoise(self._config.adc.noise_lsb, generators("read noise"), self._telegraph, switching)


class ImageNoise:
    """The noise of some images in a layer. `add` must be called once for each group, in the order of the plan.

    Args:
        input_lsb: standard deviation of the noise at the converter's input [LSB].
        normals: for each image, a generator of the normal noise.
        telegraph: the random telegraph noise, or None.
        switching: for each image, a generator of the states of traps; empty without `telegraph`.
    """

    def __init__(
        self,
        input_lsb: float,
        normals: Sequence[np.random.Generator],
        telegraph: Telegraph | None,
        switching: Sequence[np.random.Generator],
    ) -> None:
        self._input_lsb, self._normals = input_lsb, normals
        self._telegraph, self._switching = telegraph, switching
        self._states = telegraph.of_images(switching) if telegraph is not None else []

    def add(
        self,
        index: int,
        lsb: np.ndarray,
        cells: np.ndarray | float,
        opened: np.ndarray | None,
        lsb_per_a: np.ndarray,
    ) -> None:
        """Add noise to the conversions of group `index`, in place.

        Args:
            index: number of the group.
            lsb: (images, conversions, lines) float32 positions [LSB], which are changed.
            cells: variance of the conversions from the noise of cells [LSB^2], of a shape that broadcasts to `lsb`'s.
            opened: (images, reads, inputs) as `Telegraph.add` takes it; needed only with traps.
            lsb_per_a: positions per current, `Converter.lsb_per_a`, (lines,) or (1,).
        """
        sigma = np.sqrt(cells + self._input_lsb**2, dtype=np.float32)
        if sigma.any():
            normal = np.empty_like(lsb)
            for image, generator in enumerate(self._normals):
                generator.standard_normal(out=normal[image], dtype=np.float32)
            normal *= sigma
            lsb += normal
        if self._telegraph is not None:
            assert opened is not None
            self._telegraph.add(index, lsb, opened, lsb_per_a, self._states[index], self._switching)
