"""ResNet-20 for 32x32 images: 19 convolutions, a linear layer, 41 million multiplications an image.

Source: He et al., "Deep residual learning for image recognition", 2016, section 4.2; where shapes change the shortcut
is a 1x1 convolution.
"""

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
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def build() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        for number in range(3):
            layers.append(Block(inputs, outputs, stride if number == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


RECIPE = Recipe(
    name="resnet20",
    dataset="cifar10",
    build=build,
    float_schedule=Schedule(epochs=15, rate=0.4),
    quantized_schedule=Schedule(epochs=5, rate=0.04),
    augmentation=Augmentation(crop_pixels=4, flip=True),
    optimizer="sgd",
    weight_decay=5e-4,
    precision="bfloat16",
    shortened="for two CPU cores",
)
