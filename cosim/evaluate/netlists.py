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
from cosim.files import write_whole
from cosim.folders import whole_folder
from cosim.netlist import Deck
from cosim.progress import progress_bar

FORMAT = "cosim-manifest-1"


def write_netlists(arrays: Sequence[ArrayLayer], source: SpiceSource, network: str, folder: Path, force: bool) -> Path:
    """Write the decks of all layers, their cards and manifest.json.

    Args:
        arrays: the layers.
        source: where their decks come from.
        network: the network's name.
        folder: where the files go.
        force: whether to replace the files that cosim wrote there earlier.

    Returns:
        the path of the manifest.

    Raises:
        ConfigError: a layer has too many patterns to write a deck for each.
        OutputError: the folder is not empty and `force` is not given, or it holds what cosim did not write.
    """
    for array in arrays:
        if not array.scheme.listed:
            raise ConfigError(
                f"layer {array.layer.name!r} has groups of {array.scheme.inputs} inputs, too many patterns to "
                'write a deck for each: set array.open_wordlines=9 and, with amplitude reads, read.mixed="nested"'
            )
    with whole_folder(folder, force=force) as new:
        entries = _write_decks(arrays, source, new)
        manifest = {
            "format": FORMAT,
            "network": network,
            "engine": source.identity,
            "unit_a": source.config.cell.unit_a,
            "config": source.config.to_record(),
            "decks": entries,
        }
        write_whole(new / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return folder / "manifest.json"


def deck_name(array: ArrayLayer, group: int, part: int | str) -> str:
    """File name, without the suffix, of a deck of a layer's group."""
    return f"{array.layer.name}_g{group}_{part}"


def _write_decks(arrays: Sequence[ArrayLayer], source: SpiceSource, folder: Path) -> list[dict[str, Any]]:
    """Write every deck, and the cards. Returns the decks' entries in the manifest."""
    entries = []
    cards: dict[str, str] = {}
    groups = sum(len(array.plan.groups) for array in arrays)
    with progress_bar("writing decks", groups) as advance:
        for array in arrays:
            last, part = -1, 0
            for index, request in array.reader.every_request():
                part = part + 1 if index == last else 0
                advance(index != last)
                last = index
                name, deck = deck_name(array, index, part), source.deck(request)
                write_whole(folder / f"{name}.cir", deck.text(f"{name}.raw"))
                cards |= deck.cards  # the same of every deck, since they have one configuration
                entries.append(_entry(array, index, name, request, deck, source.identity))
    for card, text in cards.items():
        write_whole(folder / card, text)
    return entries


def _entry(array: ArrayLayer, index: int, name: str, request: ReadRequest, deck: Deck, engine: str) -> dict[str, Any]:
    """What the manifest says about a deck."""
    group = request.group
    return {
        "file": f"{name}.cir",
        "raw": f"{name}.raw",
        "identity": deck.identity(engine),
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
