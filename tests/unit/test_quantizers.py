"""Quantizers: values on their grid, integers that say the same, and gradients as published."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from cosim.errors import NetworkError
from cosim.training.quantizers import (
    AsymmetricQuantizer,
    ClippedQuantizer,
    LearnedStepQuantizer,
    Quantizer,
    ThresholdQuantizer,
)

VALUES = [-3.0, -2.0, -0.6, 0.1, 0.74, 1.5, 2.0]


def started(quantizer: Quantizer, **parameters: float) -> Quantizer:
    """A quantizer with given parameters."""
    quantizer.started.fill_(True)
    with torch.no_grad():
        for name, value in parameters.items():
            getattr(quantizer, name).fill_(value)
    return quantizer


def gradients(quantizer: Quantizer, values: list[float]) -> tuple[Tensor, Tensor]:
    """Result, and gradient of its sum by the values; the parameters' gradients are left in the quantizer."""
    value = torch.tensor(values, requires_grad=True)
    result = quantizer(value)
    result.sum().backward()
    assert value.grad is not None
    return result.detach(), value.grad


def grad(parameter: Tensor) -> float:
    assert parameter.grad is not None
    return parameter.grad.item()


def test_learned_step_is_that_of_the_paper() -> None:
    """LSQ, equations 1-3: d v^/d v = 1 inside; d v^/d s = q - v/s inside, low or high outside, / sqrt(N high)."""
    quantizer = started(LearnedStepQuantizer(3, signed=True), step=0.5)  # -4..3
    result, by_value = gradients(quantizer, VALUES)
    assert torch.allclose(result, torch.tensor([-2.0, -2.0, -0.5, 0.0, 0.5, 1.5, 1.5]))
    assert by_value.tolist() == [0, 0, 1, 1, 1, 0, 0]  # the range is open: both ends are outside
    slopes = [-4, -4, -1 - -1.2, 0 - 0.2, 1 - 1.48, 3, 3]
    assert grad(quantizer.step) == pytest.approx(sum(slopes) / math.sqrt(7 * 3), rel=1e-5)


@pytest.mark.parametrize("kind", ["step", "threshold", "asymmetric"])
def test_a_channel_has_the_gradient_it_would_have_alone(kind: str) -> None:
    """Per channel, N is the number of values of a channel, and ranges do not mix."""
    steps, offsets = [0.5, 0.25], [-1.0, -0.5]
    values = torch.tensor([VALUES, [0.3 * value + 0.1 for value in VALUES]])

    def made(channels: int | None, step: Tensor, offset: Tensor) -> Quantizer:
        quantizer: Quantizer = {
            "step": lambda: LearnedStepQuantizer(3, signed=True, channels=channels),
            "threshold": lambda: ThresholdQuantizer(3, signed=True, channels=channels),
            "asymmetric": lambda: AsymmetricQuantizer(3, channels=channels),
        }[kind]()
        quantizer.started.fill_(True)
        given = {"step": step, "log_threshold": (4 * step).log2(), "offset": offset}
        for name, parameter in quantizer.named_parameters():
            parameter.data.copy_(given[name])
        return quantizer

    together = made(2, torch.tensor(steps).reshape(2, 1, 1, 1), torch.tensor(offsets).reshape(2, 1, 1, 1))
    both = values.reshape(2, 7, 1, 1).clone().requires_grad_()
    result = together(both)
    result.sum().backward()
    for channel in range(2):
        alone = made(None, torch.tensor(steps[channel]), torch.tensor(offsets[channel]))
        value = values[channel].clone().requires_grad_()
        expected = alone(value)
        expected.sum().backward()
        assert torch.allclose(result[channel].flatten(), expected)
        assert both.grad[channel].flatten().tolist() == value.grad.tolist()
        for of_channels, of_one in zip(together.parameters(), alone.parameters(), strict=True):
            assert of_channels.grad[channel].item() == pytest.approx(grad(of_one), rel=1e-5)


def test_threshold_is_that_of_the_paper() -> None:
    """TQT, equations 6-8: d v^/d log2 t = s ln 2 (q - v/s) inside, s ln 2 low or s ln 2 high outside."""
    quantizer = started(ThresholdQuantizer(3, signed=True), log_threshold=1.0)  # t = 2, s = 0.5
    result, by_value = gradients(quantizer, VALUES)
    assert torch.allclose(result, torch.tensor([-2.0, -2.0, -0.5, 0.0, 0.5, 1.5, 1.5]))
    assert by_value.tolist() == [0, 1, 1, 1, 1, 1, 0]
    slopes = [-4, 0, -1 - -1.2, 0 - 0.2, 1 - 1.48, 0, 3]
    assert grad(quantizer.log_threshold) == pytest.approx(0.5 * math.log(2) * sum(slopes), rel=1e-5)


