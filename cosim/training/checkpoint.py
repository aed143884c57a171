"""Checkpoints of a training: one safetensors file holds everything that the training needs to continue.

The file contains no pickled objects, so reading it runs no code.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cosim.errors import NetworkError
from cosim.files import write_whole

FORMAT = "cosim-checkpoint-1"


def save_checkpoint(
    path: Path,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    identity: dict[str, Any],
    history: list[dict[str, float]],
) -> None:
    """Write the state of a training to a file, whole or not at all.

    Args:
        identity: facts that a training must share to continue from this checkpoint; anything that JSON can hold.
        history: loss, accuracy and time of each epoch so far.
    """
    state = optimizer.state_dict()
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    for number, values in state["state"].items():
        # Some optimizers keep plain numbers as well as tensors.
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in values.items()}
    # safetensors accepts neither views nor channels-last tensors, so contiguous copies are stored.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }
    facts = {
        "format": FORMAT,
        "identity": identity,
        "history": history,
        "groups": state["param_groups"],
        "schedule": {key: value for key, value in schedule.state_dict().items() if _is_plain(value)},
    }
    write_whole(path, save(tensors, metadata={"cosim": json.dumps(facts)}))


def load_checkpoint(
    path: Path,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    identity: dict[str, Any],
) -> list[dict[str, float]]:
    """Restore the state of a training from its checkpoint, and return its history.

    Raises:
        NetworkError: the checkpoint is missing or damaged, or it belongs to another network or training.
    """
    remedy = f"remove {path} to start again, or write to another file"
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["cosim"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise NetworkError(f"{path} is not a checkpoint of a training ({error}): {remedy}") from error
    found = facts.get("identity", {})
    if facts.get("format") != FORMAT or found != json.loads(json.dumps(identity)):
        differing = sorted(key for key in {*found, *identity} if found.get(key) != identity.get(key))
        raise NetworkError(
            f"{path} is the checkpoint of another training, which differs in {', '.join(differing) or 'its format'}: "
            f"{remedy}"
        )
    try:
        net.load_state_dict(_with_prefix("net.", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _with_prefix("optimizer.", tensors).items():
            number, _, part = name.partition(".")
            state.setdefault(int(number), {})[part] = value
        optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})
        schedule.load_state_dict(facts["schedule"])
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])
        return list(facts["history"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise NetworkError(f"{path} is the checkpoint of another network ({error}): {remedy}") from error


def digest_of(net: nn.Module) -> str:
    """SHA-256 of a network's parameters and statistics, which identifies the trainings that start from them."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
