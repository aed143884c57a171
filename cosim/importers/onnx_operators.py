"""Turns ONNX operators into torch modules, and checks their attributes and weights.

Source: the operator specifications of ONNX, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import NodeProto, TensorProto, numpy_helper
from torch import Tensor, nn

from cosim.errors import NetworkError, plain
from cosim.importers.affine import Kind, affine_of, numbers_per_channel
from cosim.network.software_step import LARGEST_COUNT

_AS_FLOAT = "export the network in float32, in evaluation mode"


def type_name(number: int) -> str:
    """ONNX's name for an element type."""
    return TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else f"type {number}"


@dataclass(frozen=True)
class OnnxNode:
    """A node of a checked model, with the constants of the model and the shape of its first computed input.

    Attributes:
        shape: for one image, (1, channels, height, width) or (1, features).
    """

    proto: NodeProto
    constants: Mapping[str, TensorProto]
    shape: tuple[int, ...]

    @property
    def where(self) -> str:
        """How messages name the node: by its name, or else that of its result, and by its operator."""
        name = self.proto.name or next(iter(self.proto.output), "")
        domain = f"{self.proto.domain}." if self.proto.domain else ""
        return f"node {plain(name)!r} ({plain(domain + self.proto.op_type)})"

    def wrong(self, expected: str, found: object, remedy: str) -> NetworkError:
        return NetworkError(f"{self.where}: expected {expected}, found {plain(found)}: {remedy}")

    def attributes(self, only: Mapping[str, object] | None = None, **defaults: Any) -> dict[str, Any]:
        """The node's attributes, and the given defaults for missing ones.

        Args:
            only: attributes that must have one certain value if they are given, with this value.

        Raises:
            NetworkError: the node has an attribute that is not named here, or an attribute of `only` has another value.
        """
        given = {entry.name: onnx.helper.get_attribute_value(entry) for entry in self.proto.attribute}
        only = only or {}
        for name, value in given.items():
            if name in only and value != only[name]:
                raise self.wrong(f"{name} = {only[name]}", value, "change it and export again")
            if name not in only and name not in defaults:
                raise self.wrong(
                    f"attributes {', '.join([*defaults, *only]) or 'none'}", plain(name), "export it again"
                )
        return {**defaults, **given}

    def has(self, place: int) -> bool:
        """Whether the node has this input."""
        return len(self.proto.input) > place and self.proto.input[place] != ""

    def constant(self, place: int) -> Tensor:
        """An input that is stored in the file, of any type.

        Raises:
            NetworkError: the input is computed, or damaged.
        """
        name = self.proto.input[place]
        if name not in self.constants:
            raise self.wrong(f"input {place + 1} as a constant", f"{plain(name)!r}, computed", "store it in the file")
        try:
            return torch.from_numpy(numpy_helper.to_array(self.constants[name]).copy())
        except (TypeError, ValueError) as error:
            raise NetworkError(
                f"{self.where}: {plain(name)!r} is damaged ({plain(error)}): export the network again"
            ) from error

    def weights(self, place: int) -> Tensor:
        """An input that is stored in the file as finite float32 numbers."""
        name = self.proto.input[place]
        kind = self.constants[name].data_type if name in self.constants else TensorProto.FLOAT
        if kind != TensorProto.FLOAT:
            raise self.wrong(f"{plain(name)!r} as FLOAT", type_name(kind), _AS_FLOAT)
        values = self.constant(place)
        if not values.numel():
            raise self.wrong(f"numbers in {plain(name)!r}", f"shape {tuple(values.shape)}, which holds none", _AS_FLOAT)
        if not torch.isfinite(values).all():
            raise self.wrong(f"finite {plain(name)!r}", "NaN or infinite values", "train the network again")
        return values


