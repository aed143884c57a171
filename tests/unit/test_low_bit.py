"""Quantizers for few bits, and networks of XNOR and shifts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cosim
from cosim.config import Config
from cosim.errors import NetworkError
from cosim.network.integer_only import IntegerNetwork, bitwise_sums, kind_of
from cosim.network.layers import integer_mvm
from cosim.training.low_bit import ExpectedGradientQuantizer, PowerOfTwoQuantizer, expected_slope
from cosim.training.quantizers import Quantizer


def started(quantizer: Quantizer, step: float) -> Quantizer:
    with torch.no_grad():
        quantizer.step.fill_(step)
        quantizer.started.fill_(True)
    return quantizer


def test_odd_integers_are_the_grid_of_weights() -> None:
    value = torch.tensor([-9.0, -0.9, -0.1, 0.1, 0.9, 1.1, 2.3, 9.0])
    for bits, expected in ((1, [-1, -1, -1, 1, 1, 1, 1, 1]), (2, [-3, -1, -1, 1, 1, 3, 3, 3])):
        quantizer = started(ExpectedGradientQuantizer(bits, signed=True), 0.5)
        assert quantizer.integers(value).tolist() == expected
        assert torch.equal(quantizer(value), quantizer.integers(value) * 0.5)
        levels = quantizer.integers(value) + quantizer.zero_point()
        assert int(levels.min()) == 0
        assert int(levels.max()) < 2**quantizer.stored_bits


def test_powers_of_two_are_the_grid_of_shifts() -> None:
    value = torch.tensor([0.0, 0.4, -0.6, 1.3, -1.5, 2.7, 3.0, 20.0])
    quantizer = started(PowerOfTwoQuantizer(3), 1.0)
    assert quantizer.integers(value).tolist() == [0, 0, -1, 1, -2, 2, 4, 4]
    assert started(PowerOfTwoQuantizer(2), 1.0).integers(value).tolist() == [0, 0, -1, 1, -1, 1, 1, 1]
    assert torch.equal(quantizer(value), quantizer.integers(value).float())


@pytest.mark.parametrize("width", [0.1, 0.3, 0.5])
def test_expected_slope_is_that_of_the_mean_staircase(width: float) -> None:
    """Against a numerical mean over logistic noise, differentiated by differences."""
    share = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    noise = width * torch.log(share / (1 - share))
    for x in (-0.3, 0.2, 0.5, 1.4, 3.6):
        means = [(x + shift + noise).round().clamp(0, 3).mean().item() for shift in (-0.01, 0.01)]
        slope = expected_slope(torch.tensor([x], dtype=torch.float64), width, 0, 3).item()
        assert slope == pytest.approx((means[1] - means[0]) / 0.02, abs=2e-3)


def test_the_backward_pass_uses_the_expected_slope_and_narrows() -> None:
    quantizer = started(ExpectedGradientQuantizer(2, signed=False), 0.5)
    slopes = []
    for progress in (0.0, 1.0):
        quantizer.anneal(progress)
        value = torch.tensor([0.25, 0.5], requires_grad=True)
        quantizer(value).sum().backward()
        assert torch.allclose(value.grad, expected_slope(value.detach() / 0.5, quantizer.width, 0, 3))
        slopes.append(value.grad)
    # At a decision point the slope grows, between two of them it falls.
    assert slopes[1][0] > slopes[0][0]
    assert slopes[1][1] < slopes[0][1]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("estimator", ["expected", "straight-through"])
def test_gradients_of_value_and_step(estimator: str, signed: bool) -> None:
    """d v^ / d v = E', d v^ / d s = w - (v/s) E', which is LSQ's where E' is 1 inside the range and 0 outside."""
    quantizer = started(ExpectedGradientQuantizer(2, signed=signed, estimator=estimator), 0.5)
    value = torch.tensor([-2.5, -0.7, -0.2, 0.3, 0.9, 2.6], requires_grad=True)
    quantizer(value).sum().backward()
    scaled, unit, low, high = value.detach() / 0.5, 2 if signed else 1, -3 if signed else 0, 3
    slope = ((scaled > low) & (scaled < high)).float()
    if estimator == "expected":
        slope = expected_slope(scaled / unit, quantizer.width, low / unit, high / unit)
    assert torch.allclose(value.grad, slope)
    integers = torch.tensor([-3.0, -1, -1, 1, 1, 3] if signed else [0.0, 0, 0, 1, 2, 3])
    expected = (integers - scaled * slope).sum() / math.sqrt(6 * 3)
    assert quantizer.step.grad.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradients_of_powers_of_two() -> None:
    """LSQ's: 1 inside the range; w - v/s inside, w outside, scaled by 1 / sqrt(N high)."""
    quantizer = started(PowerOfTwoQuantizer(3), 0.5)  # 0, 1, 2, 4
    value = torch.tensor([-2.5, -0.7, -0.2, 0.3, 0.9, 2.6], requires_grad=True)
    quantizer(value).sum().backward()
    assert value.grad.tolist() == [0, 1, 1, 1, 1, 0]
    slopes = [-4, -1 + 1.4, 0 + 0.4, 1 - 0.6, 2 - 1.8, 4]
    assert quantizer.step.grad.item() == pytest.approx(sum(slopes) / math.sqrt(6 * 4), rel=1e-5)


