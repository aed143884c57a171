"""LeNet-5 on MNIST, with ReLU, max pooling and batch norm after its convolutions, 62 thousand weights.

Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998, figure 2.
"""

from collections import OrderedDict

from torch import nn

from cosim.training.augment import Augmentation
from cosim.training.recipes.recipe import Recipe, Schedule


def build() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 6, 5, padding=2, bias=False),
            norm1=nn.BatchNorm2d(6),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5, bias=False),
            norm2=nn.BatchNorm2d(16),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            linear1=nn.Linear(16 * 5 * 5, 120),
            relu3=nn.ReLU(),
            linear2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            linear3=nn.Linear(84, 10),
        )
    )


RECIPE = Recipe(
    name="lenet5",
    dataset="mnist",
    build=build,
    float_schedule=Schedule(epochs=15, rate=4e-3),
    quantized_schedule=Schedule(epochs=10, rate=1e-3),
    augmentation=Augmentation(rotate_degrees=10, zoom=0.1, shift_pixels=2),
)
