"""Reads card files strictly.

A statement that is not understood is refused, since ngspice would run commands that are hidden in a card. A card holds:

    .model NAME TYPE parameter=value ...
    .param NAME=value ...
    .subckt NAME drain gate source body [parameter=value ...]
      element lines (M, D, R, C, B, E, G), .model and .param
    .ends
    .lib SECTION
      any of these, for one process corner
    .endl

A value is a number or {expression}. Statements outside of all sections belong to every section.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Collection, Mapping
from pathlib import Path

from cosim.device.card import NOMINAL, Card, Model, Section, Subcircuit
from cosim.device.expression import NAME, number, rewrite
from cosim.device.statements import Statement, read_statements
from cosim.errors import CardError, nearest
from cosim.files import is_file, shipped

LARGEST_CARD_BYTES = 1 << 20
# A statement outside of all sections is understood once for each section, so that sections multiply a card.
_MOST_SECTIONS = 64
_MOST_CHARACTERS = 2 << 20
_MOST_SUBCIRCUITS = 1000
_MOST_PARAMETERS = 10_000
_FILE_NAME = re.compile(r"[a-z0-9_]{1,64}")
# Elements of a subcircuit: the number of nodes of each, and whether a model or a value follows them.
_ELEMENTS = {"m": (4, "model"), "d": (2, "model"), "r": (2, "value"), "c": (2, "value"), "e": (4, "value"),
             "g": (4, "value")}  # fmt: skip
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){2}")
_SOURCE = re.compile(r"(b\w*) (\S+) (\S+) ([vi]) ?= ?(.+)", re.IGNORECASE | re.ASCII)


def shipped_cards() -> list[str]:
    """Names of the cards that come with cosim."""
    return sorted(path.stem for path in shipped("models", "cards").glob("*/*.card"))


def load_card(name: str | Path) -> Card:
    """Load a card by the name of a shipped card, or by path.

    Raises:
        CardError: there is no such card, or it holds anything but models and subcircuits.
    """
    path = Path(name)
    if str(name) in shipped_cards():
        path = shipped("models", "cards", str(name), f"{name}.card")
    elif not is_file(path):
        raise CardError(f"no card {str(name)!r}: {nearest(str(name), shipped_cards())}; or give the path of a file")
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_CARD_BYTES + 1)
        if len(content) > LARGEST_CARD_BYTES:
            raise CardError(f"card {path} is larger than {LARGEST_CARD_BYTES} bytes: keep only the models a cell needs")
        text = content.decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"cannot read card {path}: {error}; a card is plain ASCII text") from error
    return parse_card(re.sub(r"[^a-z0-9_]", "_", path.stem.lower())[:64], text)


def parse_card(name: str, text: str) -> Card:
    """Parse the text of a card.

    Args:
        name: the card's name, at most 64 small letters, digits and `_`, since decks include a file of that name.
        text: its text.

    Raises:
        CardError: a line is not understood, a value is not a number, there is no model, or the card is too large.
    """
    if not _FILE_NAME.fullmatch(name):
        raise CardError(
            f"a card is named with at most 64 small letters, digits and '_', found {name[:80]!r}: rename it"
        )
    common: list[Statement] = []
    sections: dict[str, list[Statement]] = {}
    opened: Statement | None = None
    own = common
    for statement in read_statements(name, text):
        if statement.keyword == ".lib":
            _, _, section = statement.text.lower().partition(" ")
            if not NAME.fullmatch(section):
                raise statement.wrong("expected .lib SECTION (a card cannot include files)")
            if opened is not None:
                raise statement.wrong(f"section {opened.text.partition(' ')[2]!r} is still open: end it with .endl")
            if section in sections:
                raise statement.wrong("this section is there twice: keep one")
            opened = statement
            own = sections[section] = []
        elif statement.keyword == ".endl":
            if opened is None:
                raise statement.wrong("no section is open")
            statement.check_only_name()
            opened, own = None, common
        else:
            own.append(statement)
    if opened is not None:
        raise opened.wrong("the section has no .endl")
    statements = {section: common + own for section, own in sections.items()} or {NOMINAL: common}
    _check_size(name, statements)
    return Card(name, {section: _understand(name, held) for section, held in statements.items()})


def _check_size(card: str, sections: Mapping[str, list[Statement]]) -> None:
    """Raise CardError if there are many sections, or if they are long with the statements that belong to all."""
    characters = sum(statement.size for held in sections.values() for statement in held)
    subcircuits = max(sum(statement.keyword == ".subckt" for statement in held) for held in sections.values())
    for found, most, what in (
        (len(sections), _MOST_SECTIONS, "sections"),
        (subcircuits, _MOST_SUBCIRCUITS, "subcircuits in a section"),
        (characters, _MOST_CHARACTERS, "characters in its sections, each with the statements that belong to all"),
    ):
        if found > most:
            raise CardError(f"card {card} has {found} {what}, expected at most {most}: keep only what a cell needs")


def _understand(card: str, statements: list[Statement]) -> Section:
    """Make a section of its statements."""
    values: dict[str, str] = {}
    models: dict[str, Model] = {}
    subcircuits: dict[str, Subcircuit] = {}
    for statement in statements:
        if statement.keyword == ".param":
            for word in statement.words()[1:]:  # each may use those before it
                ((key, value),) = _assignments(statement, [word], values).items()
                if key in values:
                    raise statement.wrong(f"parameter {key!r} is given twice: keep one")
                values[key] = value
            _check_parameters(statement, values)
    for statement in statements:
        if statement.keyword == ".model":
            _add(statement, models, _model(statement, values))
    for statement in statements:
        if statement.keyword == ".subckt":
            _add(statement, subcircuits, _subcircuit(statement, values, models))
    if not models and not subcircuits:
        raise CardError(f"card {card} holds no .model statement: name a file with the cell's model")
    return Section(card, models, subcircuits)


def _add(statement: Statement, known: dict, new: Model | Subcircuit) -> None:
    if new.name in known:
        raise statement.wrong(f"{statement.keyword[1:]} {new.name!r} is there twice: keep one")
    known[new.name] = new


def _check_parameters(statement: Statement, names: Collection[str]) -> None:
    if len(names) > _MOST_PARAMETERS:
        raise statement.wrong(f"more than {_MOST_PARAMETERS} parameters: keep only those a cell needs")


def _assignments(
    statement: Statement, words: list[str], values: dict[str, str], names: Collection[str] = ()
) -> dict[str, str]:
    """Parse words of the form parameter=value into names and values."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not NAME.fullmatch(key):
            raise statement.wrong(f"expected parameter=number, found {word[:40]!r}: write every value as a number")
        if key.lower() in found:
            raise statement.wrong(f"parameter {key!r} is given twice: keep one")
        if key.lower() == "version" and _VERSION.fullmatch(value):
            found["version"] = value
            continue
        found[key.lower()] = _value(statement, value, values, names)
    _check_parameters(statement, found)
    return found


