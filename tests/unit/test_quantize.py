"""A user's own torch module on the arrays: what is understood is exact, what is not is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cosim
from cosim.errors import NetworkError
from cosim.training import fitting
from cosim.training.checkpoint import save_checkpoint
from cosim.training.quantize import Quantization


def settled(module: nn.Module) -> nn.Module:
    """Statistics and gains of batch norm as training leaves them."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.3, 1)
            part.weight.data.uniform_(-1, 1)
            part.bias.data.normal_(0, 0.3)
    return module.eval()


class Residual(nn.Module):
    """Two branches added, a shortcut convolution, functional calls and global pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = self.inner(x) + self.shortcut(x)
        x = F.adaptive_avg_pool2d(x.relu(), 1)
        return self.last(torch.flatten(x, 1))


class Branches(nn.Module):
    """Channels concatenated; a depthwise and a dilated convolution; an input that is negative somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(1, 3, 3, padding=2, dilation=2)
        self.narrow = nn.Conv2d(1, 3, 1)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6, padding=1)
        self.activation = nn.ReLU6()
        self.pool = nn.AvgPool2d(2)
        self.last = nn.Linear(6 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.wide(x), self.narrow(x)], 1)
        x = self.pool(self.activation(self.depthwise(x)))
        return self.last(x.view(x.size(0), -1))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(2),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


MODULES: dict[str, Callable[[], nn.Module]] = {"plain": plain, "residual": Residual, "branches": Branches}


def images(count: int = 64) -> Tensor:
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("weight_quantizer", ["step", "threshold", "asymmetric"])
def test_eight_bits_come_close_to_the_float_module(module: str, weight_quantizer: str) -> None:
    net = settled(MODULES[module]())
    network = cosim.quantize(
        net, images(), weight_bits=8, activation_bits=8, weight_quantizer=weight_quantizer, name="mine"
    )
    with torch.no_grad():
        expected, found = net(images()), network(images())
        assert torch.allclose(network.forward_float(images()), expected, atol=1e-5)
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()
    assert len(network.layers) == sum(isinstance(part, nn.Conv2d | nn.Linear) for part in net.modules())


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        ("plain", {"weight_quantizer": "asymmetric"}),
        ("plain", {"weight_bits": 8, "activation_bits": 3}),
        ("residual", {}),
        ("residual", {"per_channel": False, "activation_quantizer": "clip"}),
        ("branches", {"weight_bits": 2, "activation_bits": 2}),
        ("branches", {"weight_bits": 6, "weight_quantizer": "asymmetric"}),
    ],
)
def test_an_ideal_circuit_gives_no_code_different_from_the_integers(
    module: str, settings: dict, shared_store: Path
) -> None:
    network = cosim.quantize(settled(MODULES[module]()), images(), **settings)
    config = cosim.Config.load(
        None,
        ["run.layers=all", "run.fidelity=dc", "array.bitline_res_ohm=0", "array.open_wordlines=4", "run.rescale=float"],
    )
    comparison = cosim.compare(
        cosim.CircuitNetwork(network, config, store=shared_store), images(6), torch.zeros(6, dtype=torch.int64)
    )
    assert [layer.differing_codes for layer in comparison.layers] == [0] * len(network.layers)
    with torch.no_grad():
        circuit = cosim.CircuitNetwork(network, config, store=shared_store)
        assert torch.equal(circuit(images(6)), network(images(6)))


@pytest.mark.parametrize("weight_bits", [4, 8])
@pytest.mark.parametrize("module", MODULES)
def test_round_trip_through_safetensors(module: str, weight_bits: int, tmp_path: Path) -> None:
    options = {"weight_quantizer": "asymmetric", "weight_bits": weight_bits}
    network = cosim.quantize(settled(MODULES[module]()), images(), name="mine", **options)
    cosim.save_network(network, tmp_path / "mine.safetensors")
    again = cosim.load_network(tmp_path / "mine.safetensors")
    with torch.no_grad():
        assert torch.equal(network(images()), again(images()))
    assert again.card["software"] == network.card["software"]
    assert again.steps[-1].name == network.steps[-1].name


