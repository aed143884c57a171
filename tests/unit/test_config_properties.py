"""Properties of configurations, tried on whatever hypothesis thinks of.

Keys in their ranges are taken or refused together, whichever way a configuration is made from them, and one that is
taken comes back the same from every way, and describes decks of nothing but names and numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from cosim.config import Config
from cosim.config.configuration import MACHINE_KEYS
from cosim.device import load_card, shipped_cards
from cosim.device.parser import parse_card
from cosim.errors import CardError, ConfigError, NetworkError
from cosim.mapping import plan_tiles
from cosim.netlist import ArrayDecks, ClosedCells
from tests.config_ways import Keys, config_ways
from tests.conftest import make_layer
from tests.deck_grammar import smuggled, smuggled_into_card
from tests.unit.test_card import CELL

THOROUGH = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
# Texts of these keys are checked elsewhere, where they are used.
TEXTS = {"cell.card": st.sampled_from(shipped_cards()), "cell.subcircuit": st.none(), "cell.shift_parameter": st.none()}
FREE_TEXT = st.text(st.characters(codec="utf-8").filter(str.isprintable), max_size=20)
# Tiles beyond this have decks that take seconds.
MOST_CELLS = 2000


def value_of(section: str, key: str) -> st.SearchStrategy[Any]:
    """Values of a key: its default, any in its range, or one not far from the default."""
    name, field = f"{section}.{key}", type(getattr(Config(), section)).model_fields[key]
    if name in TEXTS:
        return TEXTS[name]
    default = Config().value(name)
    limits = {side: getattr(limit, side) for limit in field.metadata for side in ("ge", "gt", "le", "lt")
              if hasattr(limit, side)}  # fmt: skip
    choices = [st.just(default)]
    for kind in get_args(field.annotation) or (field.annotation,):
        if kind is int:
            choices += integers(default, limits.get("ge", 1), limits.get("le", limits.get("lt", 17) - 1))
        elif kind is float:
            choices += floats(default, limits)
        elif kind is bool:
            choices.append(st.booleans())
        elif kind is type(None) or isinstance(kind, str):
            choices.append(st.just(None if kind is type(None) else kind))
        else:  # the words of a choice, or any text
            choices += [st.just(word) for word in get_args(kind)] or [FREE_TEXT]
    return st.one_of(choices)


def integers(default: Any, low: int, high: int) -> list[st.SearchStrategy[int]]:
    near = 2 * default + 8 if isinstance(default, int) else 16
    return [st.integers(low, high), st.integers(low, max(low, min(near, high)))]


def floats(default: Any, limits: dict[str, float]) -> list[st.SearchStrategy[float]]:
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    assert low is not None
    assert high is not None
    around = default if isinstance(default, float) and default else low or 1e-3
    near = (min(max(bound, low), high) for bound in sorted((around / 2, 2 * around)))
    return [st.floats(low, high, exclude_min="gt" in limits, exclude_max="lt" in limits), st.floats(*near)]


EVERY_KEY = [(section, key) for section in Config.model_fields for key in type(getattr(Config(), section)).model_fields]
KEYS = st.lists(st.sampled_from(EVERY_KEY), max_size=8, unique=True).flatmap(
    lambda chosen: st.fixed_dictionaries({f"{section}.{key}": value_of(section, key) for section, key in chosen})
)


def nested(values: dict[str, Any]) -> Keys:
    keys: Keys = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        keys.setdefault(section, {})[key] = value
    return keys


@THOROUGH
@given(KEYS)
def test_every_way_takes_the_same_keys_and_refuses_the_same(tmp_path: Path, values: dict[str, Any]) -> None:
    found = {}
    for way, make in config_ways(nested(values), tmp_path).items():
        try:
            found[way] = make()
        except ConfigError as error:
            found[way] = str(error).rpartition("configuration: ")[2].rpartition("config.toml: ")[2]
    event("taken" if isinstance(found["a dictionary"], Config) else "refused")
    assert all(outcome == found["a dictionary"] for outcome in found.values()), found


@THOROUGH
@given(KEYS)
def test_a_configuration_comes_back_as_it_went(tmp_path: Path, values: dict[str, Any]) -> None:
    config = taken(values)
    for make in config_ways(config.model_dump(), tmp_path).values():
        assert make() == config
    record = json.loads(json.dumps(config.to_record(), allow_nan=False))
    assert Config.from_record(record).on_machine(config) == config
    assert all(name not in record[section] for section, _, name in (key.partition(".") for key in MACHINE_KEYS))


@THOROUGH
@given(KEYS, st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
def test_decks_are_names_and_numbers(values: dict[str, Any], outputs: int, inputs: int, kernel: int) -> None:
    config = taken(values)
    array, transposed = config.array, config.read.mode == "amplitude"
    assume(array.wordlines * array.bitlines <= MOST_CELLS or (array.closed_wordlines != "cells" and not transposed))
    card, shifts = load_card(config.cell.card), np.linspace(3, -1, config.cell.most_units + 1)
    layer = make_layer(outputs=outputs, inputs=inputs, kernel=(kernel, kernel), weight_bits=config.cell.bits)
    try:
        plan = plan_tiles(layer, array, config.cell, transposed=transposed)
    except NetworkError:  # a tile is too small for an output
        assume(False)
    closed = ClosedCells(np.full(len(shifts), 1e-13), np.full(len(shifts), 1e-17))
    for group in (plan.groups[0], plan.groups[-1]):
        drive = np.linspace(0, 1, 3 * group.inputs).reshape(3, -1) if transposed else np.eye(3, group.inputs)
        deck = ArrayDecks(card, shifts, config, closed).deck(group, drive, ("a\n.control",), careful=outputs % 2 == 0)
        assert smuggled(deck) is None


def taken(values: dict[str, Any]) -> Config:
    """A configuration of the keys, one by one, without those that contradict what is there already."""
    config = Config()
    for key, value in values.items():
        try:
            config = config.with_values({key: value})
        except ConfigError:
            event(f"{key} was left out")
    return config


# Cards.
NUMBERS = st.floats(-1e29, 1e29).map(repr) | st.integers(0, 10**6).map(str) | st.sampled_from(["1k", "2.5meg", "0.1u"])
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)


@st.composite
def expressions(draw: st.DrawFn, names: list[str], depth: int = 0) -> str:
    """An expression of numbers, names and functions."""
    inner = expressions(names, depth + 1)
    match draw(st.integers(0, 1 if depth > 3 else 6)):
        case 0:
            return draw(st.floats(1e-3, 1e3).map(repr))
        case 1:
            return draw(st.sampled_from(names))
        case 2:
            return f"({draw(inner)})"
        case 3:
            return f"{draw(st.sampled_from(['-', '+']))}{draw(inner)}"
        case 4:
            return f"{draw(st.sampled_from(['abs', 'tanh']))}({draw(inner)})"
        case 5:
            return f"{draw(st.sampled_from(['min', 'max']))}( {draw(inner)}, {draw(inner)} )"
    return f"{draw(inner)} {draw(st.sampled_from(['+', '-', '*']))} {draw(inner)}"


@st.composite
def cards(draw: st.DrawFn) -> str:
    """A card of a model and a subcircuit."""
    values = draw(st.dictionaries(NAMES, NUMBERS, max_size=5))
    free = expressions(["dvt", "w"])
    source = draw(expressions(["dvt", "w", "v(drain)", "v(gate, source)"]))
    return "\n".join(
        [
            f".model q nmos level=1 {' '.join(f'{key}={value}' for key, value in values.items() if key != 'level')}",
            ".subckt mine drain gate source body dvt=0 w=1u",
            f"b1 a 0 v = {source}",
            f"r1 a drain {{{draw(free)}}}",
            "m1 drain a source body q w={w}",
            ".ends",
        ]
    )


@THOROUGH
@given(cards())
def test_any_card_gives_text_of_names_and_numbers_and_is_read_again(text: str) -> None:
    section = parse_card("user", text).at("tt")
    assert smuggled_into_card(section.text()) is None
    again = parse_card("user", section.text().replace("cosim_", "")).at("tt")
    assert smuggled_into_card(again.text()) is None
    assert again.models == section.models
    assert again.subcircuits.keys() == section.subcircuits.keys()


@THOROUGH
@given(st.text("0123456789.+-eEkmugt{}()*/ $;`'\"=\n\\x", max_size=100))
def test_whatever_stands_for_a_number_is_one_or_refused(text: str) -> None:
    try:
        card = parse_card("user", f".model q nmos level=54 vth0={text}\n")
    except CardError:
        return
    assert smuggled_into_card(card.at("tt").text()) is None


@pytest.mark.parametrize(
    "line",
    [
        "+ k1=0{ shell touch x }", "+ k1=1e300", "+ k1={1e31}", "+ k1=" + "0" * 65, "+ k1={system(1)}", "+ k1={(1}",
        "+ k1=`id`", "+ k1=1 k2=2", ".include x", ".control", "shell x", "b1 a 0 v=1;2", "b1 a 0 v=a b", "r1 a b $x",
        ".model cosim_q nmos file=x", ".subckt cosim_a d g x=y", "* a comment", ".param a=b c=d", "x1 a b cosim_q",
    ],
)  # fmt: skip
def test_the_grammar_of_a_card_knows_what_is_smuggled(line: str) -> None:
    good = parse_card("user", CELL).at("tt").text()
    assert smuggled_into_card(good) is None
    assert smuggled_into_card(f"{good}{line}\n") == line
