"""Random telegraph noise: the effect of traps in a layer's cells on the reads of an image.

A trap forgets its state at random moments, its renewals, on average once in its time constant. It then is filled or
empty anew. Sampled at the moments of reads, this is exactly the Markov chain that `cosim.device.traps` describes. A
trap without a renewal between the first and the last read of its group in an image is frozen: it moves all these reads
alike. The frozen traps of a cell are an offset of its current. Only the others are followed from read to read.

The states of traps in one image do not depend on those in another: images are taken to lie farther apart than the
slowest time constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cosim.config import Config
from cosim.device import Traps, draw_traps
from cosim.mapping import Group, ReadSchedule


@dataclass(frozen=True, eq=False)
class GroupTraps:
    """The traps of a group, and their effect on its currents.

    Attributes:
        group: the group.
        traps: its traps.
        step_a: (traps,) by how much the current of the open cell falls when the trap is filled [A].
    """

    group: Group
    traps: Traps
    step_a: np.ndarray

    @classmethod
    def drawn(cls, config: Config, layer: int, group: Group, slopes: np.ndarray) -> GroupTraps:
        """Draw the traps of a group of layer number `layer`.

        Args:
            config: the configuration, for its variation, seed and chip.
            layer: number of the layer in its network.
            group: the group.
            slopes: (units,) change of the current of a cell with its threshold, by the units that it holds [A/V].
        """
        traps = draw_traps(config, layer, group)
        return cls(group, traps, -slopes[group.units[traps.wordlines, traps.bitlines]] * traps.shift_v)

    @cached_property
    def _by_cell(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of the cells that have traps, and each cell's first trap."""
        return np.unique(self.traps.bitlines * self.group.inputs + self.traps.wordlines, return_index=True)

    def of_cells(self, values: np.ndarray) -> np.ndarray:
        """Sums of values (n, traps) over the traps of each cell: (n, inputs, lines)."""
        cells, first = self._by_cell
        found = np.zeros((len(values), self.group.units.size), values.dtype)
        if len(cells):
            found[:, cells] = np.add.reduceat(values, first, axis=1)
        return found.reshape(-1, *self.group.units.T.shape).swapaxes(1, 2)

    def variance(self) -> np.ndarray:
        """Variance of the current of each open cell: (inputs, lines) [A^2]."""
        occupancy = self.traps.occupancy
        found: np.ndarray = self.of_cells((occupancy * (1 - occupancy) * self.step_a**2)[None])[0]
        return found


