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
from cosim.network.export import QuantizedLayer, fold_norm, four_axes, layer_spec
from cosim.network.layers import IMAGES, LayerSpec, Network, SoftwareStep, Step, check_name
from cosim.network.quantizers import (
    AsymmetricQuantizer,
    ClippedQuantizer,
    LearnedStepQuantizer,
    Quantizer,
    ThresholdQuantizer,
)
from cosim.network.training import fit, repeatable

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
    **options: Any,
) -> Network:
    """Quantize a trained classifier and train it on for some epochs, quantizers in place.

    Weights and ranges are trained with Adam on a one-cycle schedule; batch norm keeps its running statistics, which the
    circuit will use. The float weights beside the network are those before.

    Args:
        module, options: as for `quantize`.
        images: (n, channels, height, width) training images with values in 0..1; the first 512 calibrate.
        labels: (n,) classes.
        epochs, batch, rate, seed: of the training.

    Raises:
        NetworkError: as for `quantize`, or training diverged.
    """
    if len(images) != len(labels) or epochs < 1 or batch < 1:
        raise NetworkError(f"expected a label an image and epochs, batch >= 1, found {len(labels)} for {len(images)}")
    how, calibration = Quantization(**options), images[:512]
    prepared = prepare(module, calibration, how)
    before = to_network(prepared, calibration, name, {})
    with repeatable(seed):
        fit(prepared, images.__getitem__, labels, epochs, batch, rate, title=f"fine-tuning {name}")
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
    steps, float_weights = _Exporter(prepared).steps()
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
        return fx.symbolic_trace(copy.deepcopy(module).eval())
    except Exception as error:  # tracing runs the module's own code, which may raise anything
        raise NetworkError(
            f"{type(module).__name__} cannot be traced ({error}): take control flow that depends on tensors out of "
            "forward"
        ) from error


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


@dataclass(frozen=True)
class _Understood:
    """A node as a software step: its kind, arguments, and nodes it takes."""

    kind: str
    arguments: dict[str, Any]
    inputs: list[fx.Node]


class _Exporter:
    """Walks a traced, quantized module and writes down the steps of a network."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.modules = dict(traced.named_modules())
        self.names: dict[fx.Node, str] = {}
        self.float_weights: dict[str, tuple[Tensor, Tensor]] = {}
        self.written: list[Step] = []

    def steps(self) -> tuple[list[Step], dict[str, tuple[Tensor, Tensor]]]:
        """The steps in order, and the float weights of the layers."""
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                if IMAGES in self.names.values():
                    raise NetworkError(f"the module takes a second input {node.target!r}: only images may go in")
                self.names[node] = IMAGES
            elif node.op == "output":
                self._end(node)
            else:
                self._visit(node)
        return self.written, self.float_weights

    def _end(self, node: fx.Node) -> None:
        result = node.args[0]
        if not isinstance(result, fx.Node) or self.names.get(result) != self.written[-1].name:
            raise NetworkError("the module must return one tensor, the logits, computed last")

    def _visit(self, node: fx.Node) -> None:
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, QuantizedLayer):
            self._write_layer(node, module)
        elif isinstance(module, nn.BatchNorm2d):
            before = node.args[0]
            if not isinstance(before, fx.Node) or self._norm_of(before) is not module:
                raise NetworkError(f"batch norm {node.target!r} must be the only user of a convolution right before it")
            self.names[node] = self.names[before]
        elif isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d):
            self.names[node] = self.names[node.args[0]]  # type: ignore[index]
        elif node.op == "call_method" and node.target == "size":
            self.names[node] = ""  # only as an argument of view, which is checked there
        else:
            step = _understand(node, module)
            operation = SoftwareStep(step.kind, step.arguments)
            self._write(node, Step(node.name, operation, tuple(self.names[source] for source in step.inputs)))

    def _write_layer(self, node: fx.Node, module: QuantizedLayer) -> None:
        norm, source = self._norm_of(node), node.args[0]
        assert isinstance(source, fx.Node)
        spec: LayerSpec = layer_spec(node.name, module, norm)
        gain, offset = fold_norm(module.layer, norm)
        self.float_weights[node.name] = (four_axes(module.layer.weight).detach() * gain[:, None, None, None], offset)
        self._write(node, Step(node.name, spec, (self.names[source],)))

    def _write(self, node: fx.Node, step: Step) -> None:
        check_name(node.name, f"node {node.name!r}")
        self.written.append(step)
        self.names[node] = step.name

    def _norm_of(self, node: fx.Node) -> nn.BatchNorm2d | None:
        """The batch norm that alone uses a layer's result."""
        if not isinstance(self.modules.get(str(node.target)), QuantizedLayer) or len(node.users) != 1:
            return None
        (user,) = node.users
        module = self.modules.get(str(user.target)) if user.op == "call_module" else None
        return module if isinstance(module, nn.BatchNorm2d) else None


