"""Networks on disk: a safetensors file with the weights, and a JSON card beside it with everything else.

The layout is described in docs/formats/network.md. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from cosim.errors import NetworkError, nearest
from cosim.files import shipped, write_whole
from cosim.network.layers import LayerSpec, Network, SoftwareStep

FORMAT = "cosim-network-1"
_GEOMETRY = ("stride", "padding", "dilation")


def card_path(path: Path) -> Path:
    """Where the card of a weights file lies."""
    return path.with_suffix(".json")


def shipped_networks() -> list[str]:
    """Names of the networks that come with cosim."""
    return sorted(path.stem for path in shipped("networks").glob("*.safetensors"))


def load_network(name: str | Path) -> Network:
    """A network by the name of a shipped one, or by the path of its safetensors file.

    Raises:
        NetworkError: no such network, a file that is not safetensors, a card that does not fit the weights,
            weights that are NaN, infinite or beyond the levels.
    """
    path = Path(name)
    if path.suffix != ".safetensors" and not path.exists():
        if str(name) not in shipped_networks():
            raise NetworkError(
                f"unknown network {str(name)!r}: {nearest(str(name), shipped_networks())}; "
                "or give the path of a .safetensors file"
            )
        path = shipped("networks", f"{name}.safetensors")
    if not path.is_file():
        raise NetworkError(f"no network file at {path}: check the path")
    card_file = card_path(path)
    if not card_file.is_file():
        raise NetworkError(f"expected the card {card_file.name} beside {path}, found none: keep the two together")
    try:
        tensors = parse_tensors(path.read_bytes())
    except (SafetensorError, KeyError, ValueError) as error:
        raise NetworkError(f"{path} is not a safetensors file ({error}): export the weights as safetensors") from error
    try:
        card = json.loads(card_file.read_text(encoding="utf-8"))
        if card["format"] != FORMAT:
            raise NetworkError(f"{card_file} has format {card['format']!r}, expected {FORMAT!r}: export it again")
        channels, height, width = card["input_shape"]
        steps = [_step_from(entry, tensors, path) for entry in card["steps"]]
        names = [step.name for step in steps if isinstance(step, LayerSpec)]
        network = Network(
            card["name"],
            (channels, height, width),
            steps,
            float_weights=_float_weights(names, tensors, path),
            card=card.get("facts", {}),
        )
        network.source = str(name)
        return network
    except (
        json.JSONDecodeError,
        UnicodeDecodeError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise NetworkError(
            f"{card_file} is no card of a network ({type(error).__name__}: {error}): export it again"
        ) from error


def save_network(network: Network, path: Path) -> None:
    """Write `path` (.safetensors) and its card; each is written whole."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise NetworkError(f"networks are written as .safetensors, found {path.name!r}: rename it")
    tensors: dict[str, Tensor] = {}
    for layer in network.layers:
        tensors[f"{layer.name}.weight"] = layer.weight.to(torch.int8)
        tensors[f"{layer.name}.output_scale"] = layer.output_scale
        tensors[f"{layer.name}.output_bias"] = layer.output_bias
    for name, (weight, bias) in (network.float_weights or {}).items():
        tensors[f"float.{name}.weight"] = weight
        tensors[f"float.{name}.bias"] = bias
    # safetensors stores neither views nor tensors that share memory.
    tensors = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    card = {
        "format": FORMAT,
        "name": network.name,
        "input_shape": list(network.input_shape),
        "steps": [_entry_for(step) for step in network.steps],
        "facts": network.card,
    }
    write_whole(path, dump_tensors(tensors))
    write_whole(card_path(path), json.dumps(card, indent=2) + "\n")


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
    if step.kind == "conv2d":
        entry |= {key: list(getattr(step, key)) for key in _GEOMETRY} | {"groups": step.groups}
    return entry


def _step_from(entry: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> LayerSpec | SoftwareStep:
    if "step" in entry:
        arguments = dict(entry)
        return SoftwareStep(arguments.pop("step"), arguments)
    name = entry["layer"]
    weight = _tensor(tensors, f"{name}.weight", path)
    if weight.is_floating_point() and not torch.equal(weight, weight.round()):
        raise NetworkError(f"{path}: {name}.weight must hold integers, found fractions: quantize the network first")
    return LayerSpec(
        name=name,
        kind=entry["kind"],
        weight=weight.to(torch.int32),
        weight_bits=entry["weight_bits"],
        zero_point=torch.tensor(entry["zero_point"], dtype=torch.int32).expand(len(weight)).contiguous(),
        input_zero_point=entry.get("input_zero_point", 0),
        activation_bits=entry["activation_bits"],
        activation_scale=entry["activation_scale"],
        output_scale=_tensor(tensors, f"{name}.output_scale", path),
        output_bias=_tensor(tensors, f"{name}.output_bias", path),
        groups=entry.get("groups", 1),
        **{key: tuple(entry[key]) for key in _GEOMETRY if key in entry},
    )


def _tensor(tensors: dict[str, Tensor], key: str, path: Path) -> Tensor:
    if key not in tensors:
        raise NetworkError(f"{path} lacks the tensor {key!r} that its card names: {nearest(key, tensors)}")
    if not torch.isfinite(tensors[key]).all():
        raise NetworkError(f"{path}: {key} holds NaN or infinite values: train or export it again")
    return tensors[key]


def _float_weights(names: list[str], tensors: dict[str, Tensor], path: Path) -> dict[str, tuple[Tensor, Tensor]] | None:
    if not any(key.startswith("float.") for key in tensors):
        return None
    return {n: (_tensor(tensors, f"float.{n}.weight", path), _tensor(tensors, f"float.{n}.bias", path)) for n in names}
