"""A recipe: a network, the data set that it is for, and a training schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from cosim.training.augment import Augmentation


@dataclass(frozen=True)
class Schedule:
    """A phase of training: its number of epochs, and the largest learning rate of its one-cycle schedule."""

    epochs: int
    rate: float


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained: first in float, then with quantizers in place.

    Attributes:
        name: its name for `cosim train`.
        dataset: name of the data set.
        build: makes the float network, which may be any module that `cosim.quantize` understands.
        float_schedule: schedule of the float network.
        quantized_schedule: schedule after quantizers are put in place.
        shortened: why the schedule is shorter than is usual, or an empty text.
        optimizer: "adam", or "sgd" with Nesterov momentum.
        precision: number format of the convolutions in training; sums, weights and integers stay float32.
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
        """The recipe with other numbers of epochs in its two schedules, and with learning rates times a factor."""
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
        """The epochs in words, and why there are few of them. This text is a part of every result."""
        epochs = f"{self.float_schedule.epochs} + {self.quantized_schedule.epochs} epochs"
        return f"{epochs}, shortened {self.shortened}" if self.shortened else epochs
