"""A tiny CNN on the 8x8 digits that come with scikit-learn: trained in seconds."""

from collections import OrderedDict

from torch import nn

from cosim.training.augment import Augmentation
from cosim.training.recipes.recipe import Recipe, Schedule


def build() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 8, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(8),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(8, 16, 3, padding=1, bias=False),
            norm2=nn.BatchNorm2d(16),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            linear1=nn.Linear(16 * 2 * 2, 10),
        )
    )


RECIPE = Recipe(
    name="digits",
    dataset="digits",
    build=build,
    float_schedule=Schedule(epochs=60, rate=4e-3),
    quantized_schedule=Schedule(epochs=60, rate=2e-3),
    batch=32,
    augmentation=Augmentation(rotate_degrees=8, zoom=0.1, shift_pixels=0.5),
)