def test_what_stays_in_software_is_listed() -> None:
    network = cosim.quantize(settled(Residual()), images())
    assert network.card["software"] == ["relu", "add", "relu_1", "adaptive_avg_pool2d", "flatten"]


class Nested(nn.Module):
    """Modules within modules, one used twice, one with a name that no file should have."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("-stem", nn.Conv2d(1, 4, 3))
        self.body = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), nn.BatchNorm2d(4))
        self.relu = nn.ReLU()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.body(self.relu(self.get_submodule("-stem")(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def test_steps_are_called_as_their_modules(tmp_path: Path, shared_store: Path) -> None:
    network = cosim.quantize(settled(Nested()), images())
    assert [step.name for step in network.steps] == [
        "_-stem", "relu", "body.0.0", "body.1", "relu-2", "adaptive_avg_pool2d", "flatten", "fc",
    ]  # fmt: skip
    cosim.save_network(network, tmp_path / "nested.safetensors")
    network = cosim.load_network(tmp_path / "nested.safetensors")
    config = cosim.Config.load(None, ["run.layers=body.0.0,fc", "array.open_wordlines=4"])
    circuit = cosim.CircuitNetwork(network, config, store=shared_store)
    assert list(circuit.arrays) == ["body.0.0", "fc"]
    entries = json.loads(circuit.write_netlists(tmp_path / "decks").read_text())["decks"]
    assert {entry["file"] for entry in entries} == {"body.0.0_g0_0.cir", "fc_g0_0.cir"}
    assert all((tmp_path / "decks" / entry["file"]).is_file() for entry in entries)


def test_layers_that_are_numbers_are_named_as_text() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    arrays = cosim.Config.load(None, ["run.layers=0", "run.fidelity=ideal"])
    module(images())
    network = cosim.quantize(settled(module), images(), arrays=arrays)
    assert [layer.partial_sums is not None for layer in network.layers] == [True, False]
    assert list(cosim.CircuitNetwork(network, arrays).arrays) == ["0"]


def test_padding_of_an_input_that_is_negative_somewhere_is_a_real_zero() -> None:
    network = cosim.quantize(settled(Branches()), images(), weight_bits=8, activation_bits=8)
    (depthwise,) = [layer for layer in network.layers if layer.groups == 6]
    assert depthwise.input_zero_point > 0
    x = torch.zeros(1, 6, 3, 3)
    blank = depthwise.scale_output(cosim.network.integer_mvm(depthwise, depthwise.quantize_input(x)))
    bias = network.float_weights["depthwise"][1]
    assert torch.allclose(blank[0], bias[:, None, None].expand(6, 3, 3), atol=1e-5)


class Functional(nn.Module):
    """Convolution, then whatever function is given, then flatten."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x)).flatten(1)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.avg_pool2d(x, 2, 2, 1, False, False),
        lambda x: F.avg_pool2d(x, 3, padding=1, count_include_pad=False),
        lambda x: F.max_pool2d(x, 4, 4, 0, 1, True),
        lambda x: F.relu(x, inplace=True),
        lambda x: torch.add(x, x),
    ],
)
def test_arguments_of_functions_are_kept(function: Callable[[Tensor], Tensor]) -> None:
    net = settled(Functional(function))
    network = cosim.quantize(net, images(), weight_bits=8, activation_bits=8)
    with torch.no_grad():
        assert torch.allclose(network.forward_float(images()), net(images()), atol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.add(x, x, alpha=2),
        lambda x: F.avg_pool2d(x, 2, divisor_override=3),
        lambda x: x.view(8, 72),
        lambda x: torch.flatten(x, 1, 2),
        lambda x: torch.cat([x, x], 2),
        lambda x: 1 / (x + 1),
    ],
)
def test_arguments_that_a_step_cannot_hold_are_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(NetworkError, match="which is not understood"):
        cosim.quantize(settled(Functional(function)), images())


