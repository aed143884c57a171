"""Rescaling between layers by integer multipliers and shifts."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

import cosim
from cosim.config import Config
from cosim.datasets import load_dataset
from cosim.errors import ConfigError, NetworkError
from cosim.network import FixedPoint, LayerSpec, Network, SoftwareStep, Step, integer_mvm, load_network
from cosim.network.fixed_point import SUM_POINT, WORD_BITS
from tests.conftest import make_layer, make_network, random_images

LARGEST = 2 ** (WORD_BITS - 1) - 1
UNIT = Fraction(1, 2**SUM_POINT)


def one_to_one(**given: object) -> LayerSpec:
    """A layer of one input and one output, of weight 1 and scales 1, whose integers are its real numbers."""
    plain = make_layer(outputs=1, inputs=1, kernel=(1, 1))
    ones = {"weight": torch.ones(1, 1, 1, 1, dtype=torch.int32), "activation_scale": 1.0,
            "output_scale": torch.ones(1), "output_bias": torch.zeros(1)}  # fmt: skip
    return replace(plain, **{**ones, **given})


def whole(x: Fraction) -> int:
    """The nearest whole number, halves up."""
    return math.floor(x + Fraction(1, 2))


def multiplied(x: int, factor: float, bits: int) -> int:
    """A Python integer by an integer multiplier and a shift, which are the factor."""
    multiplier, power = factor.as_integer_ratio()
    assert (multiplier // (multiplier & -multiplier or 1)).bit_length() <= bits, "the multiplier has so many bits"
    shift = power.bit_length() - 1
    return (x * multiplier + (1 << shift >> 1)) >> shift


def output_of(sum_: float, fixed: FixedPoint, channel: int, bits: int) -> Fraction:
    """An output by Python integers alone."""
    kept = whole(Fraction(sum_) / UNIT)
    word = multiplied(kept, float(fixed.output_factor[channel]), bits) + int(fixed.bias[channel])
    return max(min(word, LARGEST), -LARGEST - 1) / Fraction(2) ** fixed.output_point


def activation_of(x: float, fixed: FixedPoint, bits: int) -> int:
    """An activation by Python integers alone."""
    word = max(min(whole(Fraction(x) * Fraction(2) ** fixed.input_point), LARGEST), -LARGEST - 1)
    found = multiplied(word, float(fixed.input_factor), bits) + fixed.layer.input_zero_point
    return max(min(found, 2**fixed.layer.activation_bits - 1), 0)


def layers() -> list[LayerSpec]:
    """Layers with zero points, scales far apart, negative and zero scales, and pixels or none."""
    wide = make_layer(outputs=5, inputs=300, asymmetric=True, activation_bits=8, weight_bits=8, kernel=(1, 1))
    apart = torch.tensor([3e-5, -0.02, 0.0, 7.0, 1e-12])
    linear = make_layer(outputs=5, inputs=3, kernel=(1, 1), kind="linear", activation_bits=2)
    return [
        replace(wide, output_scale=apart, activation_scale=0.0123),
        replace(linear, output_scale=apart.flip(0), activation_scale=37.7),
        replace(linear, output_scale=1e-30 * apart, output_bias=torch.zeros(5), activation_scale=1e-37),
    ]


@pytest.mark.parametrize("bits", [4, 16, 24])
@pytest.mark.parametrize("number", range(3))
def test_tensors_compute_what_integers_do(number: int, bits: int) -> None:
    layer, rng = layers()[number], np.random.default_rng(number)
    fixed = FixedPoint.of(layer, bits)
    reach = 2 ** rng.uniform(0, 23.9, (7, 5))
    sums = (rng.choice([-1, 1], (7, 5)) * reach).round(0) + rng.choice([0, 1 / 32, -1 / 32, 0.3], (7, 5))
    given = torch.from_numpy(sums).float()
    found = fixed.scale_output(given[:, :, None, None]).reshape(7, 5)
    expected = [[output_of(float(given[n, o]), fixed, o, bits) for o in range(5)] for n in range(7)]
    assert [[Fraction(float(y)) for y in row] for row in found] == expected

    step = layer.activation_scale
    x = torch.from_numpy(rng.normal(0, 2**layer.activation_bits * step, (40, layer.inputs)))
    x[0] = 1e4 * x[0]  # beyond every word
    image = x if layer.kind == "linear" else x[:, :, None, None]
    activations = fixed.quantize_input(image).reshape(40, -1)
    assert activations.dtype == torch.float32
    assert activations.tolist() == [[activation_of(float(value), fixed, bits) for value in row] for row in x]


@pytest.mark.parametrize("bits", [4, 16, 24])
def test_multipliers_come_as_close_as_their_bits_allow(bits: int) -> None:
    for layer in layers():
        fixed = FixedPoint.of(layer, bits)
        meant = layer.output_scale.double() * 2.0 ** (fixed.output_point - SUM_POINT)
        torch.testing.assert_close(fixed.output_factor.flatten(), meant, rtol=2.0**-bits, atol=0)
        share = float(fixed.input_factor) * layer.activation_scale * 2.0**fixed.input_point
        assert abs(share - 1) <= 2.0**-bits


def test_halves_are_rounded_up() -> None:
    fixed = FixedPoint.of(one_to_one(), 16)
    x = torch.tensor([-0.5, 0.5, 1.5, 2.5, 2.4999, 14.5, 99.0])
    assert fixed.quantize_input(x[:, None, None, None]).flatten().tolist() == [0, 1, 2, 3, 2, 15, 15]
    zero_point = FixedPoint.of(one_to_one(input_zero_point=3), 16)
    assert zero_point.quantize_input(x[:, None, None, None]).flatten().tolist() == [3, 4, 5, 6, 5, 15, 15]
    sums = torch.tensor([1.0, -1.0, 1 / 32, -1 / 32, 3 / 32])
    expected = [1.0, -1.0, 1 / 16, 0.0, 1 / 8]
    assert fixed.scale_output(sums[:, None, None, None]).flatten().tolist() == expected


def test_words_hold_all_exact_sums_and_no_more_than_they_need() -> None:
    for layer in (make_layer(seed=seed, outputs=6, asymmetric=True) for seed in range(8)):
        for bits in (4, 16):
            fixed = FixedPoint.of(layer, bits)
            ends = torch.stack([layer.weight.clamp(max=0).sum((1, 2, 3)), layer.weight.clamp(min=0).sum((1, 2, 3))])
            y = fixed.scale_output(15.0 * ends[:, :, None, None])
            words = y.abs() * 2.0**fixed.output_point
            assert words.max() <= LARGEST
            assert words.max() > LARGEST / 4
            share = 2.0**-bits * layer.output_scale[:, None, None] * 15 * ends[:, :, None, None].abs()
            error = (y - layer.scale_output(15.0 * ends[:, :, None, None])).abs()
            assert (error <= share + 2 * 2.0**-fixed.output_point + 1e-6).all()


def test_words_saturate() -> None:
    fixed = FixedPoint.of(one_to_one(), 16)
    found = fixed.scale_output(torch.tensor([1e5, -1e5, 15.0])[:, None, None, None]).flatten()
    assert (found * 2.0**fixed.output_point).tolist() == [LARGEST, -LARGEST - 1, 15 * 2**fixed.output_point]


def test_images_are_computed_as_one_by_one() -> None:
    fixed = FixedPoint.of(make_layer(inputs=8, outputs=8, padding=(1, 1), asymmetric=True), 16)
    x = torch.randn(19, 8, 48, 48) * 0.4
    alone = torch.cat([fixed.quantize_input(each) for each in x.split(1)])
    assert torch.equal(fixed.quantize_input(x), alone)
    assert alone.shape == (19, 8, 50, 50)
    assert (alone[:, :, 0] == 3).all(), "padding is the input zero point"
    sums = (1000 * x).round()
    assert torch.equal(fixed.scale_output(sums), torch.cat([fixed.scale_output(each) for each in sums.split(1)]))
    assert fixed.quantize_input(x[:0]).shape == (0, 8, 50, 50)


def test_residual_additions_are_exact() -> None:
    """Two layers whose words have their binary points far apart: float32 would round their sum."""
    fine = one_to_one(name="fine", output_scale=torch.tensor([2.0**-30 / 3]))
    coarse = one_to_one(name="coarse")
    steps = [Step("fine", fine, ("images",)), Step("coarse", coarse, ("images",)),
             Step("add", SoftwareStep("add"), ("fine", "coarse")),
             Step("flatten", SoftwareStep("flatten"), ("add",))]  # fmt: skip
    network = Network("two", (1, 1, 1), steps)
    fixed = {layer.name: FixedPoint.of(layer, 16) for layer in network.layers}
    results = []

    class Last(SoftwareStep):
        def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
            results.extend(inputs)
            return super().__call__(*inputs)

    network.steps[-1] = replace(network.steps[-1], operation=Last("flatten"))
    network(torch.ones(1, 1, 1, 1), integer_mvm, fixed)
    assert Fraction(float(results[0])) == 1 + output_of(1, fixed["fine"], 0, 16)
    assert float(results[0]) != float(results[0].float())


def test_circuits_rescale_in_fixed_point_unless_they_are_told_not_to() -> None:
    network, images = make_network(), random_images(20)
    settings = ["run.fidelity=ideal", "run.layers=all"]
    with torch.no_grad():
        expected = network(images)
        assert torch.equal(
            cosim.CircuitNetwork(network, Config.load(None, [*settings, "run.rescale=float"]))(images), expected
        )
        circuit = cosim.CircuitNetwork(network, Config.load(None, settings))
        found = circuit(images)
        fixed = {layer.name: FixedPoint.of(layer, 16) for layer in network.layers}
        assert torch.equal(found, network(images, integer_mvm, fixed))
        coarse = cosim.CircuitNetwork(network, Config.load(None, [*settings, "run.rescale_bits=4"]))(images)
    words = found.double() * 2.0 ** fixed["linear3"].output_point
    assert torch.equal(words, words.round())
    assert 0 < (found - expected).abs().max() < 1e-3 < (coarse - expected).abs().max()


def test_layers_in_software_are_as_their_file_says() -> None:
    network, images = make_network(), random_images(20)
    circuit = cosim.CircuitNetwork(network, Config.load(None, ["run.fidelity=ideal", "run.layers=conv2"]))
    assert set(circuit.rescaling) == {"conv2"}
    with torch.no_grad():
        assert torch.equal(
            circuit(images), network(images, integer_mvm, {"conv2": FixedPoint.of(network.layers[1], 16)})
        )


def test_digits_are_decided_as_in_software() -> None:
    network, digits = load_network("digits-w4a4"), load_dataset("digits")
    images = digits.real(0, len(digits))
    with torch.no_grad():
        software = network(images)
        fixed = network(images, integer_mvm, {layer.name: FixedPoint.of(layer, 16) for layer in network.layers})
    assert (software.argmax(1) != fixed.argmax(1)).sum() <= 1
    assert 0 < (software - fixed).abs().max() < 0.01


@pytest.mark.parametrize("scale", [1e-40, 1e39])
def test_activation_scales_beyond_reason_are_refused(scale: float) -> None:
    network = Network("far", (1, 1, 1), [one_to_one(activation_scale=scale), SoftwareStep("flatten")])
    with pytest.raises(
        NetworkError, match=r"'conv1': fixed point takes activation scales of 1e-38 to 1e\+38, found 1e"
    ):
        cosim.CircuitNetwork(network, Config.load(None, ["run.fidelity=ideal"]))
    cosim.CircuitNetwork(network, Config.load(None, ["run.fidelity=ideal", "run.rescale=float"]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("run.rescale=half", r"rescale.*'fixed' or 'float'"),
        ("run.rescale_bits=3", "rescale_bits.*greater than or equal to 4"),
        ("run.rescale_bits=25", "rescale_bits.*less than or equal to 24"),
    ],
)
def test_impossible_rescaling_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.load(None, [setting])
