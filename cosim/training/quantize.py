"""Bring your own network: a float torch module becomes integers for the arrays, with or without fine-tuning.

    module -> torch.fx graph in plain form -> quantizers around its convolutions and linear layers, their ranges fitted
    to calibration images -> compared with the module -> (training) -> Network

docs/howto/own-network.md lists the supported operations. The error for any other operation names its node.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from cosim.arithmetic.partial_sums import PartialSums
from cosim.config import Config
from cosim.errors import NetworkError, nearest
from cosim.importers.tracing import Trace, trace
from cosim.network.layers import Network, SoftwareStep, step_name
from cosim.training.checkpoint import digest_of
from cosim.training.export import Exporter, check_understood
from cosim.training.fitting import Course, fit, pick_device, repeatable
from cosim.training.low_bit import ExpectedGradientQuantizer, PowerOfTwoQuantizer
from cosim.training.partial_sum_quantizer import PartialSumQuantizer, Rounding
from cosim.training.quantized_layer import QuantizedLayer, four_axes
from cosim.training.quantizers import (
    SMALLEST_STEP,
    AsymmetricQuantizer,
    ClippedQuantizer,
    LearnedStepQuantizer,
    Quantizer,
    ThresholdQuantizer,
)

# Number of calibration images on which the network is compared with the module, and the tolerated relative difference.
_COMPARED, _ROUNDING = 8, 1e-3

WeightQuantizer = Literal["step", "threshold", "asymmetric", "expected", "odd", "power-of-two"]
ActivationQuantizer = Literal["step", "clip", "expected"]


@dataclass(frozen=True)
class Quantization:
    """How a module is quantized.

    Attributes:
        weight_bits: 1 to 8; weights with more bits than a cell take several cells.
        activation_bits: 1 to 8.
        weight_quantizer: "step" and "threshold" are symmetric, and "asymmetric" has a zero point. For 1 to 3 bits there
            are "expected" (odd integers, for XNOR) and "odd" (the same integers with straight-through gradients), and
            for 2 to 4 bits "power-of-two" (for shifts).
        activation_quantizer: "step", "clip" (PACT), or "expected" for 1 to 3 bits. A layer with negative inputs always
            gets an asymmetric quantizer.
        per_channel: whether the weights of each output have their own range, instead of one range for all.
        arrays: the configuration of arrays whose converters digitize the partial sums, or None for exact sums; its
            `run.layers` says which layers are on arrays.
        rounding: as in `PartialSumQuantizer`, for training.
        noise_lsb: as in `PartialSumQuantizer`, for training.
    """

    weight_bits: int = 4
    activation_bits: int = 4
    weight_quantizer: WeightQuantizer = "step"
    activation_quantizer: ActivationQuantizer = "step"
    per_channel: bool = True
    arrays: Config | None = None
    rounding: Rounding = "straight-through"
    noise_lsb: float = 0.0

    def __post_init__(self) -> None:
        for name, bits in (("weight", self.weight_bits), ("activation", self.activation_bits)):
            if type(bits) is not int or not 1 <= bits <= 8:
                found = bits if type(bits) is int else f"{bits!r}, which is not an int"
                raise NetworkError(f"{name} bits must be 1 to 8, found {found}")
        # The quantizers are made once here, so that impossible options are refused before anything is trained.
        stored_bits = _weight_quantizer(self, 1).stored_bits
        _input_quantizer(self, torch.zeros(1))
        PartialSumQuantizer(PartialSums(1, 1, 1.0, None), self.rounding, self.noise_lsb)  # any arrays
        quantizer = self.partial_sums()
        if quantizer is not None and stored_bits > quantizer.how.cell_bits:
            raise NetworkError(
                f"training with partial sums needs each weight in one cell: a {self.weight_quantizer!r} weight of "
                f"{self.weight_bits} bits takes {stored_bits} bits, but a cell has {quantizer.how.cell_bits}: lower "
                "weight_bits or raise cell.bits"
            )

    def partial_sums(self) -> PartialSumQuantizer | None:
        """A quantizer of partial sums, or None if sums stay exact."""
        if self.arrays is None:
            return None
        return PartialSumQuantizer(PartialSums.from_config(self.arrays), self.rounding, self.noise_lsb)

    def facts(self) -> dict[str, Any]:
        """The options in JSON's types. Of the arrays, only the facts that partial sums depend on are included."""
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "arrays"}
        if self.arrays is None:
            del plain["rounding"], plain["noise_lsb"]
            return plain
        return {**plain, "layers": self.arrays.run.layers, "partial_sums": asdict(PartialSums.from_config(self.arrays))}


