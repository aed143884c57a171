"""The small CNN on MNIST: two 3x3 convolutions and a linear layer, 12 thousand weights."""

from collections import OrderedDict

from torch import nn

from cosim.training.augment import Augmentation
from cosim.training.recipes.recipe import Recipe, Schedule


def build() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 16, 3, bias=False),
            norm1=nn.BatchNorm2d(16),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, 3, bias=False),
            norm2=nn.BatchNorm2d(32),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            linear1=nn.Linear(32 * 5 * 5, 10),
        )
    )


RECIPE = Recipe(
    name="mnist",
    dataset="mnist",
    build=build,
    float_schedule=Schedule(epochs=25, rate=4e-3),
    quantized_schedule=Schedule(epochs=60, rate=1e-3),
    augmentation=Augmentation(rotate_degrees=10, zoom=0.1, shift_pixels=2),
)