def small(weight_quantizer: str, bits: int) -> tuple[cosim.Network, Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2), nn.LeakyReLU(), nn.Conv2d(8, 8, 2, dilation=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    module[1].running_mean.uniform_(-1, 1)
    module[1].weight.data.uniform_(-1, 1)  # some outputs fall with their sum
    images = torch.rand(60, 2, 10, 10)
    network = cosim.quantize(module, images, weight_bits=bits, activation_bits=bits, weight_quantizer=weight_quantizer)
    return network, images


@pytest.mark.parametrize(("kind", "bits"), [("expected", 1), ("expected", 2), ("odd", 3), ("power-of-two", 3)])
def test_integers_alone_give_the_logits_bit_for_bit(kind: str, bits: int) -> None:
    network, images = small(kind, bits)
    assert torch.equal(IntegerNetwork(network)(images), network(images))
    expected = "shift" if kind == "power-of-two" else "xnor"
    assert [kind_of(layer) for layer in network.layers] == [expected] * 4


@pytest.mark.parametrize(("kind", "bits"), [("expected", 2), ("power-of-two", 3), ("power-of-two", 4)])
def test_sums_by_xnor_and_shift_are_the_exact_ones(kind: str, bits: int) -> None:
    network, _ = small(kind, bits)
    generator = torch.Generator().manual_seed(1)
    for layer in network.layers:
        size = (1, 1) if layer.kind == "linear" else (9, 8)
        shape = (3, layer.inputs, *size)
        activations = torch.randint(0, 2**layer.activation_bits, shape, generator=generator)
        found = bitwise_sums(layer, activations.numpy())
        assert np.array_equal(found, integer_mvm(layer, activations.float()).numpy())


@pytest.mark.parametrize(("kind", "bits"), [("expected", 1), ("expected", 3), ("power-of-two", 3), ("power-of-two", 4)])
def test_an_ideal_circuit_gives_the_same_codes(kind: str, bits: int) -> None:
    network, images = small(kind, bits)
    config = Config.load(None, ["run.fidelity=ideal", "run.layers=all", "run.rescale=float"])
    assert torch.equal(cosim.CircuitNetwork(network, config)(images[:10]), network(images[:10]))


def test_what_integers_cannot_express_is_refused() -> None:
    network, _ = small("step", 4)
    with pytest.raises(NetworkError, match="neither all odd nor all powers of two"):
        IntegerNetwork(network)
    with pytest.raises(NetworkError, match="1 to 3 bits, found 4"):
        ExpectedGradientQuantizer(4, signed=True)
    with pytest.raises(NetworkError, match="2 to 4 bits"):
        PowerOfTwoQuantizer(1)
    averaged = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    network = cosim.quantize(averaged, torch.rand(4, 1, 6, 6), weight_bits=1, weight_quantizer="odd")
    with pytest.raises(NetworkError, match="needs more than integers"):
        IntegerNetwork(network)
    falling = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LeakyReLU(-0.5), nn.Flatten(), nn.Linear(32, 2))
    network = cosim.quantize(falling, torch.rand(4, 1, 6, 6), weight_bits=1, weight_quantizer="odd")
    with pytest.raises(NetworkError, match="a slope must be >= 0"):
        IntegerNetwork(network)