def quantize(module: nn.Module, calibration_images: Tensor, *, name: str = "network", **options: Any) -> Network:
    """Quantize a trained classifier after training.

    Args:
        module: a torch module that maps images (n, channels, height, width) with values in 0..1 to logits (n, classes),
            or to their softmax, which is left out. It is not changed.
        calibration_images: (n, channels, height, width) float32 images like those of later use; a few hundred suffice.
        options: the attributes of `Quantization`.

    Returns:
        the integer network with its float weights, ready for `CircuitNetwork` and `save_network`. Its card lists the
        steps that arrays do not compute under `software`, and a softmax that was left out under `left_out`.

    Raises:
        NetworkError: the module cannot be traced, contains an operation that is not supported, or does more than its
            graph shows (hooks); or the calibration images do not fit it, or leave a layer's input zero. The message
            names the place.
    """
    how = Quantization(**options)
    prepared = prepare(module, calibration_images, how)
    return to_network(prepared, calibration_images, name, {"method": "post-training", **how.facts()})


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
    checkpoint: Path | None = None,
    device: str = "auto",
    **options: Any,
) -> Network:
    """Quantize a trained classifier, and train it for some more epochs with the quantizers in place.

    Weights and ranges are trained with Adam on a one-cycle schedule; batch norm keeps its running statistics, which the
    circuit will use. The float weights that the network keeps are those before the training.

    Args:
        module: as for `quantize`.
        images: (n, channels, height, width) training images with values in 0..1.
        labels: (n,) classes, whole numbers from 0.
        epochs: number of epochs.
        batch: number of images in a step.
        rate: largest learning rate, > 0.
        seed: seed of the training.
        calibration_images: number of images, the first ones, to which the ranges are fitted before training.
        checkpoint: file that keeps the last epoch, from which an interrupted training continues, or None.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        options: as for `quantize`.

    Raises:
        NetworkError: as for `quantize`; or labels are not classes of the module; or training diverged.
    """
    counts = (epochs, batch, calibration_images)
    if not all(isinstance(count, int) and count >= 1 for count in counts) or not 0 < rate < math.inf:
        raise NetworkError(
            f"epochs, batch and calibration_images must be whole numbers >= 1, and rate > 0, found {epochs!r}, "
            f"{batch!r}, {calibration_images!r} and {rate!r}"
        )
    _check_images(images, "training images")
    how, calibration, place = Quantization(**options), images[:calibration_images], pick_device(device)
    prepared = prepare(module, calibration, how)
    before = to_network(prepared, calibration, name, {})
    with torch.no_grad():
        classes = before(images[:1]).shape[1]
    _check_labels(labels, len(images), classes)
    facts = {"method": "fine-tuned", **how.facts(), "epochs": epochs, "batch": batch, "rate": rate, "seed": seed}
    begun = {"module": digest_of(module), "images": len(images), "calibration_images": len(calibration)}
    course = Course(
        f"fine-tuning {name}", epochs, rate, batch, norm="keep", checkpoint=checkpoint, identity={**facts, **begun}
    )
    with repeatable(seed):
        fit(prepared, lambda chosen: images[chosen.to(images.device)].to(place), labels.long().to(place), course)
    network = to_network(prepared.cpu(), calibration, name, facts)
    network.float_weights = before.float_weights
    return network


