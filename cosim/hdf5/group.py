"""What an HDF5 file holds, as plain values, and what its arrays must be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from cosim.checked import LARGEST

Kind = Literal["count", "integer", "real", "real or nan", "finite", "byte", "text"]
# The types of arrays (`dtype.kind`) that each kind of quantity may have.
_TYPES: dict[Kind, str] = {"count": "iu", "integer": "iu", "real": "iuf", "real or nan": "f", "finite": "iuf",
                           "byte": "u", "text": "O"}  # fmt: skip
_LARGEST_COUNT = 1 << 53


@dataclass(frozen=True)
class Quantity:
    """What a dataset holds.

    Attributes:
        kind: count, whole numbers from 0; integer; real, within 1e30; the same or nan; finite; byte; or text.
        axes: the names of its axes, separated by blanks. Axes of one name have one length.
        meaning: a description for the reader of the file.
        unit: the unit, "" for a bare number.
    """

    kind: Kind
    axes: str
    meaning: str
    unit: str = ""

    def check(self, name: str, values: np.ndarray, sizes: dict[str, int]) -> None:
        """Check an array, and enter the lengths of axes that are new into `sizes`.

        Raises:
            ValueError: the array is something else; the message gives its name.
        """
        if values.dtype.kind not in _TYPES[self.kind]:
            raise ValueError(f"{name} must hold values of the kind {self.kind!r}, found the type {values.dtype}")
        axes = self.axes.split()
        if values.ndim != len(axes) or any(
            sizes.setdefault(axis, size) != size for axis, size in zip(axes, values.shape, strict=True)
        ):
            known = ", ".join(f"{axis} = {sizes[axis]}" if axis in sizes else axis for axis in axes)
            raise ValueError(f"{name} must have the shape ({known}), found {values.shape}")
        if not values.size:
            return
        if self.kind == "count" and not (values.min() >= 0 and values.sum(dtype=np.float64) < _LARGEST_COUNT):
            raise ValueError(
                f"{name} must hold counts from 0 with a sum below 2^53, found {values.min()}..{values.max()}"
            )
        if self.kind == "finite" and not np.isfinite(values).all():
            raise ValueError(f"{name} must hold finite numbers")
        if self.kind in ("real", "real or nan"):
            numbers = values[~np.isnan(values)] if self.kind == "real or nan" else values
            if numbers.size and not (numbers.min() >= -LARGEST and numbers.max() <= LARGEST):
                raise ValueError(
                    f"{name} must hold numbers within {LARGEST:g}, found {numbers.min():g}..{numbers.max():g}"
                )


@dataclass
class Group:
    """A group of an HDF5 file.

    Attributes:
        arrays: the datasets by name. Texts are arrays of str objects.
        attributes: the group's attributes: numbers, texts, and lists of them.
        groups: the groups within it.
        notes: attributes of datasets, written for people and never read.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    notes: dict[str, dict[str, str]] = field(default_factory=dict)

    def group(self, name: str) -> Group:
        """The group of this name.

        Raises:
            ValueError: there is none.
        """
        if name not in self.groups:
            raise ValueError(f"the group {name} is missing")
        return self.groups[name]

    def numbered(self) -> list[Group]:
        """The groups 0, 1, ... within it.

        Raises:
            ValueError: there are others.
        """
        return [self.group(str(number)) for number in range(len(self.groups))]

    def put(self, quantities: Mapping[str, Quantity], values: Mapping[str, Any]) -> Group:
        """Enter the arrays of quantities; None is left out. Returns the group."""
        for name, quantity in quantities.items():
            if values[name] is not None:
                self.arrays[name] = values[name]
                self.notes[name] = {"unit": quantity.unit, "description": quantity.meaning}
        return self

    def take(
        self, quantities: Mapping[str, Quantity], sizes: dict[str, int], optional: Collection[str] = ()
    ) -> dict[str, Any]:
        """The arrays of quantities, checked; None if an optional one is missing.

        Args:
            quantities: what is expected, by name.
            sizes: lengths of axes that are known; new ones are added.
            optional: names that may be missing.

        Raises:
            ValueError: one is missing, or is not what it must be.
        """
        for name, quantity in quantities.items():
            if name in self.arrays:
                quantity.check(name, self.arrays[name], sizes)
            elif name not in optional:
                raise ValueError(f"{name} is missing")
        return {name: self.arrays.get(name) for name in quantities}
