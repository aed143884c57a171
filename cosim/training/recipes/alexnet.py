"""AlexNet's five convolutions and three linear layers, scaled to 32x32 images: 43 million multiplications an image.

Source of the layout: Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", 2012;
3x3 kernels, strides for small images, batch norm instead of response normalization.
"""

from torch import nn

from cosim.training.augment import Augmentation
from cosim.training.recipes.recipe import Recipe, Schedule


def _conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def build() -> nn.Module:
    return nn.Sequential(
        *_conv(3, 64, stride=2),
        nn.MaxPool2d(2),
        *_conv(64, 192),
        nn.MaxPool2d(2),
        *_conv(192, 384),
        *_conv(384, 256),
        *_conv(256, 256),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(256 * 2 * 2, 512),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


RECIPE = Recipe(
    name="alexnet",
    dataset="cifar10",
    build=build,
    float_schedule=Schedule(epochs=10, rate=0.1),
    quantized_schedule=Schedule(epochs=3, rate=0.01),
    augmentation=Augmentation(crop_pixels=4, flip=True),
    optimizer="sgd",
    weight_decay=5e-4,
    precision="bfloat16",
    shortened="for two CPU cores",
)