def prepare(module: nn.Module, calibration_images: Tensor, how: Quantization) -> fx.GraphModule:
    """Put quantizers around the layers of a module's graph, and fit them to calibration images.

    The module itself is not changed. The result can be exported, and its float network gives the module's logits.

    Raises:
        NetworkError: as for `quantize`.
    """
    _check_images(calibration_images, "calibration images")
    few = calibration_images[:_COMPARED]
    traced = trace(module, few)
    check_understood(traced.graph)
    _calibrate(traced.graph, calibration_images, how)
    _check_same(to_network(traced.graph, few, "network", {}), few, traced)
    return traced.graph


def _check_same(network: Network, images: Tensor, traced: Trace) -> None:
    """Refuse a network whose float version differs from the module, for example because tracing lost a hook."""
    with torch.no_grad():
        found = traced.ending(network.forward_float(images))
    difference, largest = math.inf, traced.given.abs().max().item()
    if found.shape == traced.given.shape:
        difference = (found - traced.given).abs().max().item()
    if not difference <= _ROUNDING * largest + 1e-6:
        raise NetworkError(
            f"the logits of the traced network differ from the module's by up to {difference:.3g}, where the largest "
            f"is {largest:.3g}: remove forward hooks and random operations, and do not change a tensor in place (+=, "
            "x[...] = y) that is used under a second name"
        )


def to_network(prepared: fx.GraphModule, images: Tensor, name: str, facts: dict[str, Any]) -> Network:
    """Turn the result of `prepare` into an integer network, for images of the given shape."""
    steps, float_weights = Exporter(prepared).steps()
    _, channels, height, width = images.shape
    network = Network(name, (channels, height, width), steps, float_weights=float_weights)
    software = [step.name for step in network.steps if isinstance(step.operation, SoftwareStep)]
    network.card = {**facts, "calibration_images": len(images), "software": software}
    if prepared.meta.get("left_out"):
        network.card["left_out"] = prepared.meta["left_out"]
    return network


def _check_images(images: Tensor, what: str) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or not len(images) or not images.is_floating_point():
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise NetworkError(f"{what} must be float (n, channels, height, width), n > 0, found {found}")
    if images.dtype != torch.float32 or images.device.type != "cpu":
        raise NetworkError(
            f"{what} must be float32 on the cpu, found {images.dtype} on {images.device}: convert them "
            "with images.float().cpu()"
        )
    if not torch.isfinite(images).all() or images.min() < 0 or images.max() > 1:
        raise NetworkError(
            f"{what} must have finite values in 0..1: divide them by their full scale, and normalize in the module"
        )


def _check_labels(labels: Tensor, images: int, classes: int) -> None:
    expected = f"expected {images} labels from 0 to {classes - 1}, since the module has {classes} logits, found"
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        found = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise NetworkError(f"{expected} {found}: give class numbers as a tensor of integers")
    if len(labels) != images:
        raise NetworkError(f"{expected} {len(labels)} labels: give one for each image")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise NetworkError(f"{expected} {int(labels.min())}..{int(labels.max())}: number the classes from 0")


