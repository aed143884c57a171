"""What a recipe is: a network, the data it is for, and a schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from cosim.training.augment import Augmentation


@dataclass(frozen=True)
class Schedule:
    """A stretch of training: epochs on a one-cycle schedule with this largest learning rate."""

    epochs: int
    rate: float


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained: first in float, then with quantizers in place.

    Attributes:
        name: what `cosim train` calls it.
        dataset: name of the data set.
        build: makes the float network, any module `cosim.quantize` understands.
        float_schedule, quantized_schedule: before and after quantizers go in.
        shortened: why the schedule is shorter than the network deserves, or nothing.
        optimizer: "adam", or "sgd" with Nesterov momentum.
        precision: of the convolutions in training; sums, weights and integers stay float32.
    """

    name: str
    dataset: str
    build: Callable[[], nn.Module]
    float_schedule: Schedule
    quantized_schedule: Schedule
    batch: int = 128
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimizer: Literal["adam", "sgd"] = "adam"
    weight_decay: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    shortened: str = ""

    def rescheduled(
        self, float_epochs: int | None = None, epochs: int | None = None, rate_factor: float = 1.0
    ) -> Recipe:
        """The recipe with other epochs before and after quantizers go in, and with rates so many times as large."""
        before, after = self.float_schedule, self.quantized_schedule
        float_epochs, epochs = float_epochs or before.epochs, epochs or after.epochs
        longer = float_epochs > before.epochs or epochs > after.epochs
        return replace(
            self,
            float_schedule=Schedule(float_epochs, rate_factor * before.rate),
            quantized_schedule=Schedule(epochs, rate_factor * after.rate),
            shortened="" if longer else self.shortened,
        )

    @property
    def schedule(self) -> str:
        """The epochs in words, and why they are few: part of every result."""
        epochs = f"{self.float_schedule.epochs} + {self.quantized_schedule.epochs} epochs"
        return f"{epochs}, shortened {self.shortened}" if self.shortened else epochs
