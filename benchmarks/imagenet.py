"""A network of ImageNet's size on arrays: ResNet-18 with random weights, 224 x 224 random images, `solved`.

    .venv/bin/python benchmarks/imagenet.py [--images 100] [--store DIR]

It measures the time and memory of such a network. The accuracy has no meaning, since the weights are random.

Source of the network: He et al., "Deep residual learning for image recognition", 2016, table 1.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import cosim
from cosim.cli.shared import use_threads
from cosim.training.recipes.resnet20 import Block


def resnet18() -> nn.Module:
    blocks, inputs = [], 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 1000),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store", type=Path, help="store of simulation results; default: an empty one")
    given = parser.parse_args()
    config = cosim.Config.load(None, ["run.fidelity=solved", f"run.tensor_threads={given.threads}"])
    use_threads(config)
    torch.manual_seed(0)
    network = cosim.quantize(resnet18().eval(), torch.rand(8, 3, 224, 224))
    images = torch.rand(given.images, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        circuit = cosim.CircuitNetwork(network, config, store=given.store or Path(folder))
        started = time.perf_counter()
        circuit(images[:1])
        print(f"first image, tables of {len(circuit.arrays)} layers: {time.perf_counter() - started:.0f} s", flush=True)
        started = time.perf_counter()
        for first in range(0, given.images, 10):
            circuit(images[first : first + 10])
        print(f"{given.images} images: {time.perf_counter() - started:.0f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory: {peak:.1f} GiB")


if __name__ == "__main__":
    main()