@dataclass(frozen=True, eq=False)
class TrapStates:
    """The states of a group's traps during some images.

    Attributes:
        traps: the traps.
        filled: (images, traps) whether each trap is filled at the group's first read in the image, bool.
        renewal_s: (images, traps) time from then to the trap's next renewal [s].
    """

    traps: Traps
    filled: np.ndarray
    renewal_s: np.ndarray

    def changes(
        self, moments: np.ndarray, read_s: float, generators: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Follow the traps that are not frozen from read to read.

        Args:
            moments: (reads,) integers, when the group is read, rising.
            read_s: time between two moments [s].
            generators: one for each image.

        Returns:
            (n,) images and (n,) traps in them, both rising; and (n, reads) 1 where the trap's state differs from that
            at the group's first read in the image, else 0.
        """
        since = read_s * (moments - moments[0])
        images, which = np.nonzero(self.renewal_s <= since[-1])
        uniform = np.empty((len(images), len(since)), np.float32)
        bounds = np.searchsorted(images, np.arange(len(generators) + 1))
        for generator, start, stop in zip(generators, bounds[:-1], bounds[1:], strict=True):
            generator.random(out=uniform[start:stop], dtype=np.float32)
        # A trap is renewed from one read to the next by chance, except at the first read behind its known renewal.
        gaps, kinds = np.unique(np.diff(moments, prepend=moments[0]), return_inverse=True)
        chance = -np.expm1(-gaps * read_s / self.traps.time_s[:, None])
        chance = chance.astype(np.float32)[which].take(kinds, axis=1)
        occupancy = self.traps.occupancy[which].astype(np.float32)
        first = np.arange(len(images)), np.searchsorted(since, self.renewal_s[images, which])
        reads = np.arange(len(since), dtype=np.int32)
        renewed = uniform < chance
        renewed &= reads > first[1][:, None]
        renewed[first] = True
        chance *= occupancy[:, None]
        filled = uniform < chance
        filled[first] = uniform[first] < occupancy
        # The largest so far of these numbers is that of the last renewal, and its lowest bit is the state.
        latest = 2 * reads + filled
        latest *= renewed
        before = self.filled[images, which]
        latest[:, 0] = before
        np.maximum.accumulate(latest, axis=1, out=latest)
        latest &= 1
        latest ^= before[:, None]
        return images, which, latest


class Telegraph:
    """The random telegraph noise of a layer. Levels are programmed to the mean current over the states of traps.

    Args:
        config: the configuration, for its variation, read time, seed and chip.
        layer: number of the layer in its network.
        schedule: when the groups of the layer are read.
        slopes: (units,) change of the current of a cell with its threshold, by the units that it holds [A/V].
    """

    def __init__(self, config: Config, layer: int, schedule: ReadSchedule, slopes: np.ndarray) -> None:
        self._schedule, self._read_s = schedule, config.read.pulse_s
        self._groups = [GroupTraps.drawn(config, layer, group, slopes) for group in schedule.plan.groups]

    def variance(self, index: int, drive: np.ndarray, lsb_per_a: np.ndarray) -> np.ndarray:
        """Variance over images that the traps of group `index` give to reads: (reads, lines) [LSB^2].

        Args:
            index: number of the group.
            drive: (reads, inputs) share of its full voltage, 0..1, that each input has.
            lsb_per_a: positions per current, `Converter.lsb_per_a`, (lines,) or (1,).
        """
        return drive**2 @ self._groups[index].variance() * lsb_per_a**2

    def of_images(self, generators: Sequence[np.random.Generator]) -> list[TrapStates]:
        """Draw how images find the traps of each group.

        Args:
            generators: one for each image.
        """
        everything = [held.traps for held in self._groups]
        occupancy, time_s = (np.concatenate([getattr(traps, name) for traps in everything])
                             for name in ("occupancy", "time_s"))  # fmt: skip
        filled = np.stack([generator.random(len(occupancy)) < occupancy for generator in generators])
        renewal_s = np.stack([generator.exponential(time_s) for generator in generators])
        bounds = np.cumsum([len(traps.time_s) for traps in everything])[:-1]
        parts = zip(everything, np.split(filled, bounds, 1), np.split(renewal_s, bounds, 1), strict=True)
        return [TrapStates(*each) for each in parts]

    def add(
        self,
        index: int,
        lsb: np.ndarray,
        opened: np.ndarray,
        lsb_per_a: np.ndarray,
        states: TrapStates,
        generators: Sequence[np.random.Generator],
    ) -> None:
        """Add the noise of group `index` to conversions, in place.

        Args:
            index: number of the group.
            lsb: (images, conversions, lines) float32 positions [LSB], which are changed. A conversion is of one read or
                of the mean of several planes.
            opened: (images, reads, inputs) float32 share of its full voltage, 0..1, that each input has in each read,
                plane by plane.
            lsb_per_a: positions per current, `Converter.lsb_per_a`, (lines,) or (1,).
            states: how the images find the group's traps.
            generators: one for each image, the same as in `of_images`.
        """
        held, (images, conversions, lines) = self._groups[index], lsb.shape
        traps, averaged = held.traps, opened.shape[1] // conversions
        steps = held.step_a * np.broadcast_to(lsb_per_a, (lines,))[traps.bitlines]
        offsets = held.of_cells((steps * (traps.occupancy - states.filled)).astype(np.float32))
        lsb += opened.reshape(images, averaged, conversions, -1).mean(1) @ offsets
        moments = self._schedule.moments(held.group, opened.shape[1] // self._schedule.scheme.real_planes).ravel()
        order = np.argsort(moments)
        image, which, differs = states.changes(moments[order], self._read_s, generators)
        if not len(image):
            return
        moves = np.ascontiguousarray(opened[:, order].swapaxes(1, 2))[image, traps.wordlines[which]]
        moves *= np.where(states.filled[image, which], steps[which], -steps[which]).astype(np.float32)[:, None]
        moves *= differs
        columns, first = np.unique(image * lines + traps.bitlines[which], return_index=True)
        moved = np.add.reduceat(moves, first, axis=0)[:, np.argsort(order)]
        moved = moved.reshape(len(columns), averaged, conversions).mean(1)
        lsb.swapaxes(1, 2)[np.divmod(columns, lines)] += moved
