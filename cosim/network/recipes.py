"""What each shipped network is made of and how it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from cosim.errors import DatasetError, NetworkError, nearest


@dataclass(frozen=True)
class Recipe:
    """A network and its training schedule.

    Attributes:
        build: makes the float network, a Sequential of Conv2d, BatchNorm2d, ReLU, MaxPool2d, Flatten, Linear.
        float_epochs, quantized_epochs: passes over the training images before and after quantizers go in.
        rotate_degrees, zoom, shift_pixels: largest random distortion of a training image.
    """

    dataset: str
    build: Callable[[], nn.Sequential]
    input_shape: tuple[int, int, int]
    float_epochs: int
    quantized_epochs: int
    batch: int
    float_rate: float
    quantized_rate: float
    rotate_degrees: float
    zoom: float
    shift_pixels: float
    weight_bits: int = 4
    activation_bits: int = 4

    @property
    def network(self) -> str:
        """The name of the network it makes."""
        return f"{self.dataset}-w{self.weight_bits}a{self.activation_bits}"


def _mnist() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 5 * 5, 10),
    )


def _digits() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 2 * 2, 10),
    )


RECIPES = {
    "mnist": Recipe(
        "mnist", _mnist, (1, 28, 28),
        float_epochs=25, quantized_epochs=30, batch=128, float_rate=4e-3, quantized_rate=1e-3,
        rotate_degrees=10, zoom=0.1, shift_pixels=2,
    ),
    "digits": Recipe(
        "digits", _digits, (1, 8, 8),
        float_epochs=60, quantized_epochs=60, batch=32, float_rate=4e-3, quantized_rate=1e-3,
        rotate_degrees=8, zoom=0.1, shift_pixels=0.5,
    ),
}  # fmt: skip


def recipe_for(dataset: str, *, weight_bits: int = 4, activation_bits: int = 4) -> Recipe:
    """The recipe that trains on a data set, for bits of 1 to 8.

    Raises:
        DatasetError: there is none for this data set.
        NetworkError: bits are out of range.
    """
    if dataset not in RECIPES:
        raise DatasetError(f"no recipe trains on {dataset!r}: {nearest(dataset, RECIPES)}")
    for name, bits in (("weight", weight_bits), ("activation", activation_bits)):
        if not 1 <= bits <= 8:
            raise NetworkError(f"{name} bits must be 1 to 8, found {bits}")
    return replace(RECIPES[dataset], weight_bits=weight_bits, activation_bits=activation_bits)
