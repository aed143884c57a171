"""ResNet-20 for 32x32 images: 19 convolutions, a linear layer, 41 million multiplications an image.

Source: He et al., "Deep residual learning for image recognition", 2016, section 4.2. Where the shape changes, the
shortcut is a 1x1 convolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosim.training.augment import Augmentation
from cosim.training.recipes.recipe import Recipe, Schedule


class Block(nn.Module):
    """Two convolutions, and the input added to their result."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.reshapes = stride != 1 or inputs != outputs
        if self.reshapes:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (self.shortcut_norm(self.shortcut(x)) if self.reshapes else x))


class ResNet20(nn.Module):
    """A convolution, three layers of three blocks each, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.layer1 = _blocks(16, 16, 1)
        self.layer2 = _blocks(16, 32, 2)
        self.layer3 = _blocks(32, 64, 2)
        self.fc = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def _blocks(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, outputs, stride), Block(outputs, outputs, 1), Block(outputs, outputs, 1))


RECIPE = Recipe(
    name="resnet20",
    dataset="cifar10",
    build=ResNet20,
    float_schedule=Schedule(epochs=24, rate=0.4),
    quantized_schedule=Schedule(epochs=5, rate=0.04),
    augmentation=Augmentation(crop_pixels=4, flip=True),
    optimizer="sgd",
    weight_decay=5e-4,
    precision="bfloat16",
    shortened="for two CPU cores",
)
