"""Training: a float network first, then the same network with learned-step quantizers, then its integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosim.datasets import Dataset
from cosim.errors import NetworkError
from cosim.network.export import export, quantize_modules
from cosim.network.layers import Network
from cosim.network.recipes import Recipe
from cosim.progress import progress_bar


def train(recipe: Recipe, training: Dataset, *, seed: int = 0) -> Network:
    """Train a recipe's network on a data set and return its integer form, with its float weights beside it.

    Args:
        recipe: network and schedule.
        training: training images; the test images are never seen here.
        seed: fixes weights, order and distortions.

    Raises:
        NetworkError: training diverged.
    """
    with repeatable(seed):
        return _train(recipe, training)


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Random numbers from a seed, and sums in the order of a single thread, however many cores there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _train(recipe: Recipe, training: Dataset) -> Network:
    float_net = recipe.build()
    _fit(float_net, recipe, training, recipe.float_epochs, recipe.float_rate, "training the float network")
    quantized = quantize_modules(float_net, recipe.weight_bits, recipe.activation_bits)
    with torch.no_grad():  # start every step size from real data, undistorted
        quantized.eval()(training.real(0, 1024))
    _fit(quantized, recipe, training, recipe.quantized_epochs, recipe.quantized_rate, "training the quantized network")
    return export(recipe.network, recipe.input_shape, quantized, float_net)


def _fit(net: nn.Sequential, recipe: Recipe, data: Dataset, epochs: int, rate: float, title: str) -> None:
    """Fit to distorted images; statistics of batch norm rest in the last tenth of the epochs."""
    resting = epochs - max(1, epochs // 10)

    def before_epoch(epoch: int) -> None:
        net.train()
        for module in net.modules():
            # The circuit runs on the running statistics, so the weights must end up fitting those.
            if isinstance(module, nn.BatchNorm2d) and epoch >= resting:
                module.eval()

    def images_for(chosen: Tensor) -> Tensor:
        return distort(data.images[chosen].to(torch.float32) / data.full_scale, recipe)

    fit(net, images_for, data.labels, epochs, recipe.batch, rate, title=title, before_epoch=before_epoch)
    net.eval()


def fit(
    net: nn.Module,
    images_for: Callable[[Tensor], Tensor],
    labels: Tensor,
    epochs: int,
    batch: int,
    rate: float,
    *,
    title: str,
    before_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Cross entropy by Adam on a one-cycle schedule, with a progress bar.

    Args:
        images_for: the images of an index tensor.
        labels: (n,) classes.

    Raises:
        NetworkError: the loss is no longer finite.
    """
    batches = math.ceil(len(labels) / batch)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * batches)
    with progress_bar(title, epochs * batches) as advance:
        for epoch in range(epochs):
            before_epoch(epoch)
            for chosen in torch.randperm(len(labels)).split(batch):
                loss = F.cross_entropy(net(images_for(chosen)), labels[chosen])
                if not torch.isfinite(loss):
                    raise NetworkError(f"{title} diverged in epoch {epoch + 1}: lower the learning rate")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                advance(1, note=f"epoch {epoch + 1}/{epochs} loss {loss.item():.4f}")


def distort(images: Tensor, recipe: Recipe) -> Tensor:
    """Each image rotated, zoomed and shifted by its own random amount."""
    count, _, height, _ = images.shape
    angle, zoom, dx, dy = (torch.rand(4, count) * 2 - 1) * torch.tensor(
        [
            [math.radians(recipe.rotate_degrees)],
            [recipe.zoom],
            [2 * recipe.shift_pixels / height],
            [2 * recipe.shift_pixels / height],
        ]
    )
    cos, sin = torch.cos(angle) * (1 + zoom), torch.sin(angle) * (1 + zoom)
    transform = torch.stack([torch.stack([cos, -sin, dx], 1), torch.stack([sin, cos, dy], 1)], 1)
    grid = F.affine_grid(transform, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is their label."""
    return (logits.argmax(1) == labels).double().mean().item()


def score(network: Network, recipe: Recipe, training: Dataset, test: Dataset, seed: int) -> dict[str, Any]:
    """The facts of a card: data, schedule, and accuracies on the test images, looked at here for the first time."""
    with torch.no_grad():
        images = test.real(0, len(test))
        return {
            "dataset": training.name,
            "training_digest": training.digest,
            "test_digest": test.digest,
            "seed": seed,
            "epochs": {"float": recipe.float_epochs, "quantized": recipe.quantized_epochs},
            "weight_bits": recipe.weight_bits,
            "activation_bits": recipe.activation_bits,
            "test_images": len(test),
            "accuracy_float": accuracy(network.forward_float(images), test.labels),
            "accuracy_software": accuracy(network(images), test.labels),
            "torch": torch.__version__,
        }
