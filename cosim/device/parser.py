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
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from cosim.device.card import NOMINAL, Card, Model, Section, Subcircuit
from cosim.device.expression import LARGEST_NUMBER, NAME, number, rewrite
from cosim.errors import CardError, nearest
from cosim.files import is_file, shipped

LARGEST_CARD_BYTES = 1 << 20
_WORD = re.compile(r"(?:\{[^{}]*\}|[^\s{}])+")
# Elements of a subcircuit: the number of nodes of each, and whether a model or a value follows them.
_ELEMENTS = {"m": (4, "model"), "d": (2, "model"), "r": (2, "value"), "c": (2, "value"), "e": (4, "value"),
             "g": (4, "value")}  # fmt: skip
_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){2}")
_SOURCE = re.compile(r"(b\w*)\s+(\S+)\s+(\S+)\s+([vi])\s*=\s*(.+)", re.IGNORECASE)


def shipped_cards() -> list[str]:
    """Names of the cards that come with cosim."""
    return sorted(path.stem for path in shipped("cards").glob("*/*.card"))


def load_card(name: str | Path) -> Card:
    """Load a card by the name of a shipped card, or by path.

    Raises:
        CardError: there is no such card, or it holds anything but models and subcircuits.
    """
    path = Path(name)
    if str(name) in shipped_cards():
        path = shipped("cards", str(name), f"{name}.card")
    elif not is_file(path):
        raise CardError(f"no card {str(name)!r}: {nearest(str(name), shipped_cards())}; or give the path of a file")
    try:
        if path.stat().st_size > LARGEST_CARD_BYTES:
            raise CardError(f"card {path} is larger than {LARGEST_CARD_BYTES} bytes: keep only the models a cell needs")
        text = path.read_bytes().decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"cannot read card {path}: {error}; a card is plain ASCII text") from error
    return parse_card(re.sub(r"[^a-z0-9_]", "_", path.stem.lower()), text)


def parse_card(name: str, text: str) -> Card:
    """Parse the text of a card.

    Raises:
        CardError: a line is not understood, a value is not a number, or there is no model.
    """
    common: list[_Statement] = []
    sections: dict[str, list[_Statement]] = {}
    open_section: _Statement | None = None
    for statement in _statements(name, text):
        if statement.keyword == ".lib":
            if len(statement.words) != 2 or not NAME.fullmatch(statement.words[1]):
                raise statement.wrong("expected .lib SECTION (a card cannot include files)")
            if open_section is not None:
                raise statement.wrong(f"section {open_section.words[1]!r} is still open: end it with .endl")
            if statement.words[1].lower() in sections:
                raise statement.wrong("this section is there twice: keep one")
            open_section = statement
            sections[statement.words[1].lower()] = []
        elif statement.keyword == ".endl":
            if open_section is None:
                raise statement.wrong("no section is open")
            open_section = None
        else:
            (common if open_section is None else sections[open_section.words[1].lower()]).append(statement)
    if open_section is not None:
        raise open_section.wrong("the section has no .endl")
    return Card(
        name,
        {section: _understand(name, sorted(common + own, key=_parameters_first)) for section, own in sections.items()}
        or {NOMINAL: _understand(name, sorted(common, key=_parameters_first))},
    )


@dataclass
class _Statement:
    """A statement with its continuation lines joined, or a whole subcircuit."""

    card: str
    line: int
    text: str
    inner: list[_Statement] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        return self.text.split()

    @property
    def keyword(self) -> str:
        return self.words[0].lower()

    def wrong(self, reason: str) -> CardError:
        return CardError(f"card {self.card}, line {self.line}: {reason}, in {self.text[:60]!r}")


def _parameters_first(statement: _Statement) -> bool:
    return statement.keyword != ".param"


def _statements(name: str, text: str) -> list[_Statement]:
    """The statements of a file. Those of a subcircuit are in its `inner`."""
    statements: list[_Statement] = []
    subcircuit: _Statement | None = None
    for line, raw in enumerate(text.splitlines(), 1):
        content = re.split(r"[;$]", raw)[0].strip()
        if not content or content.startswith("*"):
            continue
        into = statements if subcircuit is None else subcircuit.inner
        if content.startswith("+"):
            last = into[-1] if into else subcircuit
            if last is None:
                raise CardError(f"card {name}, line {line}: a continuation line (+) with nothing before it")
            last.text += f" {content[1:]}"
            continue
        statement = _Statement(name, line, content)
        element = subcircuit is not None and content[0].lower() in {*_ELEMENTS, "b"}
        if not element and statement.keyword not in (".model", ".param", ".subckt", ".ends", ".lib", ".endl"):
            raise statement.wrong(
                "expected only .model, .param, .subckt and .lib SECTION, in a subcircuit elements of type M, D, R, C, "
                "B, E or G: remove the line (a card cannot include files or run commands)"
            )
        if statement.keyword == ".ends":
            if subcircuit is None:
                raise statement.wrong("no subcircuit is open")
            subcircuit = None
        elif subcircuit is not None and statement.keyword in (".subckt", ".lib", ".endl"):
            raise statement.wrong(f"a subcircuit is still open since line {subcircuit.line}: end it with .ends")
        else:
            into.append(statement)
            if statement.keyword == ".subckt":
                subcircuit = statement
    if subcircuit is not None:
        raise subcircuit.wrong("the subcircuit has no .ends")
    return statements