def loaded(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """A module with the given tensors. It is made on the meta device, so that no weights are allocated or drawn."""
    module.load_state_dict({name: value for name, value in tensors.items() if value is not None}, assign=True)
    return module


def bias_of(node: OnnxNode, place: int, outputs: int) -> Tensor:
    """A constant that is added to (images, outputs) as a bias (outputs,)."""
    values = node.weights(place)
    if values.numel() not in (1, outputs) or (values.ndim and values.numel() != values.shape[-1]):
        raise node.wrong(f"a bias of shape ({outputs},)", tuple(values.shape), "add one number per output")
    return values.reshape(-1).expand(outputs).contiguous()


def affine(node: OnnxNode) -> nn.Module:
    """An operation of a computed tensor and a constant, which has one number, or one per channel."""
    node.attributes()
    place = 1 if node.proto.input[1] in node.constants else 0
    values = node.weights(place)
    numbers = numbers_per_channel(values)
    if numbers is None and len(node.shape) == 2 and values.shape[-1:] == node.shape[1:] == (values.numel(),):
        numbers = values.flatten()
    if numbers is None or (len(numbers) != 1 and len(numbers) != node.shape[1]):
        raise node.wrong("a constant of one number, or one per channel", tuple(values.shape), "fold it into a layer")
    made = affine_of(ARITHMETIC[node.proto.op_type], numbers, number_first=place == 0)
    if made is None:
        raise node.wrong("a gain and an offset", "a division by a tensor or by zero", "take it out")
    return made


def _conv(node: OnnxNode) -> nn.Module:
    given = node.attributes(group=1, **_WINDOW, dilations=[1, 1], kernel_shape=None)
    weight = node.weights(1)
    if weight.ndim != 4 or list(weight.shape[2:]) != (given["kernel_shape"] or list(weight.shape[2:])):
        raise node.wrong(
            "weights (outputs, inputs / group, height, width) of kernel_shape", tuple(weight.shape), "use Conv2d"
        )
    kernel = (weight.shape[2], weight.shape[3])
    stride, dilation = _pair(node, "strides", given), _pair(node, "dilations", given)
    made = nn.Conv2d(
        weight.shape[1] * given["group"],
        weight.shape[0],
        kernel,
        stride,
        _padding(node, given, kernel, stride, dilation),
        dilation,
        given["group"],
        bias=node.has(2),
        device="meta",
    )
    return loaded(made, weight=weight, bias=node.weights(2) if node.has(2) else None)


def _gemm(node: OnnxNode) -> nn.Module:
    given = node.attributes({"alpha": 1.0, "beta": 1.0, "transA": 0}, transB=0)
    return _linear(node, transpose=not given["transB"])


def _matmul(node: OnnxNode) -> nn.Module:
    node.attributes()
    return _linear(node, transpose=True)


def _linear(node: OnnxNode, *, transpose: bool) -> nn.Module:
    weight = node.weights(1)
    if weight.ndim != 2 or len(node.shape) != 2:
        raise node.wrong(
            "(images, features) times a matrix", f"{node.shape} times {tuple(weight.shape)}", "flatten the images first"
        )
    if transpose:
        weight = weight.T.contiguous()
    outputs, inputs = weight.shape
    bias = bias_of(node, 2, outputs) if node.has(2) else None
    return loaded(nn.Linear(inputs, outputs, bias=bias is not None, device="meta"), weight=weight, bias=bias)


def _batch_norm(node: OnnxNode) -> nn.Module:
    given = node.attributes({"training_mode": 0, "spatial": 1}, epsilon=1e-5, momentum=0.9)
    if sum(output != "" for output in node.proto.output) > 1:  # in training, before opset 14
        raise node.wrong("one output", "statistics of training", "export for evaluation")
    if len(node.shape) != 4:
        raise node.wrong("(images, channels, height, width)", node.shape, "put batch norm after convolutions")
    gain, offset, mean, variance = (node.weights(place) for place in range(1, 5))
    if not (variance + _finite(node, "epsilon", given) > 0).all():
        raise node.wrong("a positive variance", f"{variance.min():.3g}", "train the network again")
    made = nn.BatchNorm2d(len(gain), eps=given["epsilon"], device="meta")
    return loaded(made, weight=gain, bias=offset, running_mean=mean, running_var=variance)


def _relu(node: OnnxNode) -> nn.Module:
    node.attributes()
    return nn.ReLU()


def _clip(node: OnnxNode) -> nn.Module:
    given = node.attributes(min=None, max=None)  # attributes before opset 11, inputs from then on
    bounds = [
        node.weights(place).item() if node.has(place) else given[name] for place, name in ((1, "min"), (2, "max"))
    ]
    if bounds != [0, 6]:
        raise node.wrong("bounds 0 and 6", f"{bounds[0]} and {bounds[1]}", "use ReLU6 or ReLU")
    return nn.ReLU6()


def _leaky_relu(node: OnnxNode) -> nn.Module:
    return nn.LeakyReLU(_finite(node, "alpha", node.attributes(alpha=0.01)))


def _max_pool(node: OnnxNode) -> nn.Module:
    given = node.attributes({"storage_order": 0}, kernel_shape=[], ceil_mode=0, **_WINDOW, dilations=[1, 1])
    kernel, stride, dilation = (_pair(node, name, given) for name in ("kernel_shape", "strides", "dilations"))
    padding = _padding(node, given, kernel, stride, dilation)
    return nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=bool(given["ceil_mode"]))


def _average_pool(node: OnnxNode) -> nn.Module:
    given = node.attributes({"dilations": [1, 1]}, kernel_shape=[], ceil_mode=0, **_WINDOW, count_include_pad=0)
    kernel, stride = _pair(node, "kernel_shape", given), _pair(node, "strides", given)
    padding = _padding(node, given, kernel, stride, (1, 1))
    return nn.AvgPool2d(kernel, stride, padding, bool(given["ceil_mode"]), bool(given["count_include_pad"]))


