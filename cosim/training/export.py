"""Turns a traced module with quantizers into the steps of a network: layers of integers with scales, software steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from cosim.errors import NetworkError
from cosim.importers.affine import norm_gain_and_offset
from cosim.importers.tracing import NORMS, called, function_of
from cosim.network.channel_affine import ChannelAffine
from cosim.network.layers import IMAGES, LayerSpec, SoftwareStep, Step, check_name, step_name
from cosim.training.quantized_layer import QuantizedLayer, four_axes, geometry

_Norm = nn.BatchNorm1d | nn.BatchNorm2d
_AFFINE = "use a number, or a constant tensor of shape (1, channels, 1, 1), as one operand"
_REMEDIES = {
    "AvgPool2d": "leave divisor_override out",
    "Flatten": "flatten all axes but the first, nn.Flatten()",
    "Hardtanh": "clip from 0 to 6, as nn.ReLU6 does",
    "MaxPool2d": "leave return_indices out",
    "PReLU": "use nn.PReLU() with one slope for all channels, which is a LeakyReLU",
    "adaptive_avg_pool2d": "give output_size only",
    "add": "add two computed tensors of the same shape, without alpha",
    "avg_pool2d": "leave divisor_override out",
    "cat": "concatenate channels, dim=1",
    "conv2d": "use nn.Conv2d itself, as a module",
    "div": _AFFINE,
    "dropout": "call it with training=self.training, or use nn.Dropout",
    "flatten": "flatten all axes but the first, torch.flatten(x, 1)",
    "linear": "use nn.Linear itself, as a module",
    "log_softmax": "remove it, or use it once, at the very end, over the classes (dim=1)",
    "max_pool2d": "leave return_indices out",
    "mean": "take it over height and width, (2, 3)",
    "mul": _AFFINE,
    "reshape": "flatten with torch.flatten(x, 1)",
    "softmax": "remove it, or use it once, at the very end, over the classes (dim=1)",
    "squeeze": "flatten with torch.flatten(x, 1)",
    "sub": _AFFINE,
    "truediv": _AFFINE,
    "view": "flatten with torch.flatten(x, 1)",
}


@dataclass(frozen=True)
class _Understood:
    """A node that becomes a software step: the step's kind and arguments, and the nodes that are its inputs."""

    kind: str
    arguments: dict[str, Any]
    inputs: list[fx.Node]


class Exporter:
    """Walks a traced, quantized module and writes down the steps of a network."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.modules = dict(traced.named_modules(remove_duplicate=False))
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
            elif node.op != "get_attr":  # a constant; a step that cannot use one raises the error
                self._visit(node)
        return self.written, self.float_weights

    def _end(self, node: fx.Node) -> None:
        result = node.args[0]
        last = self.written[-1].name if self.written else IMAGES
        if not isinstance(result, fx.Node) or self.names.get(result) != last:
            raise NetworkError("the module must return one tensor, the logits, computed last")

    def _visit(self, node: fx.Node) -> None:
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, QuantizedLayer):
            self._write_layer(node, module)
        elif isinstance(module, NORMS):  # folded into the layer before it; tracing has replaced all other batch norms
            before = node.args[0]
            assert isinstance(before, fx.Node)
            self.names[node] = self.names[before]
        else:
            step = _understand(node, module)
            if any(source not in self.names for source in step.inputs):
                raise _not_understood(node, module)
            operation = SoftwareStep(step.kind, step.arguments)
            inputs = tuple(self.names[source] for source in step.inputs)
            self._write(node, Step(self._free_name(node), operation, inputs))

    def _write_layer(self, node: fx.Node, module: QuantizedLayer) -> None:
        norm, source = self._norm_of(node), node.args[0]
        assert isinstance(source, fx.Node)
        name = self._free_name(node)
        spec: LayerSpec = layer_spec(name, module, norm)
        gain, offset = fold_norm(module.layer, norm)
        self.float_weights[name] = (four_axes(module.layer.weight).detach() * gain[:, None, None, None], offset)
        self._write(node, Step(name, spec, (self.names[source],)))

    def _write(self, node: fx.Node, step: Step) -> None:
        self.written.append(step)
        self.names[node] = step.name

    def _free_name(self, node: fx.Node) -> str:
        """The name of a node's step: its module's path, or else the node's name, with a number if the name is taken.

        Raises:
            NetworkError: the name is too long.
        """
        path = node.meta.get("path", node.target if node.op == "call_module" else node.name)
        plain = step_name(str(path))
        taken, name, number = {IMAGES, *(step.name for step in self.written)}, plain, 1
        while name in taken:
            number += 1
            name = f"{plain}-{number}"
        check_name(name, f"node {node.name!r}")
        return name

    def _norm_of(self, node: fx.Node) -> _Norm | None:
        """The batch norm that uses a layer's result, or None if there is none or if anything else uses the result."""
        if not isinstance(self.modules.get(str(node.target)), QuantizedLayer) or len(node.users) != 1:
            return None
        (user,) = node.users
        module = self.modules.get(str(user.target)) if user.op == "call_module" else None
        return module if isinstance(module, NORMS) else None


def check_understood(traced: fx.GraphModule) -> None:
    """Raise NetworkError for the first node of a graph, with or without quantizers, that cannot become a step."""
    modules = dict(traced.named_modules(remove_duplicate=False))
    for node in traced.graph.nodes:
        module = modules[str(node.target)] if node.op == "call_module" else None
        if node.op.startswith("call") and not isinstance(module, (QuantizedLayer, nn.Conv2d, nn.Linear, *NORMS)):
            _understand(node, module)


