"""Partial sums digitized in training and in software: exactness, gradients, and agreement with the arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cosim
from cosim.arithmetic.codes import decision_offset
from cosim.arithmetic.partial_sums import PartialSums
from cosim.config import Config
from cosim.errors import ConfigError, NetworkError
from cosim.training.partial_sum_quantizer import PartialSumQuantizer, concrete_codes
from cosim.training.quantized_layer import QuantizedLayer, four_axes
from cosim.training.quantizers import AsymmetricQuantizer, LearnedStepQuantizer, Quantizer

TWO_BITS = ["cell.bits=2"]
LAYERS = {
    "plain": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "stride": lambda: nn.Conv2d(4, 6, 3, padding=1, stride=2),
    "dilation": lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2, bias=False),
    "groups": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "linear": lambda: nn.Linear(30, 5),
}


def arrays(*overrides: str) -> PartialSums:
    return PartialSums.from_config(Config.load(None, [*TWO_BITS, *overrides]))


def example(kind: str) -> tuple[nn.Conv2d | nn.Linear, Tensor]:
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    return layer, torch.rand((10, 30) if kind == "linear" else (10, 4, 7, 7))


def quantized(
    layer: nn.Conv2d | nn.Linear, x: Tensor, partial_sums: PartialSumQuantizer | None, *, asymmetric: bool = False
) -> QuantizedLayer:
    weight: Quantizer = (
        AsymmetricQuantizer(2, channels=len(layer.weight))
        if asymmetric
        else LearnedStepQuantizer(2, signed=True, channels=len(layer.weight))
    )
    inputs: Quantizer = AsymmetricQuantizer(2) if asymmetric else LearnedStepQuantizer(2, signed=False)
    weight.fit(four_axes(layer.weight))
    inputs.fit(x)
    return QuantizedLayer(layer, weight, inputs, partial_sums)


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_lossless_codes_change_nothing(kind: str, asymmetric: bool) -> None:
    layer, x = example(kind)
    x = x - 0.3 if asymmetric else x
    digitized = quantized(layer, x, PartialSumQuantizer(arrays('adc.bits="lossless"')), asymmetric=asymmetric)
    exact = quantized(layer, x, None, asymmetric=asymmetric)
    assert torch.allclose(digitized(x), exact(x), atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_straight_through_has_the_gradient_of_the_exact_layer(kind: str) -> None:
    layer, x = example(kind)
    results = []
    for partial_sums in (None, PartialSumQuantizer(arrays("adc.bits=4"))):
        module, inputs = quantized(layer, x, partial_sums), x.clone().requires_grad_()
        y = module(inputs)
        factor = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
        results.append((y, torch.autograd.grad((y * factor).sum(), [inputs, *module.parameters()])))
    (exact, expected), (digitized, found) = results
    assert not torch.allclose(exact, digitized)
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


class Wavy(PartialSumQuantizer):
    """Codes that are a smooth function of the sum, so that its gradient can be had another way."""

    def draws(self, lsb: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        return repeat((lsb + 0.3 * torch.sin(lsb), 1 + 0.3 * torch.cos(lsb)))


@pytest.mark.parametrize("kind", ["plain", "stride", "dilation", "groups", "depthwise", "linear"])
def test_gradient_of_every_sum_is_that_of_a_plain_graph(kind: str) -> None:
    """The tables' gradients against autograd through unfolded bit planes, one sum at a time."""
    layer, x = example(kind)
    module = quantized(layer, x, Wavy(arrays("adc.bits=4", "cell.offset_units=0"), "concrete", 0.3))
    weight = module.weight_quantizer(four_axes(layer.weight)).detach().requires_grad_()
    inputs = four_axes(module.input_quantizer(x)).detach().requires_grad_()
    y = module._on_columns(inputs if kind != "linear" else inputs[:, :, 0, 0], weight, module.partial_sums)
    bias = 0 if layer.bias is None else layer.bias
    y = y - (bias if kind == "linear" or layer.bias is None else layer.bias[:, None, None])
    expected = plain_graph(layer, inputs, weight, module)
    assert torch.allclose(y.reshape(expected.shape), expected, atol=1e-4)
    factor = torch.linspace(-1, 1, y.numel()).reshape(expected.shape)
    found = torch.autograd.grad((y.reshape(expected.shape) * factor).sum(), [inputs, weight])
    wanted = torch.autograd.grad((expected * factor).sum(), [inputs, weight])
    for one, other in zip(wanted, found, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3 * one.abs().max().item())


