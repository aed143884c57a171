"""Bring your own network from an ONNX file: its graph becomes a torch module for `quantize`.

    file -> ModelProto, checked -> operators, each a torch module or function -> torch.fx graph

A file may come from anywhere. It is read with the parser and checker of the onnx library, and nothing in it is run. Of
the other files that it names, only those in the same folder are read, for weights.
"""

from __future__ import annotations

import keyword
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto
from torch import Tensor, fx, nn

from cosim.errors import NetworkError, plain
from cosim.files import is_file
from cosim.importers.onnx_external import LARGEST_FILE_BYTES, fetch_external
from cosim.importers.onnx_operators import ARITHMETIC, MODULES, OnnxNode, affine, bias_of, loaded, type_name
from cosim.network.layers import IMAGES, MOST_STEPS, MOST_VALUES, check_image_shape

OLDEST_OPSET = 7  # earlier opsets have other rules for broadcasting and batch norm
_STANDARD = ("", "ai.onnx")
_MONOTONE = ("LogSoftmax", "Softmax")
_SUPPORTED = sorted([*MODULES, *_MONOTONE, *ARITHMETIC, "Concat", "Constant", "Dropout", "Identity"])
_FLATTEN = "flatten with torch.flatten(x, 1) instead of a view by x.size(0), and export again"
_REMEDIES = {
    "Shape": _FLATTEN,
    "Gather": _FLATTEN,
    "Squeeze": _FLATTEN,
    "Unsqueeze": _FLATTEN,
    "ReduceMax": "export it again with dynamo=False, which writes MaxPool",
    "Transpose": "export it again with constants folded",
    "Pad": "give the padding to the convolution or pooling after it, and export again",
    "DequantizeLinear": "export the float network; cosim quantizes it",
    "QuantizeLinear": "export the float network; cosim quantizes it",
}
# Names that submodules, and variables in the graph's forward, must not have.
_RESERVED = {IMAGES, "self", *keyword.kwlist, *dir(fx.GraphModule({}, fx.Graph()))}
_LONGEST_NAME = 56  # a layer's name has at most 64 characters, of which a number may take the rest


def load_onnx(path: str | Path) -> fx.GraphModule:
    """The network in an ONNX file as a torch module in evaluation mode, for `quantize` and `finetune`.

    These operators are supported, in float32 and from opset 7 on: Conv (2d), Gemm, MatMul and Add with constants,
    BatchNormalization, Relu, Clip to 0..6, LeakyRelu, MaxPool, AveragePool, GlobalAveragePool, ReduceMean over height
    and width, Flatten, Reshape to (images, features), Add, and Concat of channels. Identity, Dropout and Constant are
    supported too, and disappear. A Softmax or LogSoftmax at the very end is left out: it is monotone, so no decision
    changes, and the module returns logits.

    Args:
        path: a file of at most 1 GiB. Its weights are in the file, or in files next to it (`.onnx.data`) of at most
            1 GiB in total.

    Returns:
        a module that maps float32 images (n, channels, height, width) to logits (n, classes). Submodules and nodes have
        the names that they have in the file, with `_` for characters that Python names cannot have. Its `meta` has
        `input_shape` (channels, height, width), `classes`, and `left_out`, the nodes at the end that were left out.

    Raises:
        NetworkError: the file cannot be read, is not valid ONNX, or contains something that is not supported; the
            message names the node and its operator.
    """
    path = Path(path)
    model = _read(path)
    _check(model, path)
    return _Builder(model).build()


def _read(path: Path) -> ModelProto:
    if not is_file(path):
        raise NetworkError(f"no ONNX file at {path}: check the path")
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE_BYTES:
            raise NetworkError(
                f"{path} has {size >> 20} MiB, expected at most {LARGEST_FILE_BYTES >> 20}: take a smaller network"
            )
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise NetworkError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    except DecodeError as error:
        raise NetworkError(f"{path} is not an ONNX file: export the network with torch.onnx.export") from error
    if not model.ir_version or not model.graph.node:
        raise NetworkError(f"{path} holds no ONNX network: export the network with torch.onnx.export")
    return model


def _check(model: ModelProto, path: Path) -> None:
    """Refuse models that are not supported, with specific messages, and then any that the onnx library refuses."""
    if len(model.graph.node) > MOST_STEPS:
        raise NetworkError(
            f"{path} has {len(model.graph.node)} nodes, expected at most {MOST_STEPS}: take a smaller network"
        )
    if not all(isinstance(name, str) for name in _names(model)):  # the parser gives bytes where UTF-8 is broken
        raise NetworkError(f"{path} has names that are not UTF-8, as in a damaged file: export it again")
    for opset in model.opset_import:
        if opset.domain in _STANDARD and opset.version < OLDEST_OPSET:
            raise NetworkError(
                f"{path} has opset {opset.version}, expected {OLDEST_OPSET} or newer: export it again with a newer "
                "one, or convert it with onnx.version_converter"
            )
    if model.graph.sparse_initializer:
        raise NetworkError(f"{path} has sparse weights, expected dense ones: export them dense")
    for proto in model.graph.node:
        if proto.domain not in _STANDARD or proto.op_type not in _SUPPORTED:
            raise NetworkError(
                f"{OnnxNode(proto, {}, ()).where} is not understood: "
                f"{_REMEDIES.get(proto.op_type, 'replace it and export again')} (supported: {', '.join(_SUPPORTED)})"
            )
    fetch_external(model, path)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise NetworkError(f"{path} breaks the rules of ONNX ({plain(error, 200)}): export it again") from error