def _calibrate(traced: fx.GraphModule, images: Tensor, how: Quantization) -> None:
    """Put quantizers around the layers of a traced module. Each is fitted with the layers before it quantized."""
    layers = [(key, layer) for key, layer in traced.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    on_arrays = _on_arrays(layers, how)
    for key, layer in layers:
        inputs: list[Tensor] = []
        handle = layer.register_forward_pre_hook(lambda _, arguments, kept=inputs: kept.append(arguments[0]))
        try:
            with torch.no_grad():
                traced(images)
        except RuntimeError as error:
            raise NetworkError(
                f"the traced network does not run, although the module does ({error}): flatten with "
                "torch.flatten(x, 1), and keep the images on the first axis"
            ) from error
        finally:
            handle.remove()
        sample = _sample(key, layer, inputs)
        weight_quantizer = _weight_quantizer(how, layer.weight.shape[0])
        input_quantizer = _input_quantizer(how, sample)
        weight_quantizer.fit(four_axes(layer.weight))
        input_quantizer.fit(sample)
        partial_sums = how.partial_sums() if key in on_arrays else None
        parent, _, leaf = key.rpartition(".")
        quantized = QuantizedLayer(layer, weight_quantizer, input_quantizer, partial_sums)
        setattr(traced.get_submodule(parent), leaf, quantized.eval())


def _sample(key: str, layer: nn.Conv2d | nn.Linear, inputs: list[Tensor]) -> Tensor:
    """The input of a layer for the calibration images, of which there must be exactly one."""
    if len(inputs) != 1:
        raise NetworkError(f"layer {key!r} is used {len(inputs)} times, expected once: make one layer for each use")
    (sample,) = inputs
    axes = 2 if isinstance(layer, nn.Linear) else 4
    if sample.ndim != axes:
        raise NetworkError(
            f"{type(layer).__name__} {key!r} gets an input of shape {tuple(sample.shape)}, expected {axes} axes: put "
            "flatten before linear layers"
        )
    if not (sample.abs() > SMALLEST_STEP).any():
        raise NetworkError(
            f"the input of layer {key!r} is zero for all {len(sample)} calibration images, so that it has no range: "
            "give more images, like those of later use, or more bits for the layers before"
        )
    return sample


def _weight_quantizer(how: Quantization, outputs: int) -> Quantizer:
    bits, channels = how.weight_bits, outputs if how.per_channel else None
    kinds: dict[str, Callable[[], Quantizer]] = {
        "step": lambda: LearnedStepQuantizer(bits, signed=True, channels=channels),
        "threshold": lambda: ThresholdQuantizer(bits, signed=True, channels=channels),
        "asymmetric": lambda: AsymmetricQuantizer(bits, channels=channels),
        "expected": lambda: ExpectedGradientQuantizer(bits, signed=True, channels=channels),
        "odd": lambda: ExpectedGradientQuantizer(bits, signed=True, channels=channels, estimator="straight-through"),
        "power-of-two": lambda: PowerOfTwoQuantizer(bits, channels=channels),
    }
    return _made(kinds, how.weight_quantizer, "weight_quantizer")


def _input_quantizer(how: Quantization, sample: Tensor) -> Quantizer:
    bits = how.activation_bits
    kinds: dict[str, Callable[[], Quantizer]] = {
        "step": lambda: LearnedStepQuantizer(bits, signed=False),
        "clip": lambda: ClippedQuantizer(bits),
        "expected": lambda: ExpectedGradientQuantizer(bits, signed=False),
    }
    chosen = _made(kinds, how.activation_quantizer, "activation_quantizer")
    return AsymmetricQuantizer(bits) if bool(sample.min() < 0) else chosen


def _made(kinds: dict[str, Callable[[], Quantizer]], asked: str, option: str) -> Quantizer:
    if asked not in kinds:
        raise NetworkError(f"{option} must be one of {', '.join(kinds)}, found {asked!r}")
    return kinds[asked]()


def _on_arrays(layers: list[tuple[str, Any]], how: Quantization) -> set[str]:
    """Keys of the layers whose partial sums are digitized: those that `run.layers` puts on arrays."""
    if how.arrays is None:
        return set()
    asked = how.arrays.run.layers
    if asked in ("conv", "all"):
        return {key for key, layer in layers if asked == "all" or isinstance(layer, nn.Conv2d)}
    known = {step_name(key): key for key, _ in layers}
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in known:
            raise NetworkError(f"run.layers: the module has no layer {name!r}: {nearest(name, known)}")
    return {known[name] for name in names}