def _understand(node: fx.Node, module: nn.Module | None) -> _Understood:
    """A node as a software step; raises NetworkError for what has none."""
    tensors = [argument for argument in node.args if isinstance(argument, fx.Node)]
    match module:
        case nn.ReLU():
            return _Understood("relu", {}, tensors)
        case nn.ReLU6():
            return _Understood("relu6", {}, tensors)
        case nn.LeakyReLU():
            return _Understood("leaky_relu", {"negative_slope": module.negative_slope}, tensors)
        case nn.MaxPool2d() if not module.return_indices:
            return _Understood("max_pool2d", _pooling(module, "dilation"), tensors)
        case nn.AvgPool2d() if module.divisor_override is None:
            return _Understood("avg_pool2d", _pooling(module, "count_include_pad"), tensors)
        case nn.AdaptiveAvgPool2d():
            return _Understood("adaptive_avg_pool2d", {"output_size": module.output_size}, tensors)
        case nn.Flatten() if module.start_dim == 1 and module.end_dim == -1:
            return _Understood("flatten", {}, tensors)
    if module is None:
        plain = getattr(node.target, "__name__", str(node.target))
        found = _understand_call(node, plain, tensors)
        if found is not None:
            return found
    what = type(module).__name__ if module is not None else getattr(node.target, "__name__", node.target)
    raise NetworkError(
        f"node {node.name!r} is {what}, which is not understood: use convolutions, linear layers, batch norm behind "
        "them, pooling, ReLU, ReLU6, LeakyReLU, flatten, additions and concatenations of channels"
    )


def _understand_call(node: fx.Node, name: str, tensors: list[fx.Node]) -> _Understood | None:
    """A function or method call as a software step; None if any of its arguments says more than the step can."""
    if name not in _CALLS:
        return None
    given = {**dict(zip(_CALLS[name], node.args[1:], strict=False)), **node.kwargs}
    if given.get("return_indices") is False:  # torch writes it down even where nobody asked
        del given["return_indices"]
    if len(node.args) - 1 > len(_CALLS[name]) or not set(given) <= {*_CALLS[name], "inplace"}:
        return None
    if name in ("relu", "relu_"):
        return _Understood("relu", {}, tensors)
    if name in ("add", "iadd", "add_"):
        return _Understood("add", {}, tensors) if len(tensors) == 2 else None
    if name in ("cat", "concat"):
        parts = node.args[0]
        if isinstance(parts, list | tuple) and given.get("dim") in (1, -3):
            return _Understood("concat", {}, [part for part in parts if isinstance(part, fx.Node)])
        return None
    if name == "flatten":
        whole = given.get("start_dim") == 1 and given.get("end_dim", -1) == -1
        return _Understood("flatten", {}, tensors[:1]) if whole else None
    if name in ("view", "reshape"):
        whole = _is_batch_size(given.get("rows"), node.args[0]) and given.get("columns") == -1
        return _Understood("flatten", {}, tensors[:1]) if whole else None
    return _Understood(name, {key: value for key, value in given.items() if value is not None}, tensors[:1])


# The arguments behind the first that are understood, in their order.
_CALLS: dict[str, tuple[str, ...]] = {
    "relu": (),
    "relu_": (),
    "add": ("other",),
    "iadd": ("other",),
    "add_": ("other",),
    "cat": ("dim",),
    "concat": ("dim",),
    "flatten": ("start_dim", "end_dim"),
    "view": ("rows", "columns"),
    "reshape": ("rows", "columns"),
    "max_pool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool2d": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    "adaptive_avg_pool2d": ("output_size",),
}


def _is_batch_size(value: object, of: object) -> bool:
    """Whether a node is x.size(0) of the tensor x that it shapes."""
    return isinstance(value, fx.Node) and value.target == "size" and value.args == (of, 0)


def _pooling(module: Any, also: str) -> dict[str, Any]:
    names = ("kernel_size", "stride", "padding", "ceil_mode", also)
    return {name: getattr(module, name) for name in names}
