"""Training: export of integers, checkpoints, schedules, recipes and augmentation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import cosim
from cosim.datasets import Dataset
from cosim.errors import MachineError, NetworkError
from cosim.training import fitting
from cosim.training.augment import Augmentation
from cosim.training.checkpoint import save_checkpoint
from cosim.training.quantize import Quantization, prepare, to_network
from cosim.training.quantized_layer import QuantizedLayer
from cosim.training.quantizers import LearnedStepQuantizer
from cosim.training.recipes import RECIPES, Recipe, Schedule, recipe_for
from cosim.training.train import accuracy, train
from tests.conftest import random_images


def small_float_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 2, groups=2, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    for module in net.modules():  # statistics and gains as training leaves them, a negative gain among them
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.2, 0.5)
            module.weight.data.normal_(0, 1)
            module.bias.data.normal_(0, 0.2)
    return net.eval()


def test_exported_integers_equal_the_fake_quantized_module() -> None:
    """Batch norm is in scale and bias exactly: same outputs up to float rounding."""
    net, images = small_float_net(), random_images(20, (1, 8, 8))
    prepared = prepare(net, images, Quantization())
    with torch.no_grad():
        fake = prepared(images)
        network = to_network(prepared, images, "net", {})
        assert torch.allclose(network(images), fake, atol=1e-4)
        assert torch.allclose(network.forward_float(images), net(images), atol=1e-4)


def toy_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


def recipe(rate: float = 1e-2, epochs: int = 3) -> Recipe:
    schedule = Schedule(epochs, rate)
    distorted = Augmentation(rotate_degrees=5, zoom=0.1, shift_pixels=0.5)
    return Recipe("toy", "toy", toy_net, schedule, schedule, batch=16, augmentation=distorted)


def toy_data() -> Dataset:
    """Bright upper half against bright lower half."""
    images = torch.randint(0, 60, (128, 1, 6, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = torch.arange(128) % 2
    images[labels == 0, :, :3] += 120
    images[labels == 1, :, 3:] += 120
    return Dataset("toy", images, 255, labels, "")


def test_training_learns_and_repeats_itself() -> None:
    data = toy_data()
    first, second = train(recipe(), data, seed=1), train(recipe(), data, seed=1)
    assert accuracy(first(data.real(0, 128)), data.labels) > 0.95
    assert torch.equal(first.layers[0].weight, second.layers[0].weight)
    assert not torch.equal(first.layers[0].weight, train(recipe(), data, seed=2).layers[0].weight)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("phase", ["float", "quantized"])
def test_an_interrupted_training_continues_bit_for_bit(
    phase: str, optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, plan = toy_data(), replace(recipe(), optimizer=optimizer)
    whole = train(plan, data, seed=3, checkpoints=tmp_path / "whole")

    def interrupted(path: Path, *arguments: object) -> None:
        save_checkpoint(path, *arguments)
        if phase in path.name and len(arguments[-1]) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(plan, data, seed=3, checkpoints=tmp_path / "halved")
    monkeypatch.undo()
    resumed = train(plan, data, seed=3, checkpoints=tmp_path / "halved")
    for one, other in zip(whole.layers, resumed.layers, strict=True):
        assert torch.equal(one.weight, other.weight)
        assert torch.equal(one.output_bias, other.output_bias)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 32}, "differs in batch"),
        ({"float_schedule": Schedule(4, 1e-2)}, "differs in schedule"),
        ({"build": lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(48, 2))}, "of another network"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    train(recipe(), toy_data(), checkpoints=tmp_path / "net")
    with pytest.raises(NetworkError, match=message):
        train(replace(recipe(), **change), toy_data(), checkpoints=tmp_path / "net")


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.float.checkpoint").write_bytes(b"not a checkpoint")
    with pytest.raises(NetworkError, match="is not a checkpoint of a training"):
        train(recipe(), toy_data(), checkpoints=tmp_path / "net")


def test_diverging_training_stops_with_what_it_saved(tmp_path: Path) -> None:
    """The second epoch sees NaN; its predecessor is kept, and goes on to where an undisturbed training comes."""
    data, kept = toy_data(), tmp_path / "net.checkpoint"

    def fitted(checkpoint: Path | None, *, bad_from: int) -> nn.Module:
        calls = iter(range(10_000))

        def images_for(chosen: torch.Tensor) -> torch.Tensor:
            images = data.images[chosen] / 255
            return images * float("nan") if next(calls) >= bad_from else images

        with fitting.repeatable(0):
            net = toy_net()
            fitting.fit(net, images_for, data.labels, fitting.Course("toy", 3, 1e-2, 16, checkpoint=checkpoint))
        return net

    with pytest.raises(
        NetworkError, match=r"diverged in epoch 2/3: lower the learning rate .* epochs before this one are saved in"
    ):
        fitted(kept, bad_from=8)
    resumed, whole = fitted(kept, bad_from=10_000), fitted(None, bad_from=10_000)
    for one, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_training_that_diverges_at_once_is_told() -> None:
    with pytest.raises(NetworkError, match="diverged in epoch 1/3"):
        train(recipe(1e30), toy_data())


def test_quantizers_are_not_trained_on_from_another_float_network(tmp_path: Path) -> None:
    train(recipe(), toy_data(), checkpoints=tmp_path / "net")
    (tmp_path / "net.float.checkpoint").unlink()
    with pytest.raises(NetworkError, match="differs in float_weights"):
        train(recipe().rescheduled(float_epochs=5), toy_data(), checkpoints=tmp_path / "net")


def test_a_recipe_is_given_another_schedule() -> None:
    resnet = recipe_for("resnet20")
    shorter, longer = resnet.rescheduled(10, 2, 0.5), resnet.rescheduled(150, 50)
    assert shorter.schedule == "10 + 2 epochs, shortened for two CPU cores"
    assert shorter.float_schedule.rate == resnet.float_schedule.rate / 2
    assert longer.schedule == "150 + 50 epochs"
    assert resnet.rescheduled() == resnet


def test_resnet20_has_the_names_that_residual_networks_have() -> None:
    paths = [
        path for path, part in recipe_for("resnet20").build().named_modules() if isinstance(part, nn.Conv2d | nn.Linear)
    ]
    blocks = [f"layer{layer}.{block}" for layer in (1, 2, 3) for block in (0, 1, 2)]
    short = ("layer2.0", "layer3.0")
    inside = [f"{b}.{part}" for b in blocks for part in ("conv1", "conv2", *(["shortcut"] if b in short else []))]
    assert paths == ["conv1", *inside, "fc"]


def test_a_range_that_became_nothing_is_named() -> None:
    net = QuantizedLayer(
        nn.Conv2d(1, 2, 3), LearnedStepQuantizer(4, signed=True), LearnedStepQuantizer(4, signed=False)
    )
    for value in (0.0, float("nan")):
        net.weight_quantizer.step.data.fill_(value)
        with pytest.raises(NetworkError, match="range of 'weight_quantizer' became zero or NaN"):
            fitting._check_ranges(net, "here", "became zero or NaN")


def test_only_weights_and_clips_decay() -> None:
    prepared = prepare(toy_net(), random_images(8), Quantization(activation_quantizer="clip"))
    optimizer = fitting._optimizer(prepared, fitting.Course("", 1, 1e-3, 1, weight_decay=0.1))
    weights, clips, others = (sum(p.numel() for p in group["params"]) for group in optimizer.param_groups)
    assert (weights, clips) == (4 * 9 + 64 * 2, 2)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]
    optimizer = fitting._optimizer(prepared, fitting.Course("", 1, 1e-3, 1))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, fitting.CLIP_DECAY, 0.0]
    assert others == 4 + 4 + 4 + 2 + 4 + 2  # bias, batch norm (2), bias, steps of the weights


def test_distortion_keeps_an_image_in_place_when_it_is_nought() -> None:
    images = random_images(4)
    assert torch.equal(Augmentation()(images), images)
    assert torch.allclose(Augmentation(rotate_degrees=1e-9)(images), images, atol=1e-5)


def test_crops_and_mirrors_move_pixels_only() -> None:
    torch.manual_seed(0)
    images = random_images(64, (3, 8, 8)) + 1
    mirrored = Augmentation(flip=True)(images)
    same = (mirrored == images).flatten(1).all(1)
    assert torch.equal(mirrored[~same], images[~same].flip(3))
    assert 10 < int(same.sum()) < 54
    cropped = Augmentation(crop_pixels=2)(images)
    for image, found in zip(images, cropped, strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        places = [padded[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
        assert any(torch.equal(found, place) for place in places)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_a_network_that_can_be_quantized(name: str) -> None:
    plan = RECIPES[name]
    shape = {"mnist": (1, 28, 28), "digits": (1, 8, 8), "cifar10": (3, 32, 32)}[plan.dataset]
    network = cosim.quantize(plan.build().eval(), random_images(2, shape))
    assert network(random_images(2, shape)).shape == (2, 10)


def test_an_unknown_recipe_is_named() -> None:
    with pytest.raises(NetworkError, match="did you mean 'lenet5'"):
        recipe_for("lenet")


def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(MachineError, match="this machine has no device 'tpu'"):
        train(recipe(), toy_data(), device="tpu")