def _global_average_pool(node: OnnxNode) -> nn.Module:
    node.attributes()
    return nn.AdaptiveAvgPool2d(1)


def _reduce_mean(node: OnnxNode) -> nn.Module:
    """The mean over height and width, as global average pooling, which is flattened if these axes are dropped."""
    given = node.attributes(axes=None, keepdims=1, noop_with_empty_axes=0)  # axes: an attribute before opset 18
    axes = node.constant(1).tolist() if node.has(1) else given["axes"]
    if len(node.shape) != 4 or sorted(axis % 4 for axis in axes or ()) != [2, 3]:
        raise node.wrong("axes 2 and 3, height and width", axes, "use AdaptiveAvgPool2d(1)")
    pool = nn.AdaptiveAvgPool2d(1)
    return pool if given["keepdims"] else nn.Sequential(pool, nn.Flatten())


def _flatten(node: OnnxNode) -> nn.Module:
    axis = node.attributes(axis=1)["axis"]
    if axis not in (1, 1 - len(node.shape)):
        raise node.wrong("axis = 1", axis, "flatten all but the images")
    return nn.Flatten()


def _reshape(node: OnnxNode) -> nn.Module:
    zero_is_empty = node.attributes(allowzero=0)["allowzero"]
    wanted = node.constant(1).tolist()
    features = torch.Size(node.shape[1:]).numel()
    if zero_is_empty and 0 in wanted:
        raise node.wrong("allowzero = 0 with a shape that holds 0", wanted, "flatten with torch.flatten(x, 1)")
    # The first axis may be written as 0 (unchanged), -1, or the number of images for which a network was exported.
    flat = len(wanted) == 2 and wanted[0] >= -1 and wanted[1] == features
    if not flat and wanted not in ([0, -1], [1, -1]):
        raise node.wrong(f"shape (-1, {features})", wanted, "flatten with torch.flatten(x, 1)")
    return nn.Flatten()


_WINDOW: dict[str, Any] = {"auto_pad": b"NOTSET", "pads": [0, 0, 0, 0], "strides": [1, 1]}


def _finite(node: OnnxNode, name: str, given: Mapping[str, Any]) -> float:
    """An attribute that is a finite number."""
    if not math.isfinite(given[name]):
        raise node.wrong(f"a finite {name}", given[name], "train the network again")
    return given[name]


def _pair(node: OnnxNode, name: str, given: Mapping[str, Any]) -> tuple[int, int]:
    """An attribute of two positive numbers, for height and width."""
    if len(given[name]) != 2:
        raise node.wrong(f"two {name}, for height and width", list(given[name]), "use the 2d operator")
    high, wide = given[name]
    if not 1 <= min(high, wide) <= max(high, wide) <= LARGEST_COUNT:
        raise node.wrong(f"{name} of 1 to {LARGEST_COUNT}", [high, wide], "change it and export again")
    return high, wide


def _padding(
    node: OnnxNode,
    given: Mapping[str, Any],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """Rows and columns of padding, the same on both sides."""
    automatic, pads = given["auto_pad"].decode("ascii", "replace"), list(given["pads"])
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        # There is a result for each step in the image. Pixels that the last window needs in addition are split over
        # the two sides.
        totals = [
            max((-(-size // step) - 1) * step + (width - 1) * spread + 1 - size, 0)
            for size, width, step, spread in zip(node.shape[2:], kernel, stride, dilation, strict=True)
        ]
        smaller, larger = [total // 2 for total in totals], [total - total // 2 for total in totals]
        pads = smaller + larger if automatic == "SAME_UPPER" else larger + smaller
    elif automatic == "VALID":
        pads = [0, 0, 0, 0]
    elif automatic != "NOTSET":
        raise node.wrong("auto_pad NOTSET, VALID, SAME_UPPER or SAME_LOWER", automatic, "give pads as numbers")
    if len(pads) != 4 or pads[:2] != pads[2:]:
        raise node.wrong(
            "the same padding on both sides",
            f"pads {pads} (top, left, bottom, right)" + (f" from {automatic}" if automatic != "NOTSET" else ""),
            "pad symmetrically, train and export again",
        )
    if not 0 <= min(pads) <= max(pads) <= LARGEST_COUNT:
        raise node.wrong(f"pads of 0 to {LARGEST_COUNT}", pads, "change them and export again")
    return pads[0], pads[1]


# Operator -> kind of arithmetic with a constant.
ARITHMETIC: dict[str, Kind] = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}

# Operator -> function that makes its module, or a Sequential of several. The first input of a node is the module's
# input, and its other inputs are constants.
MODULES: dict[str, Callable[[OnnxNode], nn.Module]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Conv": _conv,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "ReduceMean": _reduce_mean,
    "Relu": _relu,
    "Reshape": _reshape,
}
