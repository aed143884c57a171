"""Configurations from TOML files, profiles and --set: they survive a round trip, and their decks have only numbers."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cosim.config import Config
from cosim.device import load_card
from cosim.files import shipped
from cosim.mapping import plan_tiles
from cosim.netlist import ArrayDecks, ClosedCells, curve_deck
from tests.config_ways import config_ways, toml_of
from tests.conftest import make_layer
from tests.deck_grammar import smuggled
from tests.fuzz.kind import Finding, Kind, Place, command
from tests.fuzz.values import NUMBERS, TEXTS, any_value, damage_bytes

# Share of configurations that are given to `cosim info`, which takes half a second.
_INFO = 1 / 20
# Decks with every cell of a larger tile are not checked.
_MOST_CELLS = 4096
_SMUGGLED = ("x\n.control\nshell touch executed\n.endc", "0}{", "1 .include users.txt", "$(touch executed)",
             "`touch executed`", "/etc/passwd", "/dev/zero", "nor65.card", "..", "a\0b", "\ud800", "a" * 5000,
             "tt\n.end", "conv1,conv1", "conv*", "none", "None", "null", "true", "lossless", "1e400", "[1]", "{a=1}",
             '"', "'", "\\", "2026-11-21", "0x10", "1_000", "inf", "-inf", "nan", "1979-05-27T07:32:00Z", "#",
             "= 1", "9" * 5000)  # fmt: skip
_OVERRIDES = ("", "=", "a", "a.b", "a.b=", ".=1", "array=1", "array.=1", "array.bits", "a.b.c=1",
              "array.wordlines.x=1", "=array.wordlines", *_SMUGGLED)  # fmt: skip


class Configurations(Kind):
    """Keys with other values, TOML damaged as bytes or in its structure, and overrides."""

    programs = frozenset({"uname"})  # Python's platform module asks it for the processor

    def prepare(self, originals: Path) -> None:
        for path in shipped("profiles").glob("*.toml"):
            (originals / path.name).write_bytes(path.read_bytes())
        (originals / "every.toml").write_text(toml_of(Config().model_dump()))
        (originals / "few.toml").write_text("[array]\nopen_wordlines = 5\n[cell]\nbits = 3\n[run]\nfidelity = 'dc'\n")
        (originals / "amplitude.toml").write_text(
            '[read]\nmode = "amplitude"\n[array]\nsource_line_wordlines = 1\nsource_res_ohm = 5.0\n'
        )
        (originals / "stage.toml").write_text('[sense]\nstage = "transistor"\n[cell]\ncard = "sonos65"\n')

    def mutate(self, place: Place, rng: np.random.Generator) -> str:
        names = sorted(path.name for path in place.originals.glob("*.toml"))
        name, other = rng.choice(names, 2)
        content, overrides, done = (place.originals / name).read_bytes(), list[str](), list[str]()
        chance = rng.random()
        if chance < 0.2:
            content, what = damage_bytes(content, (place.originals / other).read_bytes(), rng, (b"=", b"[", b'"'))
            done.append(what)
        elif chance < 0.3:
            text, what = _pick(rng, _STRUCTURES)(content.decode(), rng)
            content = text.encode("utf-8", "surrogatepass")
            done.append(what)
        else:
            data = tomllib.loads(content.decode())
            for _ in range(int(rng.integers(1, 5))):
                section, key, value = _change(rng)
                if rng.random() < 0.5:
                    data.setdefault(section, {})[key] = value
                else:
                    overrides.append(f"{section}.{key}={value if isinstance(value, str) else json.dumps(value)}")
                done.append(f"{section[:20]}.{key[:20]} = {value!r:.60}")
            content = toml_of(data).encode("utf-8", "surrogatepass")
        if rng.random() < 0.1:
            overrides.append(_pick(rng, _OVERRIDES))
            done.append(f"--set {overrides[-1]!r:.60}")
        (place.inputs / "config.toml").write_bytes(content)
        profile = _pick(rng, (None, None, None, "nominal", "realistic", "harsh", "../cosim", "x\0"))
        asked = {"overrides": overrides, "profile": profile, "info": bool(rng.random() < _INFO)}
        (place.inputs / "asked.json").write_text(json.dumps(asked))
        return f"{name}, {profile}: {'; '.join(done)}"

    def run(self, place: Place) -> None:
        path, asked = place.inputs / "config.toml", json.loads((place.inputs / "asked.json").read_text())
        if asked["info"]:
            given = [word for override in asked["overrides"] for word in ("--set", override)]
            profile = [] if asked["profile"] is None else ["--profile", asked["profile"]]
            command("info", "digits-w4a4", "--images", 1, "--config", path, *profile, *given)
            return
        config = Config.load(path, asked["overrides"], asked["profile"])
        _check_round_trips(config, place.outputs)
        _check_decks(config)


def _check_round_trips(config: Config, folder: Path) -> None:
    """Check that a configuration survives every kind of round trip."""
    for way, make in config_ways(config.model_dump(), folder).items():
        if make() != config:
            raise Finding(f"the configuration is another after it was made from {way}")
    kept = json.loads(json.dumps(config.to_record(), allow_nan=False))
    if Config.from_record(kept).on_machine(config) != config:
        raise Finding("the configuration is another after it was made from a record")


def _check_decks(config: Config) -> None:
    """Check that a cell and a group of a small layer have decks of the forms that decks have."""
    array, card = config.array, load_card(config.cell.card)
    shifts = np.linspace(3, -1, config.cell.most_units + 1)
    decks = [curve_deck(card, shifts[:3], np.full(3, 0.1), config)]
    whole = array.closed_wordlines == "cells" and array.wordlines * array.bitlines > _MOST_CELLS
    wide = config.read.mode == "amplitude" and array.wordlines > _MOST_CELLS
    if not whole and not wide:
        layer = make_layer(weight_bits=min(4, config.cell.bits))
        plan = plan_tiles(layer, array, config.cell, transposed=config.read.mode == "amplitude")
        group = plan.groups[-1]
        closed = ClosedCells(np.full(len(shifts), 1e-13), np.full(len(shifts), 1e-17))
        drive = np.eye(3, group.inputs)
        decks.append(ArrayDecks(card, shifts, config, closed).deck(group, drive, ("a\ncomment",), careful=True))
    for deck in decks:
        line = smuggled(deck)
        if line is not None:
            raise Finding(f"a deck has the line {line[:200]!r}")


def _change(rng: np.random.Generator) -> tuple[str, str, Any]:
    """A key and another value; in one of ten cases, both are of any kind."""
    section = _pick(rng, sorted(Config.model_fields))
    keys = type(getattr(Config(), section)).model_fields
    key = _pick(rng, sorted(keys))
    if rng.random() < 0.1:
        return _pick(rng, (section, *TEXTS)), _pick(rng, (key, *TEXTS)), any_value(rng)
    chosen = [value for value in get_args(keys[key].annotation) if isinstance(value, str | int | float)]
    limits = [getattr(limit, side) for limit in keys[key].metadata for side in ("ge", "le", "gt", "lt")
              if hasattr(limit, side)]  # fmt: skip
    default = getattr(getattr(Config(), section), key)
    near: list[Any] = [*chosen, *limits, default, default]
    if isinstance(default, float):
        near += [default * factor for factor in (0.5, 0.9, 1.1, 2, 10)] + [math.nextafter(limit, 1) for limit in limits]
    elif isinstance(default, int):
        near += [default + 1, default - 1, 2 * default, *(limit + step for limit in limits for step in (-1, 1))]
    far = [*NUMBERS, *TEXTS, *_SMUGGLED, True, False, [], [default], {}, {"a": default}]
    return section, key, _pick(rng, near if rng.random() < 0.8 else far)


def _pick(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _doubled(text: str, rng: np.random.Generator) -> tuple[str, str]:
    return f"{text}\n{text}", "every section twice"


def _deep(text: str, rng: np.random.Generator) -> tuple[str, str]:
    depth = int(_pick(rng, (10, 2000, 100_000)))
    value = _pick(rng, ("[" * depth + "]" * depth, "{a=" * depth + "1" + "}" * depth, "[" * depth))
    return f"{text}\n[deep]\nx = {value}\n", f"values within each other, {depth} deep"


def _dotted(text: str, rng: np.random.Generator) -> tuple[str, str]:
    depth = int(_pick(rng, (3, 2000, 50_000)))
    return f"{'.'.join(['a'] * depth)} = 1\n{text}", f"a key of {depth} parts"


def _many(text: str, rng: np.random.Generator) -> tuple[str, str]:
    count = int(_pick(rng, (10, 50_000)))
    form = _pick(rng, ("key{} = 1", "[section{}]", "[[array]]", "# comment {}", "[array.x{}]"))
    return f"{text}\n" + "\n".join(form.format(number) for number in range(count)), f"{count} times {form!r}"


def _letters(text: str, rng: np.random.Generator) -> tuple[str, str]:
    place, letters = int(rng.integers(len(text) + 1)), _pick(rng, (*TEXTS, *_SMUGGLED))
    return f"{text[:place]}{letters}{text[place:]}", f"{letters!r:.40} put at {place}"


_STRUCTURES: tuple[Callable[[str, np.random.Generator], tuple[str, str]], ...] = (
    _doubled, _deep, _dotted, _many, _letters, _letters,
)  # fmt: skip


KIND = Configurations()
