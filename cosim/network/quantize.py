"""Bring your own network: a float torch module becomes integers for the arrays, fine-tuned or not.

    module -> torch.fx graph -> quantizers around its convolutions and linear layers, their ranges fitted to
    calibration images -> (training) -> Network

Convolutions of any stride, padding, dilation and groups, linear layers, batch norm behind them, pooling, the ReLU
family, additions and concatenations are understood; what is not is named with its node.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from cosim.errors import NetworkError
from cosim.network.export import Exporter
from cosim.network.fitting import Course, fit, repeatable
from cosim.network.layers import Network, SoftwareStep
from cosim.network.quantized_layer import QuantizedLayer, four_axes
from cosim.network.quantizers import (
    AsymmetricQuantizer,
    ClippedQuantizer,
    LearnedStepQuantizer,
    Quantizer,
    ThresholdQuantizer,
)

WeightQuantizer = Literal["step", "threshold", "asymmetric"]
ActivationQuantizer = Literal["step", "clip"]


@dataclass(frozen=True)
class Quantization:
    """How a module is quantized.

    Attributes:
        weight_bits, activation_bits: 1 to 8; weights of more bits than a cell holds take several cells.
        weight_quantizer: "step" and "threshold" are symmetric, "asymmetric" has a zero point.
        activation_quantizer: "step", or "clip" as of PACT. An input that is negative somewhere gets an asymmetric
            quantizer in any case.
        per_channel: one range for each output's weights instead of one for all.
    """

    weight_bits: int = 4
    activation_bits: int = 4
    weight_quantizer: WeightQuantizer = "step"
    activation_quantizer: ActivationQuantizer = "step"
    per_channel: bool = True


def quantize(module: nn.Module, calibration_images: Tensor, *, name: str = "network", **options: Any) -> Network:
    """Quantize a trained classifier after training.

    Args:
        module: a torch module that maps images (n, channels, height, width) with values in 0..1 to logits.
        calibration_images: (n, channels, height, width) images as it will see; some hundred will do.
        options: the attributes of `Quantization`.

    Returns:
        the integer network, its float weights beside it, ready for `CircuitNetwork` and `save_network`. Its card lists
        under `software` the steps that no array computes.

    Raises:
        NetworkError: the module cannot be traced, holds an operation that is not understood, or the calibration images
            do not fit it; the message names the place.
    """
    how = Quantization(**options)
    prepared = prepare(module, calibration_images, how)
    return to_network(prepared, calibration_images, name, {"method": "post-training", **asdict(how)})


def finetune(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    name: str = "network",
    epochs: int = 3,
    batch: int = 64,
    rate: float = 1e-3,
    seed: int = 0,
    calibration_images: int = 512,
    **options: Any,
) -> Network:
    """Quantize a trained classifier and train it on for some epochs, quantizers in place.

    Weights and ranges are trained with Adam on a one-cycle schedule; batch norm keeps its running statistics, which the
    circuit will use. The float weights beside the network are those before.

    Args:
        module, options: as for `quantize`.
        images: (n, channels, height, width) training images with values in 0..1.
        labels: (n,) classes.
        epochs, batch, rate, seed: of the training.
        calibration_images: how many of the first images fit the ranges before.

    Raises:
        NetworkError: as for `quantize`, or training diverged.
    """
    if len(images) != len(labels) or min(epochs, batch, calibration_images) < 1:
        raise NetworkError(
            f"expected a label an image and epochs, batch, calibration_images >= 1, found {len(labels)} labels for "
            f"{len(images)} images and {epochs}, {batch}, {calibration_images}"
        )
    how, calibration = Quantization(**options), images[:calibration_images]
    prepared = prepare(module, calibration, how)
    before = to_network(prepared, calibration, name, {})
    course = Course(f"fine-tuning {name}", epochs, rate, batch, norm="keep")
    with repeatable(seed):
        fit(prepared, images.__getitem__, labels, course)
    facts = {"method": "fine-tuned", **asdict(how), "epochs": epochs, "batch": batch, "rate": rate, "seed": seed}
    network = to_network(prepared, calibration, name, facts)
    network.float_weights = before.float_weights
    return network


def prepare(module: nn.Module, calibration_images: Tensor, how: Quantization) -> fx.GraphModule:
    """The module's graph with quantizers around its layers, fitted to calibration images; the module stays as it is."""
    _check_calibration(calibration_images)
    traced = _trace(module)
    _calibrate(traced, calibration_images, *_quantizer_makers(how))
    return traced


