"""Networks: a safetensors file and its card, loaded, planned, saved again, and now and then run on ideal arrays."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

import cosim
from cosim.arithmetic.partial_sums import PartialSums
from cosim.evaluate.plan import plan_run
from cosim.network import LayerSpec, Network, SoftwareStep, Step, load_network, save_network
from tests.conftest import make_layer, make_network
from tests.fuzz.kind import Finding, Kind, Place, command
from tests.fuzz.values import NUMBERS, TEXTS, damage_bytes, damage_json

# Share of accepted networks that are planned and run, if they are small.
_RUN = 1 / 10
_MOST_VALUES = 1 << 16
_COUNTS = (0, -1, 1, 2, 3, 5, 9, 64, 2**14, 2**16, 2**16 + 1, 2**31, 2**62, 2**64, 1.5, True, None, "1", [1], [],
           float("nan"))  # fmt: skip
_STEPS: tuple[Any, ...] = (
    {"step": "relu"},
    {"step": "flatten"},
    {"step": "add"},
    {"step": "concat"},
    {"step": "relu6", "x": 1},
    {"step": "max_pool2d", "kernel_size": 2**16, "stride": 1, "padding": 2**15},
    {"step": "max_pool2d", "kernel_size": [1, 1], "stride": [2**16, 1]},
    {"step": "max_pool2d", "kernel_size": 2, "return_indices": True},
    {"step": "avg_pool2d", "kernel_size": 0},
    {"step": "avg_pool2d", "kernel_size": 2, "divisor_override": 0},
    {"step": "adaptive_avg_pool2d", "output_size": [2**14, 2**14]},
    {"step": "adaptive_avg_pool2d", "output_size": None},
    {"step": "adaptive_avg_pool2d", "output_size": [None, 1]},
    {"step": "leaky_relu", "negative_slope": float("nan")},
    {"step": "affine", "gain": [1e308], "offset": [-1e308]},
    {"step": "affine", "gain": [], "offset": []},
    {"step": "affine", "gain": [[[1.0]]], "offset": [0.0] * 9},
    {"step": "affine", "gain": [1.0] * 100_000, "offset": [0]},
    {"step": "concat", "name": "twice", "inputs": ["images", "images"]},
    {"step": "concat", "name": "many", "inputs": ["images"] * 10_000},
    {"step": "add", "name": "mixed", "inputs": ["images", "conv1"]},
    {"step": "relu", "name": "images", "inputs": ["images"]},
    {"step": "relu", "name": "self", "inputs": ["self"]},
    {"step": "relu", "inputs": "images"},
    {"step": "relu", "name": ["a"], "inputs": [["a"]]},
    {"step": ["relu"]},
    {"layer": "conv1"},
    {},
    [],
    None,
    5,
    "relu",
)


class Networks(Kind):
    """Small networks, with damage to the card, to the bytes of the weights, to their header, or to a tensor."""

    def prepare(self, originals: Path) -> None:
        sums = PartialSums(9, 4, 2.0, 255, 8)
        first = make_layer(outputs=4, inputs=2, padding=(1, 1), stride=(2, 1), asymmetric=True)
        second = make_layer(outputs=4, inputs=4, groups=2, name="conv2", dilation=(2, 1))
        branches = [
            Step("conv1", first, ("images",)),
            Step("scaled", SoftwareStep("affine", {"gain": [0.5, 1, 2, 1], "offset": [0.0]}), ("conv1",)),
            Step("sum", SoftwareStep("add"), ("conv1", "scaled")),
            Step("both", SoftwareStep("concat"), ("sum", "conv1")),
            Step("pool", SoftwareStep("adaptive_avg_pool2d", {"output_size": 6}), ("sum",)),
            Step("conv2", second, ("pool",)),
            Step("flat", SoftwareStep("flatten"), ("conv2",)),
        ]
        made = {
            "tiny": make_network(float_weights=True),
            "branches": Network("branches", (2, 8, 8), branches, card={"dataset": "digits"}),
            "sums": Network("sums", (2, 5, 5), [_with_sums(make_layer(), sums), SoftwareStep("flatten")]),
            "digits": cosim.load_network("digits-w4a4"),
        }
        for name, network in made.items():
            save_network(network, originals / f"{name}.safetensors")

    def mutate(self, place: Place, rng: np.random.Generator) -> str:
        names = sorted(path.stem for path in place.originals.glob("*.safetensors"))
        name, other = rng.choice(names, 2)
        weights, card = _read(place.originals, name)
        other_weights, other_card = _read(place.originals, other)
        chance, fits = rng.random(), rng.random() < 0.9
        text: bytes | None = None
        if chance < 0.05:
            text, what = damage_bytes(json.dumps(card).encode(), json.dumps(other_card).encode(), rng, (b":", b"step"))
        elif chance < 0.15:
            weights, what = damage_bytes(weights, other_weights, rng, (b"{", b"dtype", b"shape", b"data_offsets"))
        elif chance < 0.3:
            weights, what = _header(weights, rng)
        elif chance < 0.45:
            weights, what = _tensor(weights, rng)
        else:
            done = [_pick(rng, _CHANGES)(card, rng) for _ in range(int(rng.integers(1, 3)))]
            what = "; ".join(done)
        if fits and isinstance(card, dict):
            card["weights_sha256"] = hashlib.sha256(weights).hexdigest()
        (place.inputs / "net.safetensors").write_bytes(weights)
        (place.inputs / "net.json").write_bytes(
            json.dumps(card).encode("utf-8", "surrogatepass") if text is None else text
        )
        chance = rng.random()
        if chance < _RUN:
            (place.inputs / ("command" if chance < _RUN / 4 else "run")).touch()
        return f"{name}: {what}"

    def run(self, place: Place) -> None:
        path = place.inputs / "net.safetensors"
        if (place.inputs / "command").exists():
            command("infer", path, "--fidelity", "ideal", "--images", 2, "--out", place.outputs / "run.h5")
            return
        network = load_network(path)
        if (place.inputs / "run").exists() and _values(network) <= _MOST_VALUES:
            config = cosim.Config.load(None, ["run.fidelity=ideal", "run.layers=all", "array.bitlines=256"])
            plan_run(network, config, 2)
            with torch.no_grad():
                images = torch.rand(2, *network.input_shape, generator=torch.Generator().manual_seed(0))
                cosim.CircuitNetwork(network, config, store=place.store)(images)
        first, second = place.outputs / "first.safetensors", place.outputs / "second.safetensors"
        save_network(network, first)
        save_network(load_network(first), second)
        for suffix in (".safetensors", ".json"):
            if first.with_suffix(suffix).read_bytes() != second.with_suffix(suffix).read_bytes():
                raise Finding(f"the network is another after it was saved and loaded: {suffix}")


def _with_sums(layer: LayerSpec, sums: PartialSums) -> LayerSpec:
    return replace(layer, partial_sums=sums)


def _values(network: Network) -> int:
    """The amount of computation: the values of the images, and the weights that each result depends on."""
    return math.prod(network.input_shape) + max(layer.weight.numel() for layer in network.layers)


def _read(folder: Path, name: str) -> tuple[bytes, dict[str, Any]]:
    return (folder / f"{name}.safetensors").read_bytes(), json.loads((folder / f"{name}.json").read_text())


def _pick(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _header(weights: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Change the header of a safetensors file: the types, shapes and places of the tensors."""
    (length,) = struct.unpack("<Q", weights[:8])
    header, data = json.loads(weights[8 : 8 + length]), weights[8 + length :]
    name = _pick(rng, sorted(header))
    choice = int(rng.integers(6))
    if choice == 0:
        header[name]["dtype"] = _pick(
            rng, ("F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "F4", "", 5)
        )
        what = f"dtype of {name} = {header[name]['dtype']!r}"
    elif choice == 1:
        header[name]["shape"] = _pick(rng, ([], [0], [2**62], [2**62, 2**62], [-1], [2**63, 0], [1] * 200, None, "1"))
        what = f"shape of {name} = {header[name]['shape']!r:.40}"
    elif choice == 2:
        header[name]["data_offsets"] = _pick(rng, ([0, 2**62], [-1, 3], [5, 4], [0, 0], [], None, [2**64, 2**64]))
        what = f"place of {name} = {header[name]['data_offsets']!r}"
    elif choice == 3:
        header[_pick(rng, (*TEXTS, "__metadata__"))] = header[name]
        what = f"{name} twice"
    elif choice == 4:
        what = damage_json(header, rng)
    else:
        length = _pick(rng, (0, 2**63, 2**64 - 1, length + 1, length - 1, 10**8))
        return struct.pack("<Q", length) + weights[8:], f"header of {length} bytes"
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data, what


def _tensor(weights: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Change the values, the type or the shape of a tensor."""
    tensors = load(weights)
    name = _pick(rng, sorted(tensors))
    values = tensors[name]
    choice = int(rng.integers(4))
    if choice == 0:
        kind = _pick(rng, (torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64))
        tensors[name] = values.to(kind)
        what = f"{name} as {kind}"
    elif choice == 1:
        number = _pick(rng, (float("nan"), float("inf"), -1e38, 1e38, 1e-45, 255, 256, -(2**31), 0.5))
        changed = values.double().flatten()
        changed[int(rng.integers(len(changed)))] = number
        tensors[name] = changed.reshape(values.shape).to(values.dtype if rng.integers(2) else torch.float32)
        what = f"{number} in {name}"
    elif choice == 2:
        shapes = (values.flatten(), values[None], values[:0], values[:1], torch.cat([values, values]), values.sum())
        tensors[name] = _pick(rng, shapes).contiguous().clone()
        what = f"{name} of shape {tuple(tensors[name].shape)}"
    else:
        del tensors[name]
        what = f"{name} left out"
    return save(tensors), what


def _any(card: dict[str, Any], rng: np.random.Generator) -> str:
    return damage_json(card, rng) if card else "nothing"


def _steps(card: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a card that may be damaged already."""
    steps = card.get("steps")
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def _count(card: dict[str, Any], rng: np.random.Generator) -> str:
    """A number of a layer or of the images."""
    layers = [step for step in _steps(card) if "layer" in step]
    if not layers or rng.random() < 0.1:
        card["input_shape"] = [_pick(rng, _COUNTS) for _ in range(int(_pick(rng, (3, 3, 3, 2, 4))))]
        return f"input_shape = {card['input_shape']!r:.60}"
    layer = _pick(rng, layers)
    key = _pick(rng, ("weight_bits", "activation_bits", "input_zero_point", "groups", "activation_scale", "zero_point",
                      "stride", "padding", "dilation", "partial_sums"))  # fmt: skip
    value = _pick(rng, (*_COUNTS, *NUMBERS) if key == "activation_scale" else _COUNTS)
    if key in ("stride", "padding", "dilation"):
        value = [value, _pick(rng, _COUNTS)] if rng.random() < 0.9 else value
    if key == "partial_sums":
        value = {"open_wordlines": 9, "cell_bits": 4, "lsb_units": 2.0, "highest": 255, "offset_units": 8}
        value[_pick(rng, sorted(value))] = _pick(rng, (*_COUNTS, *NUMBERS))
    layer[key] = value
    return f"{key} = {value!r:.60}"


def _step(card: dict[str, Any], rng: np.random.Generator) -> str:
    steps = card.get("steps")
    if not isinstance(steps, list):
        return "nothing"
    place, step = int(rng.integers(len(steps) + 1)), _pick(rng, _STEPS)
    steps.insert(place, copy.deepcopy(step))
    return f"step {step!r:.70} put at {place}"


def _moved(card: dict[str, Any], rng: np.random.Generator) -> str:
    steps = card.get("steps")
    if not isinstance(steps, list) or not steps:
        return "nothing"
    step = steps.pop(int(rng.integers(len(steps))))
    steps.insert(int(rng.integers(len(steps) + 1)), step)
    return "a step moved"


def _many(card: dict[str, Any], rng: np.random.Generator) -> str:
    steps, count = card.get("steps"), int(_pick(rng, (10, 1000, 20_000)))
    if not isinstance(steps, list):
        return "nothing"
    steps[1:1] = [_pick(rng, ({"step": "relu"}, {"step": "flatten"}, {"step": "leaky_relu"}))] * count
    return f"{count} steps more"


def _deep(card: dict[str, Any], rng: np.random.Generator) -> str:
    value: Any = 1
    for _ in range(int(_pick(rng, (10, 300)))):
        value = _pick(rng, ([value], {"a": value}))
    key = _pick(rng, ("facts", "name", "input_shape", "steps"))
    card[key] = value
    return f"{key} is deep"


def _name(card: dict[str, Any], rng: np.random.Generator) -> str:
    holder = _pick(rng, [card, *_steps(card)])
    key, value = _pick(rng, ("name", "layer", "step", "kind", "format", "inputs", "facts")), _pick(rng, TEXTS)
    if key == "facts":
        holder[key] = {"dataset": _pick(rng, ("digits", "mnist", value, 5, ["digits"]))}
    else:
        holder[key] = value
    return f"{key} = {value!r:.40}"


_CHANGES: tuple[Callable[[dict[str, Any], np.random.Generator], str], ...] = (
    _any, _any, _count, _count, _count, _step, _step, _moved, _many, _deep, _name,
)  # fmt: skip

KIND = Networks()