class Branching(nn.Module):
    """Control flow that depends on values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Shared(nn.Module):
    """One layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x)).flatten(1)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branching(), "Branching cannot be traced"),
        (Shared(), "layer 'layer' is used 2 times"),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sigmoid(), nn.Flatten()),
            "node '1' is Sigmoid, which is not understood",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 2, (3, 4), padding="same"), nn.Flatten()),
            "convolution '0' pads its two sides unequally, .*: use an odd kernel",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten()),
            "convolution '0' pads with 'reflect'",
        ),
        (nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten()), r"calibration images of shape \(8, 1, 6, 6\) do not fit"),
        (nn.Sequential(nn.Flatten(), nn.ReLU()), "no convolution or linear layer"),
    ],
)
def test_what_cannot_be_quantized_is_named(module: nn.Module, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        cosim.quantize(module, images())


def test_parameters_that_are_not_finite() -> None:
    net = plain()
    next(net.parameters()).data.fill_(float("nan"))
    with pytest.raises(NetworkError, match=r"parameter '0\.weight' holds NaN"):
        cosim.quantize(net, images())


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (torch.rand(4, 6, 6), r"must be float \(n, channels, height, width\), n > 0, found \(4, 6, 6\)"),
        (torch.rand(0, 1, 6, 6), "n > 0"),
        (torch.ones(2, 1, 6, 6, dtype=torch.uint8), "must be float"),
        (torch.rand(2, 1, 6, 6) * 255, r"finite values in 0\.\.1"),
    ],
)
def test_calibration_images_that_cannot_be(calibration: Tensor, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        cosim.quantize(plain(), calibration)


def test_options_that_cannot_be() -> None:
    with pytest.raises(NetworkError, match="weight_quantizer must be one of step, threshold, asymmetric"):
        cosim.quantize(plain(), images(), weight_quantizer="ternary")  # type: ignore[arg-type]
    for bits, shown in ((12, "12"), ("4", "'4', which is not an int"), (True, "True, which"), (2.0, "2.0, which")):
        with pytest.raises(NetworkError, match=f"bits must be 1 to 8, found {shown}"):
            cosim.quantize(plain(), images(), weight_bits=bits)
    for wrong in ({"rounding": "bogus"}, {"noise_lsb": -3.0}, {"rounding": "concrete"}):  # with arrays and without
        with pytest.raises(NetworkError, match=r"rounding must be|noise_lsb must be >= 0"):
            cosim.quantize(plain(), images(), **wrong)


@pytest.mark.parametrize(
    ("weight_bits", "weight_quantizer", "cell_bits"), [(5, "step", 4), (4, "power-of-two", 4), (2, "odd", 2)]
)
def test_partial_sums_take_weights_of_one_cell(weight_bits: int, weight_quantizer: str, cell_bits: int) -> None:
    how = {"weight_bits": weight_bits, "weight_quantizer": weight_quantizer}
    arrays = cosim.Config.load(None, [f"cell.bits={cell_bits}", "array.open_wordlines=4"])
    with pytest.raises(NetworkError, match=rf"takes \d bits, but a cell has {cell_bits}: lower weight_bits"):
        Quantization(**how, arrays=arrays)
    Quantization(**how)


def test_sums_beyond_the_exact_range_are_refused_before_training() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(36 * 100, 3))
    wide = torch.rand(8, 100, 6, 6)
    module[1].weight.data.fill_(1.0)
    with pytest.raises(NetworkError, match=r"beyond the exact range 2\^24: lower weight_bits \(8\) or activation_bits"):
        cosim.finetune(module, wide, torch.zeros(8, dtype=torch.int64), epochs=10**9, weight_bits=8, activation_bits=8)
    module[1].weight.data[:, ::2] = -1.0  # sums of either sign are half as large
    cosim.quantize(module, wide, weight_bits=8, activation_bits=6)