def _names(model: ModelProto) -> Iterator[str | bytes]:
    """Every name that is used to read the graph."""
    for node in model.graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (given.name for given in node.attribute)
    for value in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        yield value.name


def _input_shape(value: ValueInfoProto) -> tuple[int, int, int]:
    """(channels, height, width) of the input images."""
    name, tensor = plain(value.name), value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        raise NetworkError(
            f"input {name!r} is {type_name(tensor.elem_type)}, expected FLOAT: export the network in float32"
        )
    axes = [axis.dim_value if axis.dim_value > 0 else plain(axis.dim_param) or "?" for axis in tensor.shape.dim]
    match axes:
        case [_, int(channels), int(height), int(width)]:
            check_image_shape((channels, height, width), f"input {name!r}")
            return channels, height, width
    raise NetworkError(
        f"input {name!r} has shape ({', '.join(map(str, axes))}), expected (images, channels, height, width) with "
        "numbers for all but the first: export it for images of a fixed size"
    )


@dataclass(frozen=True)
class _Value:
    """A tensor that the network computes.

    Attributes:
        node: the node that computes it.
        example: a tensor without data, which has the shape of the computed tensor for one image.
    """

    node: fx.Node
    example: Tensor


class _Builder:
    """Writes a torch.fx graph from the nodes of a checked model, which are in the order of computation."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model.graph
        self.constants = {tensor.name: tensor for tensor in self.model.initializer}
        self.values: dict[str, _Value] = {}
        self.graph = fx.Graph()
        self.modules: dict[str, nn.Module] = {}
        self.names = Counter(_RESERVED)
        self.values_made = 0
        self.left_out: list[str] = []

    def build(self) -> fx.GraphModule:
        inputs = [value for value in self.model.input if value.name not in self.constants]
        for found, what in ((inputs, "input, the images"), (self.model.output, "output, the logits")):
            if len(found) != 1:
                names = ", ".join(repr(plain(value.name)) for value in found) or "none"
                raise NetworkError(f"expected one {what}, found {plain(names, 200)}: export the network with only one")
        input_shape = _input_shape(inputs[0])
        self.values[inputs[0].name] = _Value(
            self.graph.placeholder(IMAGES), torch.empty(1, *input_shape, device="meta")
        )
        for proto in self.model.node:
            self._visit(proto)
        logits = self._logits()
        self.graph.output(logits.node)
        module = fx.GraphModule(self.modules, self.graph)
        module.graph.eliminate_dead_code()
        module.delete_all_unused_submodules()
        module.recompile()
        module.meta.update(input_shape=input_shape, classes=logits.example.shape[1], left_out=self.left_out)
        return module.eval()

    def _logits(self) -> _Value:
        name = self.model.output[0].name
        value = self.values.get(name)
        if value is None or value.example.ndim != 2:
            found = "not computed" if value is None else f"of shape {tuple(value.example.shape)} for one image"
            raise NetworkError(
                f"output {plain(name)!r} is {found}, expected logits (n, classes): end the network in flatten or a "
                "linear layer"
            )
        return value

    def _visit(self, proto: NodeProto) -> None:
        """Compute the node's first output. Other outputs are for training, and no node may use them."""
        result = proto.output[0]
        if proto.op_type == "Constant":
            self.constants[result] = _constant(proto)
        elif proto.op_type == "Identity" and proto.input[0] in self.constants:
            self.constants[result] = self.constants[proto.input[0]]
        elif result:
            self.values[result] = self._value(proto)

    def _value(self, proto: NodeProto) -> _Value:
        values = [self.values[name] for name in proto.input if name in self.values]
        node = OnnxNode(proto, self.constants, tuple(values[0].example.shape) if values else ())
        for name in proto.input:
            if name and name not in self.values and name not in self.constants:
                raise node.wrong("inputs for inference", f"{plain(name)!r} for training", "export for evaluation")
        if not values or (proto.op_type not in ARITHMETIC and proto.input[0] not in self.values):
            raise node.wrong("an input computed from the images", "only constants", "export with constants folded")
        try:
            result = self._compute(node, values)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            shapes = " and ".join(str(tuple(value.example.shape)) for value in values)
            raise NetworkError(
                f"{node.where} does not fit its input of shape {shapes} for one image ({plain(error, 200)}): check its "
                "attributes and weights"
            ) from error
        self.values_made += result.example.numel()
        if self.values_made > MOST_VALUES:
            raise node.wrong(
                f"at most {MOST_VALUES} values for an image up to this node", tuple(result.example.shape),
                "use a smaller network",
            )  # fmt: skip
        return result

    def _compute(self, node: OnnxNode, values: list[_Value]) -> _Value:
        nodes, examples = [value.node for value in values], [value.example for value in values]
        match node.proto.op_type:
            case "Identity" | "Dropout":
                if node.has(2) and bool(node.constant(2)):
                    raise node.wrong("training_mode = false", "true", "export for evaluation")
                return values[0]
            case "Softmax" | "LogSoftmax":
                self._leave_out(node)
                return values[0]
            case "Add" if len(values) == 1 and self._is_product(values[0]):
                return self._add_bias(node, values[0])
            case kind if kind in ARITHMETIC and len(values) == 1:
                return self._module(node, affine(node), values[0])
            case "Add":
                if examples[0].shape != examples[1].shape:
                    raise ValueError("both must have the same shape")
                return self._call(node, operator.add, tuple(nodes), examples[0])
            case "Concat":
                axis = node.attributes(axis=None)["axis"]
                if axis not in (1, 1 - len(node.shape)):
                    raise node.wrong("axis = 1", axis, "concatenate channels")
                if len(values) != len(node.proto.input):
                    raise node.wrong("computed tensors", "a constant", "remove it")
                return self._call(node, torch.cat, (nodes, 1), torch.cat(examples, 1))
            case "Sub" | "Mul" | "Div":
                raise node.wrong("a tensor and a constant", "two computed tensors", "add or concatenate them")
        return self._module(node, MODULES[node.proto.op_type](node), values[0])

    def _leave_out(self, node: OnnxNode) -> None:
        """Leave out a monotone function of the logits at the very end."""
        axis = node.attributes(axis=-1)["axis"]  # -1 is the default from opset 13 on, and 1 before; both mean classes
        if node.proto.output[0] != self.model.output[0].name or len(node.shape) != 2 or axis not in (1, -1):
            raise node.wrong(
                "it at the very end, over the classes of (n, classes)", f"axis {axis} of {node.shape}", "remove it"
            )
        self.left_out.append(plain(node.proto.name or node.proto.op_type))

    def _is_product(self, value: _Value) -> bool:
        """Whether a value is the result of a MatMul that has no bias yet."""
        layer = self.modules.get(str(value.node.target)) if value.node.op == "call_module" else None
        return isinstance(layer, nn.Linear) and layer.bias is None

    def _add_bias(self, node: OnnxNode, value: _Value) -> _Value:
        """Put a linear layer with bias in place of a product and a constant. An unused product is removed later."""
        layer = self.modules[str(value.node.target)]
        assert isinstance(layer, nn.Linear)
        place = 1 if node.proto.input[1] in self.constants else 0
        made = loaded(
            nn.Linear(layer.in_features, layer.out_features, device="meta"),
            weight=layer.weight.detach(),
            bias=bias_of(node, place, layer.out_features),
        )
        name = self._name(node)
        self.modules[name] = made
        return _Value(self.graph.create_node("call_module", name, value.node.args, name=name), value.example)

    def _module(self, node: OnnxNode, module: nn.Module, value: _Value) -> _Value:
        for part in module if isinstance(module, nn.Sequential) else (module,):
            without_data = {key: tensor.to("meta") for key, tensor in part.state_dict().items()}
            example = torch.func.functional_call(part.eval(), without_data, (value.example,))
            name = self._name(node)
            self.modules[name] = part
            value = _Value(self.graph.create_node("call_module", name, (value.node,), name=name), example)
        return value

    def _call(
        self, node: OnnxNode, function: Callable[..., Tensor], arguments: tuple[Any, ...], like: Tensor
    ) -> _Value:
        return _Value(self.graph.create_node("call_function", function, arguments, name=self._name(node)), like)

    def _name(self, node: OnnxNode) -> str:
        """The node's name as a Python name that is not in use yet."""
        kind = node.proto.op_type.lower()
        stem = re.sub(r"[^A-Za-z0-9_]+", "_", node.proto.name).strip("_")[:_LONGEST_NAME] or kind
        name = stem = f"{kind}_{stem}"[:_LONGEST_NAME] if stem[0].isdigit() else stem
        while name in self.names:
            self.names[stem] += 1
            name = f"{stem}_{self.names[stem]}"
        self.names[name] += 1
        return name


def _constant(proto: NodeProto) -> TensorProto:
    """The value of a Constant node, as a stored tensor."""
    given = {entry.name: onnx.helper.get_attribute_value(entry) for entry in proto.attribute}
    match list(given.items()):
        case [("value", TensorProto() as tensor)]:
            return tensor
        case [("value_float", number)]:
            return onnx.helper.make_tensor("", TensorProto.FLOAT, [], [number])
        case [("value_int", number)]:
            return onnx.helper.make_tensor("", TensorProto.INT64, [], [number])
        case [("value_floats", numbers)]:
            return onnx.helper.make_tensor("", TensorProto.FLOAT, [len(numbers)], numbers)
        case [("value_ints", numbers)]:
            return onnx.helper.make_tensor("", TensorProto.INT64, [len(numbers)], numbers)
    raise OnnxNode(proto, {}, ()).wrong("one dense tensor", ", ".join(given) or "none", "store numbers in the file")
