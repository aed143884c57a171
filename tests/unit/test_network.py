"""Networks: layers, storage, quantizers, training and export."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cosim.datasets import Dataset
from cosim.errors import NetworkError
from cosim.network import load_network, save_network, shipped_networks
from cosim.network.export import export, quantize_modules
from cosim.network.recipes import Recipe
from cosim.network.training import accuracy, distort, train
from tests.conftest import make_layer, make_network, random_images


def test_round_trip_through_safetensors(tmp_path: Path) -> None:
    network, images = make_network(float_weights=True), random_images(5)
    save_network(network, tmp_path / "tiny.safetensors")
    again = load_network(tmp_path / "tiny.safetensors")
    assert torch.equal(network(images), again(images))
    assert torch.equal(network.forward_float(images), again.forward_float(images))


@pytest.mark.parametrize("name", shipped_networks())
def test_shipped_networks_load_and_name_their_command(name: str) -> None:
    network = load_network(name)
    assert network.card["command"].startswith("cosim train ")
    assert network.card["accuracy_software"] >= 0.99
    assert all(layer.weight_bits == 4 and layer.activation_bits == 4 for layer in network.layers)


def test_unknown_network_suggests_the_nearest() -> None:
    with pytest.raises(NetworkError, match="did you mean 'mnist-w4a4'"):
        load_network("mnist-w4a3")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    path = tmp_path / "tiny.safetensors"
    save_network(make_network(), path)
    return path, path.with_suffix(".json")


def test_a_pickle_is_never_loaded(files: tuple[Path, Path], tmp_path: Path) -> None:
    witness = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple:
            return (open, (str(witness), "w"))

    files[0].write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(NetworkError, match="is not a safetensors file"):
        load_network(files[0])
    assert not witness.exists()


def test_a_card_must_lie_beside(files: tuple[Path, Path]) -> None:
    files[1].unlink()
    with pytest.raises(NetworkError, match=r"expected the card tiny\.json beside"):
        load_network(files[0])


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        "null",
        '{"format": "cosim-network-1"}',
        '{"format": "cosim-network-1", "name": 1, "input_shape": 3, "steps": 4}',
    ],
)
def test_a_card_that_is_none(files: tuple[Path, Path], text: str) -> None:
    files[1].write_text(text)
    with pytest.raises(NetworkError, match="is no card of a network"):
        load_network(files[0])


def test_a_tensor_the_card_names_must_be_there(files: tuple[Path, Path]) -> None:
    card = json.loads(files[1].read_text())
    card["steps"][0]["layer"] = "conv7"
    files[1].write_text(json.dumps(card))
    with pytest.raises(NetworkError, match=r"lacks the tensor 'conv7\.weight'.*did you mean 'conv\d\.weight'"):
        load_network(files[0])


def rewrite(path: Path, name: str, values: torch.Tensor) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    tensors[name] = values
    save_file(tensors, path)
    card = json.loads(path.with_suffix(".json").read_text())
    card["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(card))


def test_nan_infinite_and_fractional_weights(files: tuple[Path, Path]) -> None:
    weight = make_network().layers[0].weight.float()
    for bad, message in ((float("nan"), "NaN or infinite"), (float("inf"), "NaN or infinite"), (0.5, "fractions")):
        broken = weight.clone()
        broken[0, 0, 0, 0] = bad
        rewrite(files[0], "conv1.weight", broken)
        with pytest.raises(NetworkError, match=message):
            load_network(files[0])
    rewrite(files[0], "conv1.weight", weight)
    rewrite(files[0], "conv1.output_bias", torch.full((3,), float("nan")))
    with pytest.raises(NetworkError, match=r"conv1\.output_bias holds NaN"):
        load_network(files[0])


def test_weights_beyond_the_levels(files: tuple[Path, Path]) -> None:
    weight = make_network().layers[0].weight.clone()
    weight[0, 0, 0, 0] = 8
    rewrite(files[0], "conv1.weight", weight)
    with pytest.raises(NetworkError, match=r"need levels \d+\.\.16, but 4 bits hold 0\.\.15"):
        load_network(files[0])


def test_a_card_of_other_weights_is_noticed(files: tuple[Path, Path], tmp_path: Path) -> None:
    save_network(make_network(seed=5), tmp_path / "other.safetensors")
    files[0].write_bytes((tmp_path / "other.safetensors").read_bytes())
    with pytest.raises(NetworkError, match=r"tiny\.json is the card of other weights"):
        load_network(files[0])


@pytest.mark.parametrize(
    "name", ["../escape", "a/b", "x\n.control\nshell touch owned\n.endc", "", "a b", "{0}", "n" * 65, 7]
)
def test_names_that_could_mean_something_elsewhere(name: str) -> None:
    with pytest.raises(NetworkError, match="must be named with at most 64 letters"):
        replace(make_layer(), name=name)
    with pytest.raises(NetworkError, match="must be named with at most 64 letters"):
        make_network(name=name)


def test_autocast_changes_nothing() -> None:
    network, images = make_network(), random_images(5)
    plain = network(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(images), plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_bits": 4.5}, "must be whole numbers"),
        ({"groups": True}, "must be whole numbers"),
        ({"stride": (1.5, 1)}, "must be whole numbers"),
        ({"padding": (1, 1, 1)}, "must be whole numbers"),
        ({"kind": "conv3d"}, "kind must be conv2d or linear"),
        ({"weight_bits": 9}, "weight_bits must be 1 to 8"),
        ({"activation_bits": 0}, "activation_bits must be 1 to 8"),
        ({"zero_point": torch.full((4,), 16)}, r"zero points must be levels 0\.\.15, found 16\.\.16"),
        ({"zero_point": torch.full((4,), 3)}, "weights need levels"),
        ({"zero_point": torch.tensor(8)}, r"zero points must have shape \(4,\)"),
        ({"input_zero_point": 16}, r"input zero point must be 0\.\.15"),
        ({"activation_scale": 0.0}, "activation scale must be finite and > 0"),
        ({"stride": (0, 1)}, "stride, dilation and groups must be >= 1"),
        ({"groups": 3}, "4 outputs cannot be split into 3 groups"),
        ({"output_scale": torch.ones(3)}, r"output_scale must have shape \(4,\)"),
        ({"weight": torch.zeros(4, 2, 3)}, "4 non-empty axes"),
    ],
)
def test_layers_that_cannot_be(change: dict, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        replace(make_layer(), **change)


def test_steps_that_end_in_no_logits(files: tuple[Path, Path]) -> None:
    card = json.loads(files[1].read_text())
    card["steps"] = card["steps"][:4]
    files[1].write_text(json.dumps(card))
    with pytest.raises(NetworkError, match=r"must end in \(images, classes\) logits"):
        load_network(files[0])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (random_images(2) * 255, r"values in 0\.\.1, found 0\.\.\d+: divide"),
        (random_images(2) - 0.5, r"values in 0\.\.1"),
        (random_images(2).numpy(), "must be a float tensor, found float32"),
        ((random_images(2) * 255).to(torch.uint8), "must be a float tensor, found torch.uint8"),
        (random_images(2)[:, 0], r"images\[:, None\]"),
    ],
)
def test_images_that_are_not_in_0_to_1(images: torch.Tensor, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        make_network()(images)


def test_images_of_another_shape_are_named() -> None:
    with pytest.raises(NetworkError, match=r"takes images of shape \(1, 6, 6\), found \(1, 28, 28\)"):
        make_network()(random_images(1, (1, 28, 28)))


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
    quantized = quantize_modules(net, 4, 4).eval()
    with torch.no_grad():
        fake = quantized(images)
        network = export("net", (1, 8, 8), quantized, net)
        assert torch.allclose(network(images), fake, atol=1e-4)
        assert torch.allclose(network.forward_float(images), net(images), atol=1e-4)


@pytest.mark.parametrize("extra", [nn.Sigmoid(), nn.Conv2d(3, 3, 1, padding="same"), nn.BatchNorm2d(3)])
def test_what_cannot_be_exported_is_named(extra: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), extra)
    with pytest.raises(NetworkError, match=r"cannot export|batch norm must follow"):
        export("net", (1, 6, 6), quantize_modules(net, 4, 4), net)


def recipe(rate: float) -> Recipe:
    build = lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))  # noqa: E731
    return Recipe("toy", build, (1, 6, 6), 3, 3, 16, rate, rate, 5, 0.1, 0.5)


def toy_data() -> Dataset:
    """Bright upper half against bright lower half."""
    images = torch.randint(0, 60, (128, 1, 6, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = torch.arange(128) % 2
    images[labels == 0, :, :3] += 120
    images[labels == 1, :, 3:] += 120
    return Dataset("toy", images, 255, labels, "")


def test_training_learns_and_repeats_itself() -> None:
    data = toy_data()
    first, second = train(recipe(1e-2), data, seed=1), train(recipe(1e-2), data, seed=1)
    assert accuracy(first(data.real(0, 128)), data.labels) > 0.95
    assert torch.equal(first.layers[0].weight, second.layers[0].weight)
    assert not torch.equal(first.layers[0].weight, train(recipe(1e-2), data, seed=2).layers[0].weight)


def test_diverging_training_stops() -> None:
    with pytest.raises(NetworkError, match="diverged in epoch"):
        train(recipe(1e30), toy_data())


def test_distortion_keeps_an_image_in_place_when_it_is_nought() -> None:
    from dataclasses import replace as with_

    images = random_images(4)
    still = with_(recipe(1e-3), rotate_degrees=0, zoom=0, shift_pixels=0)
    assert torch.allclose(distort(images, still), images, atol=1e-5)
