"""The result of a sweep, and its HDF5 file (docs/formats/sweep.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cosim.checked import Count, Number, Text, parse
from cosim.config import check_value
from cosim.errors import ConfigError, InputError
from cosim.evaluate.comparison import Accuracy
from cosim.evaluate.provenance import Provenance
from cosim.experiments.points import CHIPS
from cosim.files import is_file
from cosim.hdf5 import Group, Quantity, read_file, write_file

FORMAT = "cosim-sweep-4"


@dataclass(frozen=True)
class Spread:
    """Summary of the accuracies of several points.

    The 95 % confidence interval of the mean is taken across chips (Student's t) if there are several, otherwise it is
    for the choice of images (Wilson).

    Attributes:
        mean: mean accuracy.
        low: lower end of its confidence interval.
        high: upper end of its confidence interval.
        worst: lowest accuracy.
        points: number of points.
    """

    mean: float
    low: float
    high: float
    worst: float
    points: int


@dataclass(frozen=True, eq=False)
class SweepResult:
    """A grid of outcomes.

    The shape of the grid is made of the lengths of the axes, in order. Points that failed hold nan and False.

    Attributes:
        provenance: network, data set, versions, and the configuration that all points share.
        axes: configuration key -> its values.
        software_right: (images,) bool, whether the integer network classifies each image correctly.
        right: (*grid, images) bool, whether each image is classified correctly.
        agreeing: (*grid, images) bool, whether each image is decided as in software.
        reasons: (*grid) why a point failed, "" if it did not.
        code_error_rms: (*grid) as in `Outcome`, like all that follow.
        code_error_max: (*grid).
        clipped_share: (*grid).
        unsettled_lsb: (*grid).
        certificate_reads: (*grid).
        certificate_max_error_lsb: (*grid).
        seconds: (*grid).
        ngspice_seconds: (*grid).
    """

    provenance: Provenance
    axes: dict[str, tuple[Any, ...]]
    software_right: np.ndarray
    right: np.ndarray
    agreeing: np.ndarray
    reasons: np.ndarray
    code_error_rms: np.ndarray
    code_error_max: np.ndarray
    clipped_share: np.ndarray
    unsettled_lsb: np.ndarray
    certificate_reads: np.ndarray
    certificate_max_error_lsb: np.ndarray
    seconds: np.ndarray
    ngspice_seconds: np.ndarray

    @property
    def images(self) -> int:
        return len(self.software_right)

    @property
    def done(self) -> np.ndarray:
        """(*grid) bool, whether each point has an outcome."""
        return self.reasons == ""

    @property
    def failed(self) -> int:
        return int((~self.done).sum())

    @property
    def accuracy(self) -> np.ndarray:
        """(*grid) share of images classified correctly, nan if a point failed."""
        return np.where(self.done, self.right.mean(axis=-1), np.nan)

    @property
    def disagreements(self) -> np.ndarray:
        """(*grid) number of images that are decided differently than in software, nan if a point failed."""
        return np.where(self.done, (~self.agreeing).sum(axis=-1), np.nan)

    @property
    def software(self) -> Accuracy:
        return Accuracy(int(self.software_right.sum()), self.images)

    @property
    def chip_axis(self) -> int | None:
        """Number of the axis of virtual chips, or None if there are not several chips."""
        return list(self.axes).index(CHIPS) if len(self.axes.get(CHIPS, ())) > 1 else None

    def settings(self, index: tuple[int, ...]) -> dict[str, Any]:
        """Key -> value at a point. Axes whose index is a slice are left out."""
        chosen = zip(self.axes.items(), index, strict=True)
        return {key: values[place] for (key, values), place in chosen if not isinstance(place, slice)}

    def cases(self) -> Iterator[tuple[Any, ...]]:
        """Indices of all cases. A case is a point, or all virtual chips with the same settings if there are several."""
        ranges = [
            [slice(None)] if number == self.chip_axis else range(len(values))
            for number, values in enumerate(self.axes.values())
        ]
        places: list[tuple[Any, ...]] = [()]
        for choices in ranges:
            places = [(*place, choice) for place in places for choice in choices]
        return iter(places)

    def along(self, axis: int) -> list[Spread | None]:
        """For each value of an axis, the spread over the points that have it, or None if all of them failed."""
        chips = self.chip_axis
        moved = np.moveaxis(self.accuracy, axis, 0)
        by_chip = None if chips is None or chips == axis else chips - (chips > axis)
        return [self._spread(values, by_chip) for values in moved]

    def spread(self, case: tuple[Any, ...]) -> Spread | None:
        """The spread over the points of a case, or None if all of them failed."""
        values = np.atleast_1d(self.accuracy[case])
        return self._spread(values, None if self.chip_axis is None else 0)

    def _spread(self, accuracies: np.ndarray, chip_axis: int | None) -> Spread | None:
        known = accuracies[~np.isnan(accuracies)]
        if not len(known):
            return None
        mean, worst = float(known.mean()), float(known.min())
        if chip_axis is not None:
            rows = np.moveaxis(accuracies, chip_axis, 0).reshape(accuracies.shape[chip_axis], -1)
            chips = np.array([row[~np.isnan(row)].mean() for row in rows if not np.isnan(row).all()])
            if len(chips) > 1:
                from scipy.special import stdtrit

                half = float(stdtrit(len(chips) - 1, 0.975) * chips.std(ddof=1)) / math.sqrt(len(chips))
                return Spread(mean, max(mean - half, 0.0), min(mean + half, 1.0), worst, len(known))
        low, high = Accuracy(round(mean * self.images), self.images).interval
        return Spread(mean, low, high, worst, len(known))

    @property
    def worst(self) -> tuple[int, ...] | None:
        """Index of the point with the lowest accuracy, or None if all points failed."""
        if not self.done.any():
            return None
        return tuple(int(place) for place in np.unravel_index(np.nanargmin(self.accuracy), self.accuracy.shape))

    def save(self, path: Path) -> None:
        """Write the HDF5 file, such that no reader sees a part of it."""
        texts = {
            "format": FORMAT,
            "provenance": json.dumps(self.provenance.to_json()),
            "axes": json.dumps({key: list(values) for key, values in self.axes.items()}),
        }
        bits = {name: np.packbits(getattr(self, name), axis=-1) for name in _BITS}
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        shown = {"accuracy": self.accuracy, "disagreements": self.disagreements, "reasons": self.reasons}
        file = Group(arrays={**bits, **numbers, **shown}, attributes={**texts, "images": self.images})
        axes = file.groups["axes"] = Group()
        for number, (key, values) in enumerate(self.axes.items()):
            plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
            axes.arrays[str(number)] = np.array(values if plain else list(map(str, values)), None if plain else object)
            axes.notes[str(number)] = {"key": key}
        write_file(path, file)

    @classmethod
    def load(cls, path: Path) -> SweepResult:
        """Read a sweep's file.

        Raises:
            InputError: there is no such file, or it is not as cosim wrote it.
            MachineError: no process can be started to read it.
        """
        if not is_file(path):
            raise InputError(f"no sweep at {path}: name a file that `cosim sweep --out` wrote")
        try:
            return cls._read(read_file(path))
        except (OSError, ValueError, ConfigError) as error:
            raise InputError(
                f"{path} is no sweep as cosim wrote it ({error}): take an undamaged copy, or repeat `cosim sweep`"
            ) from error

    @classmethod
    def _read(cls, file: Group) -> SweepResult:
        """Make the result from a file's content.

        Raises:
            ValueError, ConfigError: the content is no sweep.
        """
        if file.attributes.get("format") != FORMAT:
            raise ValueError(f"format {file.attributes.get('format')!r:.80}, expected {FORMAT!r}")
        came = Provenance.from_json(str(file.attributes.get("provenance")))
        axes = {
            key: tuple(check_value(key, value) for value in values)
            for key, values in parse(_Axes, str(file.attributes.get("axes"))).items()
        }
        if not all(axes.values()) or not axes or came.images == 0:
            raise ValueError("a sweep must have an image, and an axis with values")
        grid = " ".join(axes)
        sizes = {**{key: len(values) for key, values in axes.items()}, "bytes": -(-came.images // 8)}
        numbers = file.take({name: Quantity("real or nan", grid, "") for name in _NUMBERS}, sizes)
        reasons = file.take({"reasons": Quantity("text", grid, "")}, sizes)
        packed = file.take(
            {
                "software_right": Quantity("byte", "bytes", ""),
                "right": Quantity("byte", f"{grid} bytes", ""),
                "agreeing": Quantity("byte", f"{grid} bytes", ""),
            },
            sizes,
        )
        bits = {name: np.unpackbits(values, axis=-1, count=came.images).astype(bool) for name, values in packed.items()}
        return cls(provenance=came, axes=axes, **bits, **numbers, **reasons)


_Axes = dict[Text, list[bool | Count | Number | Text | None]]
_BITS = ("software_right", "right", "agreeing")
_NUMBERS = ("code_error_rms", "code_error_max", "clipped_share", "unsettled_lsb", "certificate_reads",
            "certificate_max_error_lsb", "seconds", "ngspice_seconds")  # fmt: skip
