"""Networks: layers, storage, and what images may be given to them."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cosim
from cosim.cli import main
from cosim.errors import NetworkError, OutputError
from cosim.network import load_network, save_network, shipped_networks
from tests.conftest import make_layer, make_network, random_images


def test_round_trip_through_safetensors(tmp_path: Path) -> None:
    network, images = make_network(float_weights=True), random_images(5)
    save_network(network, tmp_path / "tiny.safetensors")
    again = load_network(tmp_path / "tiny.safetensors")
    assert torch.equal(network(images), again(images))
    assert torch.equal(network.forward_float(images), again.forward_float(images))


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("content", ['{"my": "settings"}', "[1, 2]", "precious", ""])
def test_saving_replaces_networks_and_nothing_else(suffix: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    other = path.with_suffix(suffix)
    other.write_text(content)
    what = "is not the card of a network, which would replace it" if suffix == ".json" else "holds no weights in"
    with pytest.raises(OutputError, match=rf"net\{suffix} exists and {what}.*pass force=True to replace it"):
        save_network(make_network(), path)
    assert [file.read_text() for file in tmp_path.iterdir()] == [content]
    save_network(make_network(), path, force=True)
    save_network(make_network(seed=5), path)  # a network may be replaced as it is
    assert torch.equal(load_network(path).layers[0].weight, make_network(seed=5).layers[0].weight)


@pytest.mark.parametrize("name", shipped_networks())
def test_shipped_networks_load_and_name_their_command(name: str) -> None:
    network = load_network(name)
    assert network.card["command"].startswith(("cosim train ", "cosim study "))
    assert network.card["accuracy_software"] >= (0.85 if network.card["dataset"] == "cifar10" else 0.99)
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
    with pytest.raises(NetworkError, match="is not a card of a network"):
        load_network(files[0])


def test_a_card_of_huge_images(files: tuple[Path, Path]) -> None:
    files[1].write_text(
        files[1].read_text().replace('"input_shape": [\n    1,\n    6,\n    6', '"input_shape": [1, 8000, 8000')
    )
    with pytest.raises(NetworkError, match=r"images of shape \(1, 8000, 8000\), expected at most 16777216 numbers"):
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


HUGE = 2**62


def change(card: dict, path: str, value: object) -> None:
    """Set an entry of a card, as steps.0.padding."""
    *outer, last = (int(part) if part.isdecimal() else part for part in path.split("."))
    for part in outer:
        card = card[part]
    card[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("facts", [1], "facts of a network must be names and values, and its dataset a name, found '.1.'"),
        ("facts", {"dataset": ["mnist"]}, "its dataset a name"),
        ("facts", {"dataset": 5}, "its dataset a name"),
        ("input_shape", [1, -6, -6], r"takes images of shape \(1, -6, -6\), expected \(channels, height, width\)"),
        ("input_shape", [True, 6, 6], r"expected \(channels, height, width\), whole numbers from 1"),
        ("input_shape", [1, HUGE, HUGE], "expected at most 16777216 numbers"),
        ("steps.0.padding", [4096, 4096], "computes more than 268435456 values for an image, in step"),
        ("steps.0.padding", [HUGE, HUGE], "must be whole numbers up to 65536"),
        ("steps.0.dilation", [HUGE, 1], "must be whole numbers up to 65536"),
        ("steps.0.activation_scale", 10**400, "is not a card of a network .OverflowError"),
        ("steps.0.activation_scale", "1", "activation scale must be finite and > 0"),
        ("steps.1", {"step": "adaptive_avg_pool2d", "output_size": [2**14, 2**14]}, "computes more than 268435456"),
        ("steps.1", {"step": "adaptive_avg_pool2d", "output_size": HUGE}, "output_size must be finite numbers"),
        ("steps.1", {"step": "leaky_relu", "negative_slope": math.nan}, "negative_slope must be finite numbers"),
        ("steps.1", {"step": "affine", "gain": [math.inf], "offset": [0]}, "gain must be finite numbers"),
        ("steps.1", {"step": "affine", "gain": ["1"], "offset": [0]}, "gain must be finite numbers"),
        ("steps.1", {"step": "leaky_relu", "inplace": True}, "has no argument 'inplace': expected negative_slope"),
        ("steps.1", {"step": "relu", "x": 1}, "has no argument 'x': expected none"),
        ("steps.0.partial_sums", {"open_wordlines": HUGE, "cell_bits": 4, "lsb_units": 1.0, "highest": None}, "groups"),
        ("steps.0.partial_sums", {"open_wordlines": 4, "cell_bits": HUGE, "lsb_units": 1.0, "highest": None}, "6 bits"),
        ("steps.0.partial_sums", {"open_wordlines": 4.5, "cell_bits": 4, "lsb_units": 1.0, "highest": None}, "whole"),
        ("steps.0.partial_sums", {"open_wordlines": 4, "cell_bits": 4, "lsb_units": 1e-300, "highest": None}, "1e-9"),
    ],
)
def test_cards_beyond_reason(files: tuple[Path, Path], path: str, value: object, message: str) -> None:
    card = json.loads(files[1].read_text())
    change(card, path, value)
    files[1].write_text(json.dumps(card))
    with pytest.raises(NetworkError, match=message):
        load_network(files[0])


def test_files_that_are_too_large(files: tuple[Path, Path]) -> None:
    for path, size in ((files[1], 16), (files[0], 1024)):
        with path.open("r+b") as file:
            file.truncate(2 * size << 20)  # a hole, which takes no room
        with pytest.raises(NetworkError, match=rf"{path.name} has {2 * size} MiB, expected at most {size}: take"):
            load_network(files[0])


def test_a_network_of_thousands_of_steps(files: tuple[Path, Path]) -> None:
    card = json.loads(files[1].read_text())
    card["steps"][1:1] = [{"step": "relu"}] * 2000
    files[1].write_text(json.dumps(card))
    with pytest.raises(NetworkError, match="has 2007 steps, expected at most 2000: take a smaller network"):
        load_network(files[0])


def test_float_weights_of_other_shapes(files: tuple[Path, Path]) -> None:
    save_network(make_network(float_weights=True), files[0])
    rewrite(files[0], "float.conv1.bias", torch.zeros(7))
    with pytest.raises(NetworkError, match="float weights and bias of 'conv1' must have the shapes of its weights"):
        load_network(files[0])


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_in_another_precision(dtype: torch.dtype) -> None:
    network, images = cosim.load_network("digits-w4a4"), torch.arange(64).reshape(1, 1, 8, 8) / 64  # exact in all
    assert torch.equal(network(images.to(dtype)), network(images))
    assert torch.equal(network.forward_float(images.to(dtype)), network.forward_float(images))


def test_images_of_another_shape_are_named() -> None:
    with pytest.raises(NetworkError, match=r"takes images of shape \(1, 6, 6\), found \(1, 28, 28\)"):
        make_network()(random_images(1, (1, 28, 28)))


@pytest.mark.parametrize("broken", ["conv2", "linear3"])
def test_the_first_layer_whose_output_is_not_finite_is_named(broken: str) -> None:
    network = make_network(float_weights=True)
    for layer in network.layers:
        if layer.name in (broken, "linear3"):
            layer.output_scale.fill_(1e38)
    images = random_images(3)
    with pytest.raises(NetworkError, match=rf"layer '{broken}' of network 'tiny' is the first .* reach 1e\+38"):
        network(images)
    ideal = cosim.Config.load(None, ["run.fidelity=ideal", "run.layers=all"])
    with pytest.raises(NetworkError, match=f"layer '{broken}' of network 'tiny' is the first"):
        cosim.CircuitNetwork(network, ideal)(images)
    assert network.float_weights is not None
    network.float_weights["conv1"][0].fill_(1e38)
    with pytest.raises(NetworkError, match="layer 'conv1' of network 'tiny' is the first"):
        network.forward_float(images * 0 + 1)


def test_no_accuracy_comes_of_logits_that_are_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = load_network("digits-w4a4")
    next(layer for layer in network.layers if layer.name == "conv2").output_scale.mul_(1e38)
    save_network(network, tmp_path / "wild.safetensors")
    words = f"infer {tmp_path}/wild.safetensors --fidelity ideal --images 20 --out {tmp_path}/run.h5"
    monkeypatch.setattr(sys, "argv", ["cosim", *words.split()])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr()
    assert "layer 'conv2' of network 'digits-w4a4' is the first that gives values which are not finite" in said.err
    assert "%" not in said.out
    assert not (tmp_path / "run.h5").exists()


def test_large_values_that_are_finite_are_no_error() -> None:
    network = make_network()
    network.layers[-1].output_scale.fill_(0)
    network.layers[-1].output_bias.fill_(3e38)
    assert torch.isfinite(network(random_images(3))).all()