def _value(statement: Statement, text: str, values: dict[str, str], names: Collection[str] = ()) -> str:
    """Parse a number, or an expression in braces, which becomes a number if its parameters are known."""
    if text.startswith("{") and text.endswith("}"):
        try:
            written = rewrite(text[1:-1], values, names)
        except ValueError as error:
            raise statement.wrong(f"{text[:40]!r} holds {error}") from error
        return written if number(written) is not None else f"{{{written}}}"
    if number(text) is None:
        raise statement.wrong(
            f"expected parameter=number, found {text[:40]!r}: write every value as a number or as {{expression}}"
        )
    return text.lower()


def _model(statement: Statement, values: dict[str, str], names: Collection[str] = ()) -> Model:
    words = statement.words()[1:]
    if len(words) < 2 or not all(NAME.fullmatch(word) for word in words[:2]):
        raise statement.wrong("expected '.model NAME TYPE parameter=number ...'")
    return Model(words[0].lower(), words[1].lower(), _assignments(statement, words[2:], values, names))


def _subcircuit(statement: Statement, values: dict[str, str], models: dict[str, Model]) -> Subcircuit:
    words = [word for word in statement.words()[1:] if word.lower() != "params:"]
    plain = [word.lower() for word in words if "=" not in word]
    if len(plain) < 2 or not all(NAME.fullmatch(word) for word in plain) or len(set(plain[1:])) < len(plain) - 1:
        raise statement.wrong("expected '.subckt NAME drain gate source body parameter=number ...'")
    parameters = _assignments(statement, [word for word in words if "=" in word], values)
    names = set(parameters)
    for inner in statement.inner:
        if inner.keyword == ".param":
            names |= {word.partition("=")[0].lower() for word in inner.words()[1:]}
    _check_parameters(statement, names)
    own: dict[str, Model] = {}
    for inner in statement.inner:
        if inner.keyword == ".model":
            _add(inner, own, _model(inner, values, names))
    lines = [line for model in own.values() for line in model.text().splitlines()]
    for inner in statement.inner:
        if inner.keyword == ".param":
            set_here = _assignments(inner, inner.words()[1:], values, names)
            lines += [f".param {key}={value}" for key, value in set_here.items()]
        elif inner.keyword != ".model":
            lines.append(_element(inner, values, names, ChainMap(own, models)))
    return Subcircuit(plain[0], tuple(plain[1:]), parameters, tuple(lines))


def _element(statement: Statement, values: dict[str, str], names: set[str], models: Mapping[str, Model]) -> str:
    """Rewrite an element line for decks."""

    def node(text: str) -> str:
        if text != "0" and not NAME.fullmatch(text):
            raise ValueError(f"the node {text[:20]!r}: nodes are names or 0")
        return text.lower()

    try:
        if statement.keyword[0] == "b":
            source = _SOURCE.fullmatch(statement.text)
            if source is None or not NAME.fullmatch(source[1]):
                raise ValueError("no 'B<name> node node V=expression' or I=expression")
            expression = rewrite(source[5], values, names, node)
            return f"{source[1]} {node(source[2])} {node(source[3])} {source[4]}={expression}".lower()
        words = statement.words()
        nodes, follows = _ELEMENTS[words[0][0].lower()]
        if len(words) < nodes + 2 or not NAME.fullmatch(words[0]):
            raise ValueError(f"too few words: an element of this type has {nodes} nodes and a {follows}")
        ends = [node(word) for word in words[1 : nodes + 1]]
        what, rest = words[nodes + 1].lower(), words[nodes + 2 :]
        if follows == "value":
            if rest:
                raise ValueError(f"{rest[0][:20]!r} after its value")
            return " ".join([words[0].lower(), *ends, _value(statement, what, values, names)])
        if what not in models:
            raise ValueError(f"the model {what[:20]!r}, which the card does not have")
        given = _assignments(statement, rest, values, names)
        return " ".join(
            [words[0].lower(), *ends, models[what].spice_name, *(f"{key}={value}" for key, value in given.items())]
        )
    except ValueError as error:
        raise statement.wrong(f"the element holds {error}") from error
