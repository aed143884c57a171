"""Accuracy of post-training quantization on MNIST (docs/howto/own-network.md).

    .venv/bin/python benchmarks/post_training.py [DATA_DIR]

The float module is the one from which the shipped network was quantized. The first 512 training images calibrate it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import cosim

OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight_quantizer": "asymmetric"},
    {"per_channel": False},
    {"weight_bits": 8, "activation_bits": 8},
    {"weight_bits": 3, "activation_bits": 3},
]


def float_module() -> nn.Sequential:
    """The float network of mnist-w4a4, with batch norm folded into its layers."""
    module = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 10),
    )  # fmt: skip
    weights = cosim.load_network("mnist-w4a4").float_weights
    assert weights is not None
    layers = [part for part in module if isinstance(part, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, weights.values(), strict=True):
            layer.weight.copy_(weight.reshape(layer.weight.shape))
            layer.bias.copy_(bias)
    return module.eval()


def main() -> None:
    """Print a line for each way to quantize."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    module = float_module()
    training, test = cosim.load_dataset("mnist", "train", folder), cosim.load_dataset("mnist", "test", folder)
    for options in OPTIONS:
        network, right = cosim.quantize(module, training.real(0, 512), **options), 0
        with torch.no_grad():
            for first in range(0, len(test), 250):
                decided = network(test.real(first, first + 250)).argmax(1)
                right += int((decided == test.labels[first : first + 250]).sum())
        print(f"{100 * right / len(test):.2f} %  {options or 'defaults'}")


if __name__ == "__main__":
    main()
