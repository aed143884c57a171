"""Writes every deck of a network as a file that can be run by hand, and a manifest that describes the decks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosim.currents import ReadRequest, SpiceSource
from cosim.errors import ConfigError
from cosim.evaluate.array_layer import ArrayLayer
from cosim.files import new_folder, write_whole
from cosim.progress import progress_bar

FORMAT = "cosim-manifest-1"


def write_netlists(arrays: Sequence[ArrayLayer], source: SpiceSource, network: str, folder: Path, force: bool) -> Path:
    """Write the decks of all layers, their cards and manifest.json.

    Args:
        arrays: the layers.
        source: where their decks come from.
        network: the network's name.
        folder: where the files go.
        force: whether to write to a folder that is not empty.

    Returns:
        the path of the manifest.

    Raises:
        ConfigError: a layer has too many patterns to write a deck for each.
        OutputError: the folder is not empty and `force` is not given.
    """
    for array in arrays:
        if not array.plan.enumerated:
            raise ConfigError(
                f"layer {array.layer.name!r} has groups of {max(array.plan.stream_inputs())} wordlines, too many "
                "patterns to write a deck for each: set array.open_wordlines=9"
            )
    new_folder(folder, folder, force=force)
    entries = []
    groups = sum(len(array.plan.groups) for array in arrays)
    with progress_bar("writing decks", groups) as advance:
        for array in arrays:
            last, part = -1, 0
            for index, request in array.reader.every_request():
                part = part + 1 if index == last else 0
                advance(index != last)
                last = index
                entries.append(_write_deck(array, index, request, source, part, folder))
    manifest = {
        "format": FORMAT,
        "network": network,
        "engine": source.identity,
        "unit_a": source.config.cell.unit_a,
        "config": source.config.model_dump(),
        "decks": entries,
    }
    write_whole(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return folder / "manifest.json"


def deck_name(array: ArrayLayer, group: int, part: int | str) -> str:
    """File name, without the suffix, of a deck of a layer's group."""
    return f"{array.layer.name}_g{group}_{part}"


def _write_deck(
    array: ArrayLayer, index: int, request: ReadRequest, source: SpiceSource, part: int, folder: Path
) -> dict[str, Any]:
    """Write one deck and its cards. Returns the deck's entry in the manifest."""
    deck, group = source.deck(request), request.group
    name = deck_name(array, index, part)
    write_whole(folder / f"{name}.cir", deck.text(f"{name}.raw"))
    for card, text in deck.cards.items():
        if not (folder / card).exists():
            write_whole(folder / card, text)
    return {
        "file": f"{name}.cir",
        "raw": f"{name}.raw",
        "identity": deck.identity(source.identity),
        "layer": array.layer.name,
        "tile": group.tile,
        "group": index,
        "wordlines": [group.first_input, group.first_input + group.inputs],
        "rows": list(group.rows),
        "outputs": list(group.outputs),
        "bitlines": list(deck.sources),
        "patterns": ((request.drive > 0) @ (1 << np.arange(group.inputs))).tolist(),
        "amplitudes": request.drive.max(axis=1).tolist(),
        "sample_at": deck.samples.tolist(),
    }
