"""Networks on disk: a safetensors file with the weights, and a JSON card beside it with everything else.

The layout is described in docs/formats/network.md. The files contain no pickled objects.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor
from torch.nn import functional as F

from cosim.arithmetic.partial_sums import PartialSums
from cosim.errors import NetworkError, OutputError, nearest
from cosim.files import check_replaceable, is_file, shipped, write_whole
from cosim.network.layers import IMAGES, MOST_VALUES, LayerSpec, Network, Step, chain
from cosim.network.software_step import SoftwareStep

FORMAT = "cosim-network-1"
# A damaged card must not fill the memory.
_LARGEST_WEIGHTS_BYTES = 1 << 30
_LARGEST_CARD_BYTES = 1 << 24
_GEOMETRY = ("stride", "padding", "dilation")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_NUMBERS = (*_FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def card_path(path: Path) -> Path:
    """The path of the card that belongs to a weights file."""
    return path.with_suffix(".json")


def shipped_networks() -> list[str]:
    """Names of the networks that come with cosim."""
    return sorted(path.stem for path in shipped("models", "networks").glob("*.safetensors"))


def load_network(name: str | Path) -> Network:
    """Load a network by the name of a shipped network, or by the path of its safetensors file.

    Raises:
        NetworkError: there is no such network, the file is not safetensors, the card does not fit the weights, or
            weights are NaN, infinite or beyond the levels.
    """
    path = Path(name)
    if path.suffix != ".safetensors" and not is_file(path):
        if str(name) not in shipped_networks():
            raise NetworkError(
                f"unknown network {str(name)!r}: {nearest(str(name), shipped_networks())} "
                "Otherwise give the path of a .safetensors file"
            )
        path = shipped("models", "networks", f"{name}.safetensors")
    if not is_file(path):
        raise NetworkError(f"no network file at {path}: check the path")
    card_file = card_path(path)
    if not is_file(card_file):
        raise NetworkError(f"expected the card {card_file.name} beside {path}, found none: keep the two together")
    weights, card_text = _read(path, _LARGEST_WEIGHTS_BYTES), _read(card_file, _LARGEST_CARD_BYTES)
    try:
        tensors = parse_tensors(weights)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise NetworkError(f"{path} is not a safetensors file ({error}): export the weights as safetensors") from error
    try:
        card = json.loads(card_text)
        if card["format"] != FORMAT:
            raise NetworkError(f"{card_file} has format {card['format']!r}, expected {FORMAT!r}: export it again")
        if card["weights_sha256"] != hashlib.sha256(weights).hexdigest():
            raise NetworkError(f"{card_file} is the card of other weights than {path.name}: keep the two together")
        channels, height, width = card["input_shape"]
        operations = [_operation_from(entry, tensors, path) for entry in card["steps"]]
        steps = [
            Step(entry.get("name", step.name), step.operation, tuple(entry.get("inputs", step.inputs)))
            for entry, step in zip(card["steps"], chain(operations), strict=True)
        ]
        layers = [operation for operation in operations if isinstance(operation, LayerSpec)]
        network = Network(
            card["name"],
            (channels, height, width),
            steps,
            float_weights=_float_weights(layers, tensors, path),
            card=_facts(card.get("facts", {})),
        )
        network.source = str(name)
        _check_shapes(network)
        return network
    except NetworkError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError) as error:
        raise NetworkError(
            f"{card_file} is not a card of a network ({type(error).__name__}: {error}): export it again"
        ) from error


def _read(path: Path, most: int) -> bytes:
    """The content of a file of at most so many bytes."""
    try:
        size = path.stat().st_size
        if size > most:
            raise NetworkError(f"{path} has {size >> 20} MiB, expected at most {most >> 20}: take a smaller network")
        return path.read_bytes()
    except OSError as error:
        raise NetworkError(f"cannot read {path}: {error.strerror}; check its permissions") from error


def check_weights_path(path: Path) -> None:
    """Raise NetworkError unless networks can be written to a path, by its name."""
    if path.suffix != ".safetensors":
        raise NetworkError(f"networks are written as .safetensors, found {path.name!r}: rename it")


def save_network(network: Network, path: str | Path, *, force: bool = False) -> None:
    """Write `path` (.safetensors) and its card beside it (.json), such that no reader sees a part of either.

    Args:
        network: the network.
        path: the path of the weights.
        force: whether to replace any files; otherwise only weights in safetensors and cards of networks are replaced.

    Raises:
        NetworkError: `path` does not end in .safetensors.
        OutputError: something else lies where a file is to be written, or it cannot be written.
        MachineError: the disk is full.
    """
    path = Path(path)
    check_weights_path(path)
    check_replaceable(path)
    check_replaceable(card_path(path))
    if not force:
        _check_same_kind(path)
    tensors: dict[str, Tensor] = {}
    for layer in network.layers:
        narrow = layer.weight.to(torch.int8)  # asymmetric 8-bit weights reach -255..255
        tensors[f"{layer.name}.weight"] = narrow if torch.equal(narrow, layer.weight) else layer.weight.to(torch.int16)
        tensors[f"{layer.name}.output_scale"] = layer.output_scale
        tensors[f"{layer.name}.output_bias"] = layer.output_bias
    for name, (weight, bias) in (network.float_weights or {}).items():
        tensors[f"float.{name}.weight"] = weight
        tensors[f"float.{name}.bias"] = bias
    # safetensors stores neither views nor tensors that share memory.
    tensors = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    weights = dump_tensors(tensors)
    card = {
        "format": FORMAT,
        "name": network.name,
        "input_shape": list(network.input_shape),
        "steps": [
            _entry_for(step.operation) | ({} if step == plain else {"name": step.name, "inputs": list(step.inputs)})
            for step, plain in zip(network.steps, chain(step.operation for step in network.steps), strict=True)
        ],
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "facts": network.card,
    }
    write_whole(path, weights)
    write_whole(card_path(path), json.dumps(card, indent=2) + "\n")


def _check_same_kind(path: Path) -> None:
    """Raise OutputError if the weights or their card would replace something else."""
    remedy = "choose another name, or pass force=True to replace it"
    if os.path.lexists(path):
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise OutputError(f"{path} exists and holds no weights in safetensors: {remedy}") from error
    card = card_path(path)
    if os.path.lexists(card):
        try:
            replaceable = json.loads(card.read_bytes())["format"] == FORMAT
        except (LookupError, OSError, RecursionError, TypeError, ValueError):
            replaceable = False
        if not replaceable:
            raise OutputError(f"{card} exists and is not the card of a network, which would replace it: {remedy}")


def _entry_for(step: LayerSpec | SoftwareStep) -> dict[str, Any]:
    if isinstance(step, SoftwareStep):
        return {"step": step.name, **step.arguments}
    entry: dict[str, Any] = {
        "layer": step.name,
        "kind": step.kind,
        "weight_bits": step.weight_bits,
        "zero_point": step.zero_point.tolist(),
        "input_zero_point": step.input_zero_point,
        "activation_bits": step.activation_bits,
        "activation_scale": step.activation_scale,
    }
    if step.partial_sums is not None:
        entry["partial_sums"] = asdict(step.partial_sums)
    if step.kind == "conv2d":
        entry |= {key: list(getattr(step, key)) for key in _GEOMETRY} | {"groups": step.groups}
    return entry


def _facts(given: Any) -> dict[str, Any]:
    """The facts of a card, which are free but for the data set."""
    if not isinstance(given, dict) or not isinstance(given.get("dataset"), str | None):
        raise NetworkError(
            f"the facts of a network must be names and values, and its dataset a name, found {str(given)[:80]!r}: "
            "write the card again"
        )
    return given


def _operation_from(entry: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> LayerSpec | SoftwareStep:
    if "step" in entry:
        arguments = {key: value for key, value in entry.items() if key not in ("step", "name", "inputs")}
        return SoftwareStep(entry["step"], arguments)
    name = entry["layer"]
    weight = _tensor(tensors, f"{name}.weight", path)
    if weight.is_floating_point() and not torch.equal(weight, weight.round()):
        raise NetworkError(f"{path}: {name}.weight must hold integers, found fractions: quantize the network first")
    if weight.numel() and max(abs(int(weight.min())), abs(int(weight.max()))) > 255:
        raise NetworkError(f"{path}: {name}.weight must be within -255..255: quantize the network to 8 bits or less")
    return LayerSpec(
        name=name,
        kind=entry["kind"],
        weight=weight.to(torch.int32),
        weight_bits=entry["weight_bits"],
        zero_point=torch.tensor(entry["zero_point"], dtype=torch.int32).expand(len(weight)).contiguous(),
        input_zero_point=entry.get("input_zero_point", 0),
        activation_bits=entry["activation_bits"],
        activation_scale=entry["activation_scale"],
        output_scale=_tensor(tensors, f"{name}.output_scale", path).to(torch.float32),
        output_bias=_tensor(tensors, f"{name}.output_bias", path).to(torch.float32),
        groups=entry.get("groups", 1),
        partial_sums=_partial_sums(entry),
        **{key: tuple(entry[key]) for key in _GEOMETRY if key in entry},
    )


def _partial_sums(entry: dict[str, Any]) -> PartialSums | None:
    given = entry.get("partial_sums")
    return None if given is None else PartialSums(**given)


def _tensor(tensors: dict[str, Tensor], key: str, path: Path) -> Tensor:
    if key not in tensors:
        raise NetworkError(f"{path} lacks the tensor {key!r} that its card names: {nearest(key, tensors)}")
    if tensors[key].dtype not in _NUMBERS:
        raise NetworkError(f"{path}: {key} must hold numbers, found {tensors[key].dtype}: export it again")
    if not torch.isfinite(tensors[key]).all():
        raise NetworkError(f"{path}: {key} holds NaN or infinite values: train or export it again")
    return tensors[key]


def _float_weights(
    layers: list[LayerSpec], tensors: dict[str, Tensor], path: Path
) -> dict[str, tuple[Tensor, Tensor]] | None:
    if not any(key.startswith("float.") for key in tensors):
        return None
    found = {}
    for layer in layers:
        weight, bias = (_tensor(tensors, f"float.{layer.name}.{part}", path) for part in ("weight", "bias"))
        if weight.shape != layer.weight.shape or bias.shape != layer.output_bias.shape:
            raise NetworkError(
                f"{path}: float weights and bias of {layer.name!r} must have the shapes of its weights and output "
                f"bias, found {tuple(weight.shape)} and {tuple(bias.shape)}: export it again"
            )
        found[layer.name] = weight.to(torch.float32), bias.to(torch.float32)
    return found


def _check_shapes(network: Network) -> None:
    """Raise NetworkError unless a network turns an image into logits, without too many values on the way.

    Only shapes are computed, without any image, so that a damaged card takes neither time nor memory.
    """
    results = {IMAGES: torch.empty(0, *network.input_shape)}
    values = 0
    for step in network.steps:
        inputs, operation = [results[needed] for needed in step.inputs], step.operation
        result = _sums(operation, *inputs) if isinstance(operation, LayerSpec) else operation(*inputs)
        values += math.prod(result.shape[1:])
        if values > MOST_VALUES:
            raise NetworkError(
                f"network {network.name!r} computes more than {MOST_VALUES} values for an image, in step {step.name!r} "
                f"those of shape {tuple(result.shape)}: write the card again"
            )
        results[step.name] = result
    logits = results[network.steps[-1].name]
    if logits.ndim != 2 or len(logits) != 0:
        raise NetworkError(f"network {network.name!r} must end in (images, classes) logits: add the missing steps")


def _sums(layer: LayerSpec, x: Tensor) -> Tensor:
    """The shape of a layer's output."""
    sums = F.conv2d(layer.quantize_input(x), layer.weight.to(torch.float32), **layer.geometry())
    return sums[:, :, 0, 0] if layer.kind == "linear" else sums
