"""The cost of fake quantization: a training step with quantizers, compared with the same step in float in one run.

    python benchmarks/training.py [--recipes mnist,lenet5,resnet20] [--quantizers step,expected] [--threads 1]

Steps of the two kinds alternate, so that other work on the machine affects both. Medians of CPU time are compared. The
ratio should be at most 2.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosim.training.quantize import Quantization, prepare
from cosim.training.recipes import RECIPES, Recipe

SHAPES = {"mnist": (1, 28, 28), "digits": (1, 8, 8), "cifar10": (3, 32, 32)}


class Stepper:
    """A network and its optimizer, which takes steps on one batch."""

    def __init__(self, net: nn.Module, images: Tensor, labels: Tensor, precision: str) -> None:
        self.net = net.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels, self.half = labels, precision == "bfloat16"
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-3, momentum=0.9)

    def step(self) -> float:
        """CPU seconds of a step, of all threads."""
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            logits = self.net(self.images)
        self.optimizer.zero_grad()
        F.cross_entropy(logits.float(), self.labels).backward()
        self.optimizer.step()
        return time.process_time() - started


QUANTIZERS = {
    "step": Quantization(),
    "threshold": Quantization(weight_quantizer="threshold"),
    "clip": Quantization(activation_quantizer="clip"),
    "asymmetric": Quantization(weight_quantizer="asymmetric"),
    "expected": Quantization(3, 3, weight_quantizer="expected", activation_quantizer="expected"),
    "power-of-two": Quantization(3, 3, weight_quantizer="power-of-two"),
}


def compare(recipe: Recipe, quantizer: str, repeats: int) -> None:
    torch.manual_seed(0)
    images = torch.rand(recipe.batch, *SHAPES[recipe.dataset])
    labels = torch.randint(0, 10, (recipe.batch,))
    net = recipe.build()
    quantized = prepare(net, images, QUANTIZERS[quantizer])
    both = [Stepper(kind, images, labels, recipe.precision) for kind in (net, quantized)]
    times = [[stepper.step() for stepper in both] for _ in range(repeats + 2)][2:]
    plain, fake = (sorted(column)[repeats // 2] for column in zip(*times, strict=True))
    print(
        f"{recipe.name:10} {quantizer:12} float {1e3 * plain:7.1f} ms   quantized {1e3 * fake:7.1f} ms   "
        f"ratio {fake / plain:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--quantizers", default="step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"torch {torch.__version__}, {asked.threads} thread(s)")
    for name in asked.recipes.split(","):
        for quantizer in asked.quantizers.split(","):
            compare(RECIPES[name], quantizer, asked.repeats)


if __name__ == "__main__":
    main()
