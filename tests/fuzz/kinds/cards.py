"""Cards of cells, read as `cell.card`, written into decks, and now and then simulated."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cosim.config import Config
from cosim.device import load_card, shipped_cards
from cosim.files import shipped
from cosim.netlist import curve_deck
from cosim.spice import Simulator, Store
from tests.deck_grammar import smuggled, smuggled_into_card
from tests.fuzz.kind import Finding, Kind, Place
from tests.fuzz.values import TEXTS, damage_bytes
from tests.unit.test_card import CELL, GOOD

# Share of accepted cards that are given to the simulator, which takes a tenth of a second.
_SIMULATED = 1 / 10
_NUMBERS = ("0", "-0", "-1", "1e999", "-1e999", "1e300", "1e31", "1e30", "1e-999", "1e-308", "nan", "inf", "0x10",
            "1_0", "1e", ".", "+.5", "1..2", "1e+", "1e5x", "1meg", "1t" * 40, "9" * 63, "9" * 65, "9" * 5000,
            "0." + "0" * 70 + "1", "1" + "0" * 29, "0" * 70 + "{shell touch executed}", "\u0661", "1\u200b", "4.8.0",
            "{1/0}", "{0-1e300}", "{1e29*1e29}", "{-1}", "{2**3}", "{1e30**2}", "{pow(0,-1)}", "{log(0)}",
            "{exp(1000)}", "{sqrt(-1)}", "{w}", "{dvt}", "{vth0}", "{max(1,2)}", "{1;2}", "{1$2}", "{", "}", "}{",
            "{{1}}", "{}", "'1+1'", '"1"')  # fmt: skip
_NAMES = ("shell", ".control", ".endc", ".include", ".inc", ".lib", ".end", ".csparam", ".options", "quit", "source",
          "gnd", "0", "time", "temper", "hertz", "v", "i", "pwl", "name", "self", "netlist", "model", "raw_spice",
          "w", "l", "m", "delvto", "cosim_x", "a" * 64, "a" * 65, "a" * 5000, "a.b", "a-b", "a=b", "a b", "a;b",
          "a$b", "a`b", "a'b", 'a"b', "a\\b", "a{b", "a}b", "../a", "{a}", "%s", "{0}", "{}", "\u212a", "\u017f",
          "é", "\0", "a\0b", "a\rb", "a\x0bb", "a\x0cb", "a\x1cb", "a\x85b", "a\u2028b", "*", "*#", "+", "&", "|",
          "<(x)", "$(x)", "nmos", "pmos", "nor65", "periph65", "drain", "source", "params:")  # fmt: skip
_LINES = (".control", "shell touch executed", ".control\nshell touch executed\n.endc", ".include users.txt",
          ".include /etc/passwd", ".lib users.txt tt", ".lib tt", ".endl", ".ends", ".end", ".param a={a}", ".param",
          ".model", ".model x nmos level=54", ".subckt x d g s b y=0", "+", "+ vth0=1", "+\n.control",
          "* comment\n+ k1=1", "r1 a b 1", "b1 a b v=v(a)", "b1 a b i=`id`", "m1 d g s b cell w=1",
          "x1 d g s b mine", "v1 a 0 1", "a1 [d] [g] filesource", ".csparam x=1", ".options temp=1", "*ng_script",
          "*#shell touch executed", ".model x filesource (file=users.txt)", ".model x d_source input_file=users.txt",
          "echo x > executed", "; .control", "$ .control", "r1 a b {v(a)}", "c1 a b {x+}", "set color0=x",
          "b1 a b v=v(a)\tshell x", "\ufeff.model x nmos", "e1 a b c d {exp(1)}", "b1 a 0 v=" + "(" * 5000,
          "b1 a 0 v=" + "-" * 5000 + "1", "r1 a b {" + "1+" * 999 + "1}",
          "r1 a b {" + "exp(" * 30 + "0" + ")" * 30 + "}")  # fmt: skip
_FILE_NAMES = ("cell.card", "cell.card", "cell.card", "Cell 2.lib", "nor65.card", "periph65.card", "a;b.card",
               "$(x).card", ".control", ".card", "a.b.c", "é\u202e.card", "x" * 250, "-o.card", "a\nb.card",
               "{0}.card", "%s.card")  # fmt: skip


class Cards(Kind):
    """The shipped cards and cards of users, damaged as bytes, in their words, or in their structure."""

    programs = frozenset({"ngspice", "timeout"})

    def prepare(self, originals: Path) -> None:
        for name in shipped_cards():
            (originals / f"{name}.card").write_bytes(shipped("models", "cards", name, f"{name}.card").read_bytes())
        (originals / "model.card").write_text(GOOD)
        (originals / "cell.card").write_text(CELL)

    def mutate(self, place: Place, rng: np.random.Generator) -> str:
        names = sorted(path.name for path in place.originals.glob("*.card"))
        name, other = rng.choice(names, 2)
        content = (place.originals / name).read_bytes()
        if rng.random() < 0.25:
            content, what = damage_bytes(content, (place.originals / other).read_bytes(), rng, (b".", b"{", b"="))
        else:
            text, done = content.decode(), []
            for _ in range(int(rng.integers(1, 3))):
                change = _CHANGES[int(rng.integers(len(_CHANGES)))]
                text, did = change(text, rng)
                done.append(did)
            content, what = text.encode("utf-8", "surrogatepass"), "; ".join(done)
        file = _pick(rng, _FILE_NAMES)
        (place.inputs / file).write_bytes(content)
        if rng.random() < _SIMULATED:
            (place.inputs / "simulated").touch()
        return f"{name} as {file[:20]!r}: {what}"

    def run(self, place: Place) -> None:
        simulated = place.inputs / "simulated"
        (path,) = set(place.inputs.iterdir()) - {simulated}
        card = load_card(path)
        for section in card.sections.values():
            line = smuggled_into_card(section.text())
            if line is not None:
                raise Finding(f"a card's text in a deck has the line {line[:200]!r}")
        config = Config().with_values({"cell.card": str(path), "run.timeout_s": 5.0})
        deck = curve_deck(card, np.linspace(-1, 2, 4), np.full(4, 0.1), config)
        line = smuggled(deck)
        if line is not None:
            raise Finding(f"a deck has the line {line[:200]!r}")
        if simulated.exists():
            Simulator(config.run, Store(place.store)).simulate([deck])


def _pick(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _replaced(
    pattern: str, values: tuple[str, ...], what: str
) -> Callable[[str, np.random.Generator], tuple[str, str]]:
    """A change that replaces one match of a pattern by one of some values."""

    def change(text: str, rng: np.random.Generator) -> tuple[str, str]:
        found = list(re.finditer(pattern, text))
        if not found:
            return text, "nothing"
        match, value = _pick(rng, found), _pick(rng, values)
        return f"{text[: match.start()]}{value}{text[match.end() :]}", f"{what} {match[0][:20]!r} = {value!r:.60}"

    return change


def _line(text: str, rng: np.random.Generator) -> tuple[str, str]:
    lines = text.split("\n")
    place, line = int(rng.integers(len(lines) + 1)), _pick(rng, _LINES)
    return "\n".join([*lines[:place], line, *lines[place:]]), f"line {line!r:.60} put at {place}"


def _moved(text: str, rng: np.random.Generator) -> tuple[str, str]:
    lines = text.split("\n")
    first, second = (int(rng.integers(len(lines))) for _ in range(2))
    choice = int(rng.integers(4))
    if choice == 0:
        lines[first], lines[second] = lines[second], lines[first]
    elif choice == 1:
        del lines[first]
    elif choice == 2:
        lines.insert(second, lines[first])
    else:
        lines[first] += lines.pop(second) if first < second else ""
    return "\n".join(lines), f"lines {first} and {second} {('swapped', 'deleted', 'doubled', 'joined')[choice]}"


def _letters(text: str, rng: np.random.Generator) -> tuple[str, str]:
    place, letters = (
        int(rng.integers(len(text) + 1)),
        _pick(rng, (*TEXTS, *"{}()$;'\"`\\+*=,\t\r\x0b\x0c\x1c\x85\u2028\xa0")),
    )
    return f"{text[:place]}{letters}{text[place:]}", f"{letters!r:.40} put at {place}"


def _large(text: str, rng: np.random.Generator) -> tuple[str, str]:
    """A card that repeats one thing very often."""
    count = int(_pick(rng, (10, 70, 1500, 40_000)))
    numbers = range(count)
    made = {
        "sections": "".join(f".lib s{number}\n.endl\n" for number in numbers),
        "subcircuits": "".join(f".subckt s{number} d g s b x=0\n.ends\n" for number in numbers),
        "models": "".join(f".model s{number} nmos level=54\n" for number in numbers),
        "parameters": ".param " + " ".join(f"s{number}=1" for number in numbers) + "\n",
        "parameters, one per line": "".join(f".param s{number}=1\n" for number in numbers),
        "parameters of a model": ".model s nmos " + " ".join(f"s{number}=1" for number in numbers) + "\n",
        "continuation lines": ".model s nmos level=54\n" + "+\n" * count,
        "blanks before an equals sign": ".model s nmos level" + " " * count + "=54\n",
        "elements": ".subckt s d g s b x=0\n" + "r1 d s 1\n" * count + ".ends\n",
        "nested parentheses": ".param s={" + "(" * count + "1" + ")" * count + "}\n",
        "signs": ".param s={" + "-" * count + "1}\n",
        "powers": ".param s={1" + "**1" * count + "}\n",
        "sums": ".subckt s d g s b x=0\nb1 d s v=x" + "+x" * count + "\n.ends\n",
        "braces": ".param s=" + "{}" * count + "\n",
        "open braces": ".param s=" + "{" * count + "\n",
        "empty lines": "\n" * count,
        "words": ".model s nmos " + "x " * count + "\n",
        "parentheses": ".model s nmos " + "(" * count + "\n",
    }
    name = _pick(rng, sorted(made))
    return (f"{made[name]}{text}" if rng.integers(2) else f"{text}\n{made[name]}"), f"{count} {name}"


def _case(text: str, rng: np.random.Generator) -> tuple[str, str]:
    return text.swapcase(), "case swapped"


_CHANGES: tuple[Callable[[str, np.random.Generator], tuple[str, str]], ...] = (
    _replaced(r"(?<=[= (])[-+.0-9][-+.0-9a-z]*", _NUMBERS, "number"),
    _replaced(r"(?<=[= (])[-+.0-9][-+.0-9a-z]*", _NUMBERS, "number"),
    _replaced(r"\{[^{}]*\}", _NUMBERS, "expression"),
    _replaced(r"[A-Za-z_.][A-Za-z0-9_]*", _NAMES, "name"),
    _replaced(r"[A-Za-z_.][A-Za-z0-9_]*", _NAMES, "name"),
    _replaced(r"(?<=[=({])[^ \n]+", TEXTS, "value"),
    _line, _line, _moved, _letters, _letters, _large, _case,
)  # fmt: skip

KIND = Cards()