def _understand(card: str, statements: list[_Statement]) -> Section:
    """Make a section of its statements, of which parameters come first."""
    values: dict[str, str] = {}
    models: dict[str, Model] = {}
    subcircuits: dict[str, Subcircuit] = {}
    for statement in statements:
        if statement.keyword == ".param":
            for word in _split(statement)[1:]:  # each may use those before it
                ((key, value),) = _assignments(statement, [word], values).items()
                if key in values:
                    raise statement.wrong(f"parameter {key!r} is given twice: keep one")
                values[key] = value
        elif statement.keyword == ".model":
            _add(statement, models, _model(statement, values))
    for statement in statements:
        if statement.keyword == ".subckt":
            _add(statement, subcircuits, _subcircuit(statement, values, models))
    if not models and not subcircuits:
        raise CardError(f"card {card} holds no .model statement: name a file with the cell's model")
    return Section(card, models, subcircuits)


def _add(statement: _Statement, known: dict, new: Model | Subcircuit) -> None:
    if new.name in known:
        raise statement.wrong(f"{statement.keyword[1:]} {new.name!r} is there twice: keep one")
    known[new.name] = new


def _split(statement: _Statement) -> list[str]:
    """Split a statement into words. Each parameter=value is one word."""
    return _WORD.findall(re.sub(r"\s*=\s*", "=", _plain(statement)))


def _plain(statement: _Statement) -> str:
    """The text of a statement without parentheses and commas outside of expressions, which have no meaning."""
    if statement.text.count("{") != statement.text.count("}"):
        raise statement.wrong("expected braces in pairs around an expression")
    pieces = re.split(r"(\{[^{}]*\})", statement.text)
    pieces[::2] = [re.sub(r"[(),]", " ", piece) for piece in pieces[::2]]
    return "".join(pieces)


def _assignments(
    statement: _Statement, words: list[str], values: dict[str, str], names: Collection[str] = ()
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
    return found


def _value(statement: _Statement, text: str, values: dict[str, str], names: Collection[str] = ()) -> str:
    """Parse a number, or an expression in braces, which becomes a number if its parameters are known."""
    if text.startswith("{") and text.endswith("}"):
        try:
            written = rewrite(text[1:-1], values, names)
        except ValueError as error:
            raise statement.wrong(f"{text[:40]!r} holds {error}") from error
        return written if number(written) is not None else f"{{{written}}}"
    value = number(text)
    if value is None or abs(value) > LARGEST_NUMBER:
        raise statement.wrong(
            f"expected parameter=number, found {text[:40]!r}: write every value as a number or as {{expression}}"
        )
    return text.lower()


def _model(statement: _Statement, values: dict[str, str], names: Collection[str] = ()) -> Model:
    words = _split(statement)[1:]
    if len(words) < 2 or not all(NAME.fullmatch(word) for word in words[:2]):
        raise statement.wrong("expected '.model NAME TYPE parameter=number ...'")
    return Model(words[0].lower(), words[1].lower(), _assignments(statement, words[2:], values, names))


def _subcircuit(statement: _Statement, values: dict[str, str], models: dict[str, Model]) -> Subcircuit:
    words = [word for word in _split(statement)[1:] if word.lower() != "params:"]
    plain = [word.lower() for word in words if "=" not in word]
    if len(plain) < 2 or not all(NAME.fullmatch(word) for word in plain) or len(set(plain[1:])) < len(plain) - 1:
        raise statement.wrong("expected '.subckt NAME drain gate source body parameter=number ...'")
    parameters = _assignments(statement, [word for word in words if "=" in word], values)
    names = set(parameters)
    for inner in statement.inner:
        if inner.keyword == ".param":
            names |= {word.partition("=")[0].lower() for word in _split(inner)[1:]}
    # A parameter of the subcircuit hides one of the file.
    known = {name: value for name, value in values.items() if name not in names}
    own: dict[str, Model] = {}
    for inner in statement.inner:
        if inner.keyword == ".model":
            _add(inner, own, _model(inner, known, names))
    lines = [line for model in own.values() for line in model.text().splitlines()]
    for inner in statement.inner:
        if inner.keyword == ".param":
            set_here = _assignments(inner, _split(inner)[1:], known, names)
            lines += [f".param {key}={value}" for key, value in set_here.items()]
        elif inner.keyword != ".model":
            lines.append(_element(inner, known, names, {**models, **own}))
    return Subcircuit(plain[0], tuple(plain[1:]), parameters, tuple(lines))


def _element(statement: _Statement, values: dict[str, str], names: set[str], models: dict[str, Model]) -> str:
    """Rewrite an element line for decks."""

    def node(text: str) -> str:
        if text != "0" and not NAME.fullmatch(text):
            raise ValueError(f"the node {text[:20]!r}: nodes are names or 0")
        return text.lower()

    try:
        if statement.text[0].lower() == "b":
            source = _SOURCE.fullmatch(statement.text)
            if source is None or not NAME.fullmatch(source[1]):
                raise ValueError("no 'B<name> node node V=expression' or I=expression")
            expression = rewrite(source[5], values, names, node)
            return f"{source[1]} {node(source[2])} {node(source[3])} {source[4]}={expression}".lower()
        words = _split(statement)
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