def to_network(prepared: fx.GraphModule, images: Tensor, name: str, facts: dict[str, Any]) -> Network:
    """The integers of what `prepare` made, for images of that shape."""
    steps, float_weights = Exporter(prepared).steps()
    _, channels, height, width = images.shape
    network = Network(name, (channels, height, width), steps, float_weights=float_weights)
    software = [step.name for step in network.steps if isinstance(step.operation, SoftwareStep)]
    network.card = {**facts, "calibration_images": len(images), "software": software}
    return network


def _check_calibration(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or not len(images) or not images.is_floating_point():
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise NetworkError(f"calibration images must be float (n, channels, height, width), n > 0, found {found}")
    if not torch.isfinite(images).all() or images.min() < 0 or images.max() > 1:
        raise NetworkError("calibration images must have finite values in 0..1: divide them by their full scale")


def _trace(module: nn.Module) -> fx.GraphModule:
    """The module's graph in evaluation mode, on a copy, its parameters checked."""
    for key, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise NetworkError(f"parameter {key!r} holds NaN or infinite values: train the module again")
    try:
        copied = copy.deepcopy(module).eval()
        # A graph is traced already, and tracing it again would rename its nodes.
        traced = copied if isinstance(copied, fx.GraphModule) else fx.symbolic_trace(copied)
    except Exception as error:  # tracing runs the module's own code, which may raise anything
        raise NetworkError(
            f"{type(module).__name__} cannot be traced ({error}): take control flow that depends on tensors out of "
            "forward"
        ) from error
    for node in traced.graph.nodes:  # a view of channels-last tensors, which training uses, is refused by torch
        if node.op == "call_method" and node.target == "view":
            node.target = "reshape"
    traced.recompile()
    return traced


def _quantizer_makers(how: Quantization) -> tuple[Callable[[int], Quantizer], Callable[[Tensor], Quantizer]]:
    """What makes a weight quantizer for a number of outputs, and an input quantizer for a sample of inputs."""
    weight_kinds: dict[str, Callable[[int | None], Quantizer]] = {
        "step": lambda channels: LearnedStepQuantizer(how.weight_bits, signed=True, channels=channels),
        "threshold": lambda channels: ThresholdQuantizer(how.weight_bits, signed=True, channels=channels),
        "asymmetric": lambda channels: AsymmetricQuantizer(how.weight_bits, channels=channels),
    }
    input_kinds: dict[str, Callable[[], Quantizer]] = {
        "step": lambda: LearnedStepQuantizer(how.activation_bits, signed=False),
        "clip": lambda: ClippedQuantizer(how.activation_bits),
    }
    if how.weight_quantizer not in weight_kinds or how.activation_quantizer not in input_kinds:
        raise NetworkError(
            f"weight_quantizer must be one of {', '.join(weight_kinds)} and activation_quantizer one of "
            f"{', '.join(input_kinds)}, found {how.weight_quantizer!r} and {how.activation_quantizer!r}"
        )

    def input_quantizer(sample: Tensor) -> Quantizer:
        return (
            AsymmetricQuantizer(how.activation_bits)
            if bool(sample.min() < 0)
            else input_kinds[how.activation_quantizer]()
        )

    return lambda outputs: weight_kinds[how.weight_quantizer](outputs if how.per_channel else None), input_quantizer


def _calibrate(
    traced: fx.GraphModule,
    images: Tensor,
    weight_quantizer: Callable[[int], Quantizer],
    input_quantizer: Callable[[Tensor], Quantizer],
) -> None:
    """Put quantizers around the layers of a traced module, each fitted to what those before it let through."""
    layers = [(key, layer) for key, layer in traced.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for key, layer in layers:
        inputs: list[Tensor] = []
        handle = layer.register_forward_pre_hook(lambda _, arguments, kept=inputs: kept.append(arguments[0]))
        try:
            with torch.no_grad():
                traced(images)
        except (RuntimeError, ValueError) as error:
            raise NetworkError(
                f"calibration images of shape {tuple(images.shape)} do not fit the module: {error}"
            ) from error
        finally:
            handle.remove()
        if len(inputs) != 1:
            raise NetworkError(f"layer {key!r} is used {len(inputs)} times: give each use a layer of its own")
        chosen = weight_quantizer(layer.weight.shape[0]), input_quantizer(inputs[0])
        chosen[0].fit(four_axes(layer.weight))
        chosen[1].fit(inputs[0])
        parent, _, leaf = key.rpartition(".")
        setattr(traced.get_submodule(parent), leaf, QuantizedLayer(layer, *chosen))