def plain_graph(layer: nn.Conv2d | nn.Linear, inputs: Tensor, weight: Tensor, module: QuantizedLayer) -> Tensor:
    assert module.partial_sums is not None
    how, groups = module.partial_sums.how, getattr(layer, "groups", 1)
    steps = module.input_quantizer.positive_step().detach(), module.weight_quantizer.positive_step().detach()
    activations = inputs / steps[0]
    shape = {"padding": 0, "stride": 1, "dilation": 1}
    if isinstance(layer, nn.Conv2d):
        shape = {"padding": layer.padding, "stride": layer.stride, "dilation": layer.dilation}
    levels = (weight / steps[1] + 2).reshape(groups, len(weight) // groups, -1)
    total = torch.zeros(())
    for bit in range(2):
        whole = activations.detach().round().to(torch.int64)
        # The value of the bit, with a slope of 1 / 3 by the activation.
        plane = ((whole >> bit) & 1) + (activations - activations.detach()) / 3
        rows = F.unfold(plane, tuple(weight.shape[2:]), **shape).unflatten(1, (groups, -1))
        for first in range(0, rows.shape[2], how.open_wordlines):
            chunk = slice(first, first + how.open_wordlines)
            sums = torch.einsum("ngrl,gor->ngol", rows[:, :, chunk], levels[:, :, chunk])
            reference = 2 * rows[:, :, chunk].sum(2, keepdim=True)
            offset = decision_offset(how.lsb_units)
            both = (sums / how.lsb_units + offset, reference / how.lsb_units + offset)
            codes, reference_codes = (lsb + 0.3 * torch.sin(lsb) for lsb in both)
            total = total + 2**bit * how.lsb_units * (codes - reference_codes)
    scale = (steps[0] * steps[1]).reshape(-1).expand(len(weight)).reshape(groups, -1, 1)
    return (total * scale).flatten(1, 2)


def test_concrete_codes_follow_the_noise_of_the_sense_amplifier() -> None:
    """At a low temperature a sample is a code, with the probability of a logistic noise of that deviation."""
    torch.manual_seed(0)
    noise, sums = 0.4, torch.tensor([2.0, 2.2, 2.5, 2.9]).repeat(20000, 1)
    codes, _ = next(concrete_codes(sums, noise, 1e-3, 15))
    width = noise * math.sqrt(3) / math.pi
    for place, value in enumerate([2.0, 2.2, 2.5, 2.9]):
        share = (codes[:, place].round() == 3).double().mean().item()
        expected = torch.sigmoid(torch.tensor((3.5 - value) / width)) - torch.sigmoid(
            torch.tensor((2.5 - value) / width)
        )
        assert share == pytest.approx(expected.item(), abs=0.015)


def test_concrete_codes_of_sums_beyond_the_converter_are_its_highest() -> None:
    """p(14) / p(15) is exp(-1 / w) there, however small both are, and does not depend on the sum."""
    torch.manual_seed(0)
    noise, sums = 0.4, torch.linspace(18, 80, 50).repeat(2000, 1)
    codes, _ = next(concrete_codes(sums, noise, 1e-3, 15))
    ratio = math.exp(-math.pi / (noise * math.sqrt(3)))
    assert codes.max() == 15
    assert (codes.round() == 15).double().mean().item() == pytest.approx(1 / (1 + ratio + ratio**2), abs=2e-3)
    _, slopes = next(concrete_codes(sums, noise, 0.5, 15))
    assert slopes.abs().max() < 1e-3


def test_concrete_slope_is_the_derivative_of_its_sample() -> None:
    sums = torch.linspace(0.05, 14.9, 400, dtype=torch.float64)

    def sample(values: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        return next(concrete_codes(values, 0.3, 0.5, 15))

    step = 1e-6
    same_codes = sums.round() == (sums + step).round()
    slope = (sample(sums + step)[0] - sample(sums - step)[0]) / (2 * step)
    assert torch.allclose(slope[same_codes], sample(sums)[1][same_codes], atol=1e-4)


@pytest.mark.parametrize(("units", "expected"), [(None, 1.0), (9, 1.0), (2, 0.28), (1, 0.006)])
def test_concrete_slope_averages_to_one_but_not_over_whole_sums_of_fine_codes(
    units: int | None, expected: float
) -> None:
    """A narrow noise has its slope near decisions, and sums of one or two units a code stay clear of them."""
    torch.manual_seed(0)
    lsb = 5 + torch.rand(400_000)
    if units is not None:
        how = PartialSums(9, 2, float(units), 15)
        lsb = how.in_lsb(torch.arange(5 * units, 6 * units).repeat(400_000 // units))
    _, slope = next(concrete_codes(lsb, 0.1, 0.5, 15))
    assert slope.mean().item() == pytest.approx(expected, rel=0.1, abs=0.003)


def test_evaluation_has_no_noise() -> None:
    layer, x = example("plain")
    module = quantized(layer, x, PartialSumQuantizer(arrays("adc.bits=4"), "concrete", 0.5)).eval()
    assert torch.equal(module(x), module(x))
    module.train()
    assert not torch.equal(module(x), module(x))


@pytest.mark.parametrize("bits", ["3", "4", "5", "6", '"lossless"'])
@pytest.mark.parametrize("kind", ["step", "asymmetric"])
def test_an_ideal_circuit_gives_the_codes_of_software(bits: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    images = torch.rand(40, 1, 7, 7)
    plain = ["run.layers=all", "run.fidelity=ideal", "run.rescale=float"]
    config = Config.load(None, [*TWO_BITS, f"adc.bits={bits}", *plain])
    network = cosim.quantize(module, images, weight_bits=2, activation_bits=2, weight_quantizer=kind, arrays=config)
    assert torch.equal(cosim.CircuitNetwork(network, config)(images), network(images))
    cosim.save_network(network, tmp_path / "net.safetensors")
    again = cosim.load_network(tmp_path / "net.safetensors")
    assert [layer.partial_sums for layer in again.layers] == [arrays(f"adc.bits={bits}")] * 3
    assert torch.equal(again(images), network(images))


def test_the_circuit_simulated_gives_the_codes_of_software(tmp_path: Path) -> None:
    torch.manual_seed(2)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(18, 3))
    images = torch.rand(8, 1, 6, 6)
    config = Config.load(None, [*TWO_BITS, "adc.bits=4", 'run.fidelity="dc"', "array.bitline_res_ohm=0"])
    network = cosim.quantize(module, images, weight_bits=2, activation_bits=2, arrays=config)
    circuit = cosim.CircuitNetwork(network, config, store=tmp_path)
    assert torch.equal(circuit(images), network(images))


@pytest.mark.parametrize("setting", ["array.encoding=differential", "read.mode=pulse-width"])
def test_arrays_that_digitize_other_sums_are_refused(setting: str) -> None:
    images, module = torch.rand(8, 1, 4, 4), nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    options = {"weight_bits": 2, "activation_bits": 2}
    with pytest.raises(ConfigError, match=f"digitized partial sums need {setting.partition('=')[0]}"):
        cosim.quantize(module, images, **options, arrays=Config.load(None, [*TWO_BITS, setting]))
    network = cosim.quantize(module, images, **options, arrays=Config.load(None, TWO_BITS))
    with pytest.raises(ConfigError, match=f"digitized partial sums need {setting.partition('=')[0]}"):
        cosim.CircuitNetwork(network, Config.load(None, [*TWO_BITS, setting, "run.fidelity=ideal"]))


def test_an_even_code_width_has_no_ties() -> None:
    for units in (1.0, 2.0, 3.0, 4.0, 9.0):
        sums = torch.arange(0, 60) / units + decision_offset(units)
        assert ((sums - sums.floor()) - 0.5).abs().min() > 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounding": "soft"}, "straight-through or concrete, found 'soft'"),
        ({"noise_lsb": -1.0}, "noise_lsb must be >= 0"),
        ({"noise_lsb": math.nan}, "noise_lsb must be >= 0"),
        ({"rounding": "concrete"}, "> 0 for concrete rounding"),
        ({"temperature": 0.0}, "temperature must be > 0"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        PartialSumQuantizer(arrays(), **options)


def test_what_cannot_be_digitized_is_refused() -> None:
    with pytest.raises(NetworkError, match="1 to 12 wordlines, found 16"):
        arrays("array.open_wordlines=16")
    module, images = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 2)), torch.rand(4, 1, 6, 6)
    with pytest.raises(NetworkError, match="takes 4 bits, but a cell has 2"):
        cosim.quantize(module, images, weight_bits=4, arrays=Config.load(None, TWO_BITS))
    with pytest.raises(NetworkError, match="no layer 'conv9'"):
        cosim.quantize(module, images, weight_bits=2, arrays=Config.load(None, [*TWO_BITS, "run.layers=conv9"]))


@pytest.mark.parametrize("highest", [0, -1])
def test_a_converter_without_codes_is_refused(highest: int) -> None:
    with pytest.raises(NetworkError, match=rf"a highest code within 1 and 65535 or none, found .*highest={highest}"):
        PartialSums(9, 4, 1.0, highest)