def _understand(node: fx.Node, module: nn.Module | None) -> _Understood:
    """The software step of a node. Raises NetworkError if there is none."""
    tensors = [argument for argument in node.args if isinstance(argument, fx.Node)]
    match module:
        case nn.ReLU():
            return _Understood("relu", {}, tensors)
        case nn.ReLU6() | nn.Hardtanh(min_val=0, max_val=6):
            return _Understood("relu6", {}, tensors)
        case nn.LeakyReLU():
            return _Understood("leaky_relu", {"negative_slope": module.negative_slope}, tensors)
        case ChannelAffine():
            return _Understood("affine", {"gain": module.gain.tolist(), "offset": module.offset.tolist()}, tensors)
        case nn.MaxPool2d() if not module.return_indices:
            return _Understood("max_pool2d", _pooling(module, "dilation"), tensors)
        case nn.AvgPool2d() if module.divisor_override is None:
            return _Understood("avg_pool2d", _pooling(module, "count_include_pad"), tensors)
        case nn.AdaptiveAvgPool2d():
            return _Understood("adaptive_avg_pool2d", {"output_size": module.output_size}, tensors)
        case nn.Flatten() if module.start_dim == 1 and module.end_dim == -1:
            return _Understood("flatten", {}, tensors)
    if module is None:
        found = _understand_call(node, function_of(node), tensors)
        if found is not None:
            return found
    raise _not_understood(node, module)


def _not_understood(node: fx.Node, module: nn.Module | None) -> NetworkError:
    what = type(module).__name__ if module is not None else function_of(node)
    usual = (
        "use convolutions, linear layers, batch norm after them, pooling, ReLU, ReLU6, LeakyReLU, flatten, additions "
        "and concatenations of channels"
    )
    return NetworkError(f"node {called(node)} is {what}, which is not understood: {_REMEDIES.get(what, usual)}")


def _understand_call(node: fx.Node, name: str, tensors: list[fx.Node]) -> _Understood | None:
    """The software step of a function or method call, or None if the step cannot express one of its arguments."""
    if name not in _CALLS:
        return None
    given = {**dict(zip(_CALLS[name], node.args[1:], strict=False)), **node.kwargs}
    if given.get("return_indices") is False:  # tracing writes this default down
        del given["return_indices"]
    if len(node.args) - 1 > len(_CALLS[name]) or not set(given) <= set(_CALLS[name]):
        return None
    if name == "add":
        return _Understood("add", {}, tensors) if len(tensors) == 2 else None
    if name in ("cat", "concat", "concatenate"):
        parts = node.args[0]
        if isinstance(parts, list | tuple) and given.get("dim") in (1, -3):
            return _Understood("concat", {}, [part for part in parts if isinstance(part, fx.Node)])
        return None
    if name == "flatten":
        whole = given.get("start_dim") == 1 and given.get("end_dim", -1) == -1
        return _Understood("flatten", {}, tensors[:1]) if whole else None
    return _Understood(name, {key: value for key, value in given.items() if value is not None}, tensors[:1])


# The arguments of each function that are understood, in order and without the first, which is its input.
_CALLS: dict[str, tuple[str, ...]] = {
    "relu": (),
    "relu6": (),
    "leaky_relu": ("negative_slope",),
    "add": ("other",),
    "cat": ("dim",),
    "concat": ("dim",),
    "concatenate": ("dim",),
    "flatten": ("start_dim", "end_dim"),
    "max_pool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool2d": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    "adaptive_avg_pool2d": ("output_size",),
}


def _pooling(module: Any, also: str) -> dict[str, Any]:
    names = ("kernel_size", "stride", "padding", "ceil_mode", also)
    return {name: getattr(module, name) for name in names}


def layer_spec(name: str, module: QuantizedLayer, norm: _Norm | None) -> LayerSpec:
    """The integers of a quantized layer. The layer's scale and bias include the batch norm that follows it.

    An input quantizer with a zero point adds zero_point * sum(weight) to every sum. The bias takes this away again.
    """
    layer, weight, activation = module.layer, module.weight_quantizer, module.input_quantizer
    gain, offset = fold_norm(layer, norm)
    outputs = layer.weight.shape[0]
    integers = weight.integers(four_axes(layer.weight)).detach()
    input_step, input_zero_point = activation.positive_step().item(), int(activation.zero_point().item())
    scale = gain * weight.positive_step().detach().reshape(-1) * input_step
    return LayerSpec(
        name,
        "linear" if isinstance(layer, nn.Linear) else "conv2d",
        integers,
        weight_bits=weight.stored_bits,
        zero_point=weight.zero_point().reshape(-1).expand(outputs).contiguous(),
        activation_bits=activation.bits,
        activation_scale=input_step,
        output_scale=scale,
        output_bias=offset - scale * input_zero_point * integers.sum(dim=(1, 2, 3)),
        input_zero_point=input_zero_point,
        partial_sums=None if module.partial_sums is None else module.partial_sums.how,
        **(geometry(layer) if isinstance(layer, nn.Conv2d) else {}),
    )


def fold_norm(layer: nn.Conv2d | nn.Linear, norm: _Norm | None) -> tuple[Tensor, Tensor]:
    """Gain and offset of each output, from a layer's bias and the running statistics of the batch norm after it."""
    outputs = layer.weight.shape[0]
    bias = layer.bias.detach().clone() if layer.bias is not None else torch.zeros(outputs)
    if norm is None:
        return torch.ones(outputs), bias
    gain, offset = norm_gain_and_offset(norm)
    return gain, gain * bias + offset
