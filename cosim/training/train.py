"""Trains a recipe: first a float network, then the same network with quantizers, and converts it to integers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from cosim.datasets import Dataset
from cosim.network.layers import Network
from cosim.training.checkpoint import digest_of
from cosim.training.fitting import Course, Epoch, fit, pick_device, repeatable
from cosim.training.quantize import Quantization, prepare, quantize, to_network
from cosim.training.recipes import Recipe, Schedule

# Number of undistorted training images to which the first ranges of quantizers are fitted.
_CALIBRATION = 1024
_TEST_BATCH = 250


def train(
    recipe: Recipe,
    training: Dataset,
    how: Quantization | None = None,
    *,
    seed: int = 0,
    checkpoints: Path | None = None,
    device: str = "auto",
    threads: int = 1,
) -> Network:
    """Train a recipe's network and return its integer form, with its float weights beside it.

    Args:
        recipe: the recipe.
        training: the training images; the test images are not used here.
        how: the quantization; None for the default of `cosim.quantize`.
        seed: decides the first weights, and the order and distortions of the images.
        checkpoints: path without suffix of the files `.float.checkpoint` and `.quantized.checkpoint`, which are written
            every epoch. If they exist, training continues from there, bit for bit on the same machine.
        device: "cpu", "cuda", or "auto" for the GPU if there is one.
        threads: number of threads for sums on a CPU; a different number rounds differently, and gives another network.

    Raises:
        NetworkError: training diverged, or a checkpoint belongs to another training.
        MachineError: there is no such device.
    """
    how = how or Quantization()
    started = time.monotonic()
    float_net, float_history = fit_float(recipe, training, seed, checkpoints, device=device, threads=threads)
    prepared, history = fit_quantized(
        float_net, recipe, training, how, seed, checkpoints, device=device, threads=threads
    )
    name = f"{recipe.name}-w{how.weight_bits}a{how.activation_bits}"
    network = to_network(prepared, training.real(0, 1), name, {})
    network.float_weights = float_twin(float_net, training)
    network.card = {
        "dataset": training.name,
        "training_digest": training.digest,
        "seed": seed,
        "threads": threads,
        "epochs": {"float": recipe.float_schedule.epochs, "quantized": recipe.quantized_schedule.epochs},
        **({"shortened": recipe.shortened} if recipe.shortened else {}),
        **how.facts(),
        "precision": recipe.precision,
        "training_seconds": round(sum(epoch.seconds for epoch in (*float_history, *history))),
        "sitting_seconds": round(time.monotonic() - started),
        "software": network.card["software"],
        "torch": torch.__version__,
    }
    return network


def fit_float(
    recipe: Recipe, training: Dataset, seed: int, checkpoints: Path | None, *, device: str = "auto", threads: int = 1
) -> tuple[nn.Module, list[Epoch]]:
    """The trained float network of a recipe, on the CPU, and its history. The arguments are those of `train`."""
    with repeatable(seed, threads):
        net = recipe.build()
        identity = _identity(recipe, training, recipe.float_schedule, seed, threads)
        course = _course(recipe, recipe.float_schedule, "float", checkpoints, identity)
        history = _fit(net, recipe, training, course, device)
    return net.cpu(), history


def fit_quantized(
    float_net: nn.Module,
    recipe: Recipe,
    training: Dataset,
    how: Quantization,
    seed: int,
    checkpoints: Path | None,
    *,
    device: str = "auto",
    threads: int = 1,
) -> tuple[fx.GraphModule, list[Epoch]]:
    """A float network with quantizers, calibrated and trained further, on the CPU, and its history."""
    with repeatable(seed + 1, threads):
        prepared = prepare(float_net, training.real(0, _CALIBRATION), how)
        # The export refuses networks that arrays cannot hold. It is tried here, before time is spent on training.
        to_network(prepared, training.real(0, 1), recipe.name, {})
        identity = {
            **_identity(recipe, training, recipe.quantized_schedule, seed, threads),
            "float_weights": digest_of(float_net),
            "quantization": how.facts(),
        }
        course = _course(recipe, recipe.quantized_schedule, "quantized", checkpoints, identity)
        history = _fit(prepared, recipe, training, course, device)
    return prepared.cpu(), history


def float_twin(float_net: nn.Module, training: Dataset) -> dict[str, tuple[Tensor, Tensor]] | None:
    """Weights and biases of a float network's layers, with batch norm folded into them."""
    return quantize(float_net, training.real(0, _TEST_BATCH)).float_weights


def _identity(recipe: Recipe, training: Dataset, schedule: Schedule, seed: int, threads: int) -> dict[str, Any]:
    """The facts that two trainings must share for one to continue the other."""
    return {
        "recipe": recipe.name,
        "schedule": asdict(schedule),
        "batch": recipe.batch,
        "augmentation": asdict(recipe.augmentation),
        "optimizer": [recipe.optimizer, recipe.weight_decay, recipe.precision],
        "data": [training.digest, len(training)],
        "seed": seed,
        "threads": threads,
    }


def _course(
    recipe: Recipe, schedule: Schedule, phase: str, checkpoints: Path | None, identity: dict[str, Any]
) -> Course:
    return Course(
        title=f"{recipe.name}, {phase}",
        epochs=schedule.epochs,
        rate=schedule.rate,
        batch=recipe.batch,
        optimizer=recipe.optimizer,
        weight_decay=recipe.weight_decay,
        precision=recipe.precision,
        checkpoint=None if checkpoints is None else checkpoint_path(checkpoints, phase),
        identity=identity,
    )


def checkpoint_path(stem: Path, phase: str) -> Path:
    """The path at which a phase of a training, "float" or "quantized", keeps its checkpoint."""
    return stem.with_name(f"{stem.name}.{phase}.checkpoint")


def _fit(net: nn.Module, recipe: Recipe, data: Dataset, course: Course, device: str) -> list[Epoch]:
    """Fit a network to images that are distorted on the device."""
    place = pick_device(device)
    images, labels = data.images.to(place), data.labels.to(place)

    def images_for(chosen: Tensor) -> Tensor:
        return recipe.augmentation(images[chosen].to(torch.float32) / data.full_scale)

    return fit(net, images_for, labels, course)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is their label."""
    return (logits.argmax(1) == labels).double().mean().item()


def accuracy_on(forward: Callable[[Tensor], Tensor], test: Dataset) -> float:
    """Accuracy on a data set of any function that maps images to logits."""
    with torch.no_grad():
        parts = [forward(test.real(at, at + _TEST_BATCH)) for at in range(0, len(test), _TEST_BATCH)]
    return accuracy(torch.cat(parts), test.labels)


def score(network: Network, test: Dataset) -> dict[str, Any]:
    """Accuracies on the test images, which the training does not use."""
    return {
        "test_digest": test.digest,
        "test_images": len(test),
        "accuracy_float": accuracy_on(network.forward_float, test),
        "accuracy_software": accuracy_on(network, test),
    }
