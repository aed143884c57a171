"""Computes a network's logits in software once, and keeps them in the store beside the results of circuits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from cosim.datasets import Dataset
from cosim.files import source_digest
from cosim.network import LayerSpec, Network
from cosim.progress import progress_bar
from cosim.spice import Store

_FORMAT = "cosim-answer-1"
_DECIDING = ("arithmetic", "network")


def software_logits(network: Network, dataset: Dataset, store: Store | None, batch: int) -> np.ndarray:
    """Logits (images, classes) of the integer network, float32.

    Args:
        network: the network.
        dataset: the images.
        store: where logits are kept, or None to compute them anew.
        batch: how many images are computed at a time.
    """
    return _logits("integer network", network, network.__call__, dataset, store, batch)


def float_logits(network: Network, dataset: Dataset, store: Store | None, batch: int) -> np.ndarray | None:
    """Logits of the float network that the network was quantized from, or None if that is not known."""
    if network.float_weights is None:
        return None
    return _logits("float network", network, network.forward_float, dataset, store, batch)


def content_digest(network: Network, dataset: Dataset) -> str:
    """SHA-256 of a network's steps and weights, its float weights included, and of images and labels."""
    digest = hashlib.sha256()
    for step in network.steps:
        operation = step.operation
        values = vars(operation) if isinstance(operation, LayerSpec) else asdict(operation)
        digest.update(repr((step.name, step.inputs)).encode())
        for name, value in values.items():
            digest.update(f"\0{name}\0".encode())
            digest.update(value.numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    for name, tensors in sorted((network.float_weights or {}).items()):
        digest.update(f"\0float {name}\0".encode())
        for tensor in tensors:
            digest.update(tensor.numpy().tobytes())
    digest.update(dataset.images.numpy().tobytes())
    digest.update(dataset.labels.numpy().tobytes())
    digest.update(repr(dataset.full_scale).encode())
    return digest.hexdigest()


def _logits(
    kind: str,
    network: Network,
    forward: Callable[[Tensor], Tensor],
    dataset: Dataset,
    store: Store | None,
    batch: int,
) -> np.ndarray:
    parts = (_FORMAT, kind, content_digest(network, dataset), source_digest(_DECIDING), torch.__version__)
    identity = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    kept = store.load_answer(identity, (len(dataset), None)) if store is not None else None
    if kept is not None:
        return kept
    computed = []
    with progress_bar(kind, len(dataset)) as advance, torch.no_grad():
        for first in range(0, len(dataset), batch):
            computed.append(forward(dataset.real(first, first + batch)))
            advance(len(computed[-1]))
    logits = torch.cat(computed).numpy()
    if store is not None:
        store.save_answer(identity, logits)
    return logits