def bright_half() -> tuple[Tensor, Tensor]:
    """Images whose brighter half, upper or lower, is their class, with much noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(256) % 2
    noisy = torch.rand(256, 1, 6, 6, generator=generator) * 0.7
    noisy[labels == 0, :, :3] += 0.2
    noisy[labels == 1, :, 3:] += 0.2
    return noisy, labels


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return (network(images).argmax(1) == labels).double().mean().item()


def test_finetuning_gives_back_what_few_bits_cost() -> None:
    noisy, labels = bright_half()
    torch.manual_seed(0)
    module = settled(Branches())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    options = {"weight_bits": 3, "activation_bits": 3, "weight_quantizer": "asymmetric"}
    untrained = cosim.quantize(module, noisy, **options)
    tuned = cosim.finetune(module, noisy, labels, epochs=20, rate=1e-2, **options)
    assert accuracy(tuned, noisy, labels) > max(0.9, accuracy(untrained, noisy, labels))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items()), "the module stays"
    again = cosim.finetune(module, noisy, labels, epochs=20, rate=1e-2, **options)
    assert torch.equal(tuned(noisy), again(noisy))
    with torch.no_grad():
        assert torch.allclose(tuned.forward_float(noisy), module(noisy), atol=1e-5)


def test_finetuning_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy, labels = bright_half()
    module, kept = settled(plain()), tmp_path / "tuning.checkpoint"
    whole = cosim.finetune(module, noisy, labels, epochs=3)

    def interrupted(path: Path, *arguments: object) -> None:
        save_checkpoint(path, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cosim.finetune(module, noisy, labels, epochs=3, checkpoint=kept)
    monkeypatch.undo()
    assert torch.equal(cosim.finetune(module, noisy, labels, epochs=3, checkpoint=kept)(noisy), whole(noisy))
    with pytest.raises(NetworkError, match="differs in rate"):
        cosim.finetune(module, noisy, labels, epochs=3, rate=0.1, checkpoint=kept)
    with pytest.raises(NetworkError, match="differs in module"):
        cosim.finetune(settled(plain()), noisy, labels, epochs=3, checkpoint=kept)


def test_finetuning_that_diverges_stops() -> None:
    noisy, labels = bright_half()
    with pytest.raises(NetworkError, match="fine-tuning network diverged in epoch"):
        cosim.finetune(settled(plain()), noisy, labels, rate=1e30)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(5, dtype=torch.long), r"expected 256 labels from 0 to .* found 5 labels"),
        (torch.full((256,), 10), r"labels from 0 to \d, since the module has \d logits, found 10..10"),
        (torch.full((256,), -1), r"found -1..-1: number the classes from 0"),
        (torch.zeros(256), r"found torch.float32 \(256,\): give class numbers"),
        (torch.zeros(256, 2, dtype=torch.long), r"found torch.int64 \(256, 2\)"),
        ([0] * 256, r"found list"),
    ],
)
def test_labels_that_are_no_classes(labels: Tensor, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        cosim.finetune(settled(plain()), bright_half()[0], labels)


def test_images_and_rates_that_cannot_be_trained_with() -> None:
    noisy, labels = bright_half()
    noisy[-1, 0, 0, 0] = float("nan")
    with pytest.raises(NetworkError, match=r"training images must have finite values in 0..1"):
        cosim.finetune(plain(), noisy, labels, calibration_images=8)
    with pytest.raises(NetworkError, match=r"rate > 0, found .* and nan"):
        cosim.finetune(plain(), noisy, labels, rate=float("nan"))
    with pytest.raises(NetworkError, match=r"must be whole numbers .* found 1.5"):
        cosim.finetune(plain(), noisy, labels, epochs=1.5)  # type: ignore[arg-type]


def test_a_dead_layer_is_told_before_it_is_trained() -> None:
    noisy, labels = bright_half()
    module = settled(plain())
    layer = next(part for part in module.modules() if isinstance(part, nn.Conv2d))
    nn.init.zeros_(layer.weight)
    with pytest.raises(NetworkError, match="is zero before training: the layer's weights"):
        cosim.finetune(module, noisy, labels)


def test_finetuning_needs_no_gradients_around_it() -> None:
    noisy, labels = bright_half()
    with torch.no_grad():
        inside = cosim.finetune(settled(plain()), noisy, labels, epochs=1)
    assert torch.equal(inside(noisy), cosim.finetune(settled(plain()), noisy, labels, epochs=1)(noisy))
