"""A VGG of five 3x3 convolutions for 32x32 images: 96 million multiplications an image.

Source of the layout: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition",
2015 (stacks of 3x3 convolutions, with twice the channels after each pooling).
"""

from torch import nn

from cosim.training.augment import Augmentation
from cosim.training.recipes.recipe import Recipe, Schedule


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def build() -> nn.Module:
    return nn.Sequential(
        *_conv(3, 64),
        nn.MaxPool2d(2),
        *_conv(64, 128),
        nn.MaxPool2d(2),
        *_conv(128, 256),
        *_conv(256, 256),
        nn.MaxPool2d(2),
        *_conv(256, 512),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512 * 2 * 2, 10),
    )


RECIPE = Recipe(
    name="vgg",
    dataset="cifar10",
    build=build,
    float_schedule=Schedule(epochs=8, rate=0.1),
    quantized_schedule=Schedule(epochs=2, rate=0.01),
    augmentation=Augmentation(crop_pixels=4, flip=True),
    optimizer="sgd",
    weight_decay=5e-4,
    precision="bfloat16",
    shortened="for two CPU cores",
)
