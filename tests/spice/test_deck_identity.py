"""Decks stay the same byte for byte, so that stores stay valid.

Golden data: tests/spice/deck_identities.json, written again by `python -m tests.spice.test_deck_identity`. Write it
again only for a change that is meant to change what is simulated, and say so in the changelog: it empties every store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cosim.arithmetic.patterns import pattern_bits
from cosim.config import Config
from cosim.device import CURVE_SHIFTS, load_card
from cosim.mapping import deck_patterns, plan_tiles
from cosim.netlist import ArrayDecks, ClosedCells, Deck, closed_deck, curve_deck, sweep_deck
from tests.conftest import make_layer

GOLDEN = Path(__file__).parent / "deck_identities.json"
SHIFTS = np.linspace(5.0, -1.0, 24)
CLOSED = ClosedCells(np.geomspace(1e-13, 1e-12, 24), np.linspace(1e-17, 3e-17, 24))
CONFIGURATIONS = {
    "default": [],
    "dc": ["run.fidelity=dc"],
    "careful": [],
    "chip": [],
    "hot and fast": ["corner.process=ff", "corner.temperature_c=125", "corner.supply=1.1"],
    "level 0 off": ["cell.offset_units=0", "cell.full_scale_a=6e-6"],
    "no wires": ["array.bitline_res_ohm=0", "run.fidelity=dc"],
    "whole tiles": ["array.wordlines=27", "array.closed_wordlines=cells"],
    "closed cells omitted": ["array.closed_wordlines=omitted"],
    "source lines": ["array.source_res_ohm=5", "array.source_cap_f=1e-16"],
    "every wire": ["array.source_res_ohm=5", "array.wordline_res_ohm=20", "array.wordline_cap_f=2e-16",
                   "array.coupling_cap_f=1e-16"],
    "resistive stage": ["sense.stage=resistive"],
    "transistor stage": ["sense.stage=transistor"],
    "differential": ["array.encoding=differential"],
    "amplitude": ["read.mode=amplitude"],
    "amplitude, source lines": ["read.mode=amplitude", "array.source_res_ohm=5", "array.source_line_wordlines=1",
                                "run.fidelity=dc"],
    "another card": ["cell.card=nor65-coupled"],
    "five open wordlines": ["array.open_wordlines=5"],
}  # fmt: skip


def array_deck(name: str) -> Deck:
    """The deck of the last group of a small layer, read in part of the patterns."""
    overrides = list(CONFIGURATIONS[name])
    amplitude = any("amplitude" in override for override in overrides)
    if amplitude and not any("source_line_wordlines" in override for override in overrides):
        overrides.append("array.source_line_wordlines=1")
    config = Config.load(None, overrides)
    plan = plan_tiles(make_layer(outputs=5, inputs=3), config.array, config.cell, transposed=amplitude)
    group = plan.groups[-1]
    needed = np.arange(0, 2**group.inputs, 37)
    (patterns, *_) = deck_patterns(needed, group.inputs, 64)
    drive = pattern_bits(patterns, group.inputs)
    if amplitude:
        drive = drive * np.arange(1, len(drive) + 1)[:, None] / len(drive)
    rng = np.random.default_rng(0)
    shifts = SHIFTS[group.units] + 0.02 * rng.standard_normal(group.units.shape) if name == "chip" else None
    card = load_card(config.cell.card)
    decks = ArrayDecks(card, SHIFTS, config, CLOSED)
    return decks.deck(group, drive, ("a comment",), careful=name == "careful", shifts=shifts)


def every_deck() -> Iterator[tuple[str, Deck]]:
    """The decks, each with its name."""
    for name in CONFIGURATIONS:
        yield name, array_deck(name)
    config, card = Config(), load_card("nor65")
    amplitude = Config.load(None, ["read.mode=amplitude", "array.source_line_wordlines=1"])
    yield "curve", curve_deck(card, CURVE_SHIFTS, np.full(len(CURVE_SHIFTS), 0.1), config)
    yield "closed cells, curve", curve_deck(card, SHIFTS, np.full(len(SHIFTS), 0.1), config, wordline_v=0.0)
    yield "closed cells", closed_deck(card, SHIFTS, config)
    yield "closed cells, amplitude", closed_deck(card, SHIFTS, amplitude)
    yield "transfer", sweep_deck(card, SHIFTS, config, bitline_v=0.1, step_v=0.05, stop_v=5.0)
    yield "output", sweep_deck(card, SHIFTS, config, wordline_v=4.0, step_v=0.01, stop_v=1.0)


def identities() -> dict[str, str]:
    return {name: deck.identity("ngspice-39") for name, deck in every_deck()}


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    return identities()


@pytest.mark.parametrize("name", json.loads(GOLDEN.read_text()) if GOLDEN.exists() else [])
def test_a_deck_is_what_it_was(name: str, found: dict[str, str]) -> None:
    assert found[name] == json.loads(GOLDEN.read_text())[name]


def test_every_deck_has_its_hash(found: dict[str, str]) -> None:
    assert found.keys() == json.loads(GOLDEN.read_text()).keys()


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(identities(), indent=1) + "\n")
