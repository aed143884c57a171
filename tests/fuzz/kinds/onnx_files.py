"""ONNX files and separate files of weights, which are loaded, computed on small images, and sometimes quantized."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper

import cosim
from cosim.importers.onnx_file import _SUPPORTED
from tests.fuzz.kind import Finding, Kind, Place
from tests.fuzz.values import TEXTS, damage_bytes
from tests.unit.test_onnx import MODULES, UNFOLDED, exported, settled

# Share of accepted networks that are quantized, which takes half a second.
_QUANTIZED = 1 / 20
# Networks with more values for an image are not computed.
_MOST_VALUES = 1 << 12
_COUNTS = (0, -1, 1, 2, 3, 5, 7, 64, 2**14, 2**16, 2**16 + 1, 2**20, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -1.0, 1e-45, 1e38, -1e38, float("nan"), float("inf"))
_ATTRIBUTES = ("strides", "pads", "dilations", "kernel_shape", "group", "axis", "axes", "transA", "transB", "alpha",
               "beta", "epsilon", "momentum", "auto_pad", "ceil_mode", "count_include_pad", "keepdims", "perm", "value",
               "to", "allowzero", "training_mode", "min", "max", "value_ints", "sparse_value", "body")  # fmt: skip
_LOCATIONS = ("", ".", "..", "../work/users.txt", "/etc/passwd", "/dev/zero", "net.onnx", "net.onnx.data", "pipe",
              "link", "folder", "a\0b", "a\\b", "c:x", "x" * 5000, "é", "\ud800", "none")  # fmt: skip
_PLACES = ("0", "-1", "1", "4", "4096", str(2**31), str(2**62), str(2**64), "9" * 5000, "", "x", "1.5", " 7", "0x10",
           "1_0")  # fmt: skip


class OnnxFiles(Kind):
    """Files exported by torch, damaged as bytes, or in nodes, attributes, weights or the places of weights."""

    def prepare(self, originals: Path) -> None:
        for name, make in MODULES.items():
            for how, options in {"folded": {}, "unfolded": UNFOLDED}.items():
                exported(settled(make()), originals / f"{name}-{how}.onnx", **options)
        model = onnx.load(originals / "lenet-folded.onnx")
        (originals / "apart").mkdir()
        onnx.save(model, originals / "apart" / "net.onnx", save_as_external_data=True, location="net.onnx.data",
                  size_threshold=0)  # fmt: skip

    def mutate(self, place: Place, rng: np.random.Generator) -> str:
        names = sorted(path.name for path in place.originals.glob("*.onnx"))
        name, other = rng.choice(names, 2)
        chance, file = rng.random(), place.inputs / "net.onnx"
        if rng.random() < _QUANTIZED:
            (place.inputs / "quantized").touch()
        if chance < 0.15:
            content, what = damage_bytes(
                (place.originals / name).read_bytes(), (place.originals / other).read_bytes(), rng
            )
            file.write_bytes(content)
            return f"{name}: {what}"
        if chance < 0.3:
            name = "apart/net.onnx"
            model = onnx.load(place.originals / name, load_external_data=False)
            what = _place(model, place, rng)
        else:
            model, done = onnx.load(place.originals / name), []
            for _ in range(int(rng.integers(1, 3))):
                change = _pick(rng, _CHANGES)
                try:
                    done.append(change(model, rng))
                except (TypeError, ValueError) as error:  # what protobuf itself refuses to hold
                    done.append(f"{change.__name__} left undone: {error}"[:60])
            what = "; ".join(done)
        file.write_bytes(model.SerializeToString())
        return f"{name}: {what}"

    def run(self, place: Place) -> None:
        module = cosim.load_onnx(place.inputs / "net.onnx")
        shape = module.meta["input_shape"]
        if math.prod(shape) > _MOST_VALUES:
            return
        images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            logits = module(images)
        if logits.shape != (4, module.meta["classes"]):
            raise Finding(f"logits of shape {tuple(logits.shape)}, expected (4, {module.meta['classes']})")
        if (place.inputs / "quantized").exists():
            network = cosim.quantize(module, images)
            cosim.save_network(network, place.outputs / "net.safetensors")
            cosim.load_network(place.outputs / "net.safetensors")


def _pick(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _place(model: ModelProto, place: Place, rng: np.random.Generator) -> str:
    """Weights in another folder, or at another place of the file."""
    data = (place.originals / "apart" / "net.onnx.data").read_bytes()
    (place.inputs / "net.onnx.data").write_bytes(data[: int(_pick(rng, (len(data), len(data), 0, 7, len(data) - 1)))])
    (place.inputs / "link").symlink_to(place.work / "users.txt")
    (place.inputs / "folder").mkdir()
    tensor = _pick(rng, model.graph.initializer)
    key = _pick(rng, ("location", "location", "offset", "length", "checksum", "x"))
    value = _pick(rng, _LOCATIONS if key == "location" else _PLACES)
    found = {entry.key: entry.value for entry in tensor.external_data} | {
        key: value.encode("utf-8", "replace").decode()
    }
    if rng.random() < 0.1:
        found.pop(_pick(rng, sorted(found)))
    del tensor.external_data[:]
    for name, text in found.items():
        tensor.external_data.add(key=name, value=text)
    if rng.random() < 0.2:
        tensor.data_location = TensorProto.DEFAULT
    if rng.random() < 0.2:
        tensor.dims[0] = _pick(rng, _COUNTS)
    return f"{key} of {tensor.name} = {value!r:.40}"


def _dimension(model: ModelProto, rng: np.random.Generator) -> str:
    value = _pick(rng, (*model.graph.input, *model.graph.output))
    axes = value.type.tensor_type.shape.dim
    if rng.random() < 0.1:
        del axes[int(rng.integers(len(axes))) :]
        return f"dimensions of {value.name} left out"
    axis, count = _pick(rng, axes), _pick(rng, _COUNTS)
    if rng.random() < 0.1:
        axis.dim_param = _pick(rng, TEXTS).encode("utf-8", "replace").decode()
    else:
        axis.dim_value = count
    return f"dimension of {value.name} = {count}"


def _attribute(model: ModelProto, rng: np.random.Generator) -> str:
    node = _pick(rng, model.graph.node)
    if node.attribute and rng.random() < 0.8:
        attribute = _pick(rng, node.attribute)
        if attribute.ints:
            place, count = int(rng.integers(len(attribute.ints))), _pick(rng, _COUNTS)
            if rng.random() < 0.5:
                attribute.ints[:] = [count] * len(attribute.ints)
            else:
                attribute.ints[place] = count
            return f"{attribute.name} of {node.name} has {count}"
        if rng.random() < 0.2:
            attribute.type = int(_pick(rng, range(15)))
        if attribute.type == attribute.INT:
            attribute.i = _pick(rng, _COUNTS)
        else:
            attribute.f = _pick(rng, _FLOATS)
        return f"{attribute.name} of {node.name} = {attribute.i}, {attribute.f}, type {attribute.type}"
    name = _pick(rng, _ATTRIBUTES)
    counts = [_pick(rng, _COUNTS)] * int(rng.integers(1, 5))
    others = (b"\xff", "SAME_UPPER", *model.graph.initializer[:1], model.graph)
    value = _pick(rng, (counts, counts[0], _pick(rng, _FLOATS), *others))
    node.attribute.append(helper.make_attribute(name, value))
    return f"{name} added to {node.name}"


def _weights(model: ModelProto, rng: np.random.Generator) -> str:
    tensor = _pick(rng, model.graph.initializer)
    choice = int(rng.integers(6))
    if choice == 0:
        tensor.dims[:] = [_pick(rng, _COUNTS) for _ in range(int(rng.integers(6)))]
        return f"{tensor.name} of shape {list(tensor.dims)}"
    if choice == 1:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _pick(rng, _COUNTS)
        return f"{tensor.name} of shape {list(tensor.dims)}"
    if choice == 2:
        tensor.data_type = int(_pick(rng, (*range(25), 99, -1)))
        return f"{tensor.name} of type {tensor.data_type}"
    if choice == 3:
        tensor.raw_data = _pick(rng, (b"", b"\0", tensor.raw_data[:-1], tensor.raw_data + b"\0\0\0\0"))
        return f"{tensor.name} has {len(tensor.raw_data)} bytes"
    if choice == 4:
        values = np.frombuffer(tensor.raw_data[: len(tensor.raw_data) // 4 * 4], "<f4").copy()
        if len(values):
            values[int(rng.integers(len(values)))] = _pick(rng, _FLOATS)
        tensor.raw_data = values.tobytes()
        return f"another number in {tensor.name}"
    model.graph.initializer.remove(tensor)
    return f"{tensor.name} removed"


def _empty(model: ModelProto, rng: np.random.Generator) -> str:
    """Weights of a large shape, with zeros or without any numbers."""
    tensor = _pick(rng, model.graph.initializer)
    shape = [2**40, 0] if rng.random() < 0.5 else [0] * max(1, len(tensor.dims))
    tensor.dims[:], tensor.raw_data = shape, b""
    return f"{tensor.name} of shape {shape}"


def _node(model: ModelProto, rng: np.random.Generator) -> str:
    nodes = model.graph.node
    place = int(rng.integers(len(nodes)))
    node, choice = nodes[place], int(rng.integers(7))
    if choice == 0:
        node.op_type = _pick(rng, (*_SUPPORTED, "If", "Loop", "Scan", "Shape", "", "conv", "Softmax"))
        return f"node {place} is {node.op_type}"
    if choice == 1:
        del nodes[place]
        return f"node {place} removed"
    if choice == 2:
        nodes.insert(place, nodes[int(rng.integers(len(nodes)))])
        return "a node twice"
    if choice == 3:
        known = [name for each in nodes for name in (*each.input, *each.output)]
        node.input[int(rng.integers(len(node.input)))] = _pick(rng, known)
        return f"another input of node {place}"
    if choice == 4:
        text = _pick(rng, TEXTS).encode("utf-8", "replace").decode()
        holder = _pick(rng, ("name", "domain", "doc_string"))
        setattr(node, holder, text)
        return f"{holder} of node {place} = {text!r:.40}"
    if choice == 5:
        node.output[0] = _pick(rng, [name for each in nodes for name in each.output])
        return f"another output of node {place}"
    node.input.append(_pick(rng, [name for each in nodes for name in each.input]))
    return f"one more input of node {place}"


def _many(model: ModelProto, rng: np.random.Generator) -> str:
    """A chain of nodes after the images, each of which may double the amount of data."""
    count, kind = int(_pick(rng, (3, 30, 1500, 5000))), _pick(rng, ("Concat", "Relu", "Add", "Identity", "LeakyRelu"))
    images = model.graph.input[0].name
    inputs = 2 if kind in ("Concat", "Add") else 1
    given = {"axis": 1} if kind == "Concat" else {}
    names = [images, *(f"chain{number}" for number in range(count))]
    chain = [
        helper.make_node(kind, [before] * inputs, [after], name="alike", **given)
        for before, after in itertools.pairwise(names)
    ]
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == images:
                node.input[place] = f"chain{count - 1}"
    old = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*chain, *old])
    return f"{count} {kind} in a row"


def _model(model: ModelProto, rng: np.random.Generator) -> str:
    choice = int(rng.integers(5))
    if choice == 0:
        model.opset_import[0].version = _pick(rng, (*_COUNTS, *range(1, 30)))
        return f"opset {model.opset_import[0].version}"
    if choice == 1:
        model.ir_version = _pick(rng, (*_COUNTS, *range(1, 14)))
        return f"version {model.ir_version}"
    if choice == 2:
        model.graph.input[0].type.tensor_type.elem_type = int(_pick(rng, (*range(25), 99, -1)))
        return "another type of images"
    if choice == 3:
        model.graph.input.append(_pick(rng, (*model.graph.input, *model.graph.output)))
        return "a second input"
    model.graph.output[0].name = _pick(rng, (*TEXTS[:3], *(name for node in model.graph.node for name in node.output)))
    return f"output {model.graph.output[0].name!r:.40}"


_CHANGES: tuple[Callable[[ModelProto, np.random.Generator], str], ...] = (
    _dimension, _attribute, _attribute, _attribute, _weights, _weights, _empty, _node, _many, _model,
)  # fmt: skip

KIND = OnnxFiles()