def test_clip_is_that_of_the_paper() -> None:
    """PACT, equation 3: d y/d a = 1 where x >= a, 0 elsewhere; d y/d x = 1 in between."""
    quantizer = started(ClippedQuantizer(2), clip=1.5)  # step 0.5
    result, by_value = gradients(quantizer, VALUES)
    assert torch.allclose(result, torch.tensor([0.0, 0.0, 0.0, 0.0, 0.5, 1.5, 1.5]))
    assert by_value.tolist() == [0, 0, 0, 1, 1, 0, 0]
    assert grad(quantizer.clip) == 2


def test_offset_is_that_of_the_paper() -> None:
    """LSQ+, equations 4-5: d v^/d b = 0 inside, 1 outside; d v^/d s = q - (v - b)/s inside, q outside."""
    quantizer = started(AsymmetricQuantizer(3), step=0.5, offset=-1.0)  # z = 2: -1..2.5
    result, by_value = gradients(quantizer, [*VALUES, 3.0])
    assert torch.allclose(result, torch.tensor([-1.0, -1.0, -0.5, 0.0, 0.5, 1.5, 2.0, 2.5]))
    assert by_value.tolist() == [0, 0, 1, 1, 1, 1, 1, 0]
    scale = 1 / math.sqrt(8 * 7)
    assert grad(quantizer.offset) == pytest.approx(3 * scale, rel=1e-5)
    slopes = [0, 0, 1 - 0.8, 2 - 2.2, 3 - 3.48, 0, 0, 7]
    assert grad(quantizer.step) == pytest.approx(sum(slopes) * scale, rel=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(
    ("kind", "channels"),
    [("clip", None), *itertools.product(["step signed", "step unsigned", "threshold", "asymmetric"], [None, 5])],
)
def test_integers_times_step_are_the_quantized_values(kind: str, channels: int | None, bits: int) -> None:
    quantizer: Quantizer = {
        "step signed": lambda: LearnedStepQuantizer(bits, signed=True, channels=channels),
        "step unsigned": lambda: LearnedStepQuantizer(bits, signed=False, channels=channels),
        "threshold": lambda: ThresholdQuantizer(bits, signed=True, channels=channels),
        "asymmetric": lambda: AsymmetricQuantizer(bits, channels=channels),
        "clip": lambda: ClippedQuantizer(bits),
    }[kind]()
    torch.manual_seed(0)
    value = torch.randn(5, 3, 4, 4) * torch.tensor([0.1, 1, 2, 5, 10]).reshape(5, 1, 1, 1) + 0.3
    fake = quantizer(value).detach()
    integers = quantizer.integers(value)
    levels = integers + quantizer.zero_point()
    assert levels.min() >= 0
    assert levels.max() <= 2**bits - 1
    assert torch.allclose(integers * quantizer.positive_step().detach(), fake, atol=1e-5)
    assert len(levels.unique()) > 1


def test_channels_have_ranges_of_their_own() -> None:
    quantizer = ThresholdQuantizer(4, signed=True, channels=2)
    quantizer(torch.tensor([0.1, 10.0]).reshape(2, 1, 1, 1))
    assert quantizer.positive_step().flatten().tolist() == pytest.approx([0.1 / 8, 10 / 8])


def test_learned_step_starts_as_in_the_paper() -> None:
    quantizer, value = LearnedStepQuantizer(4, signed=False), torch.rand(1000)
    quantizer(value)
    assert quantizer.step.item() == pytest.approx(2 * value.mean().item() / math.sqrt(15), rel=1e-5)


def test_a_constant_zero_sample_leaves_a_usable_range() -> None:
    symmetric = LearnedStepQuantizer(4, signed=True), ThresholdQuantizer(4, signed=True)
    for quantizer in (*symmetric, ClippedQuantizer(4), AsymmetricQuantizer(4)):
        assert torch.isfinite(quantizer(torch.zeros(3, 1, 1, 1))).all()
        assert quantizer.positive_step() > 0


def test_quantizers_stay_on_their_device() -> None:
    for quantizer in (LearnedStepQuantizer(4, signed=True, channels=3), AsymmetricQuantizer(4), ClippedQuantizer(4)):
        assert quantizer.to("meta").zero_point().device.type == "meta"


def test_bits_out_of_range() -> None:
    with pytest.raises(NetworkError, match="1 to 8 bits, found 9"):
        LearnedStepQuantizer(9, signed=True)
