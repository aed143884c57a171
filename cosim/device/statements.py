"""Cuts the text of a card into statements and words, in a time that grows with its length alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from cosim.device.expression import NAME
from cosim.errors import CardError

# Letters of the elements that a subcircuit may hold.
ELEMENTS = "mdrcebg"
_KEYWORDS = (".model", ".param", ".subckt", ".ends", ".lib", ".endl")
_BRACED = re.compile(r"(\{[^{}]*\})")
_WORD = re.compile(r"(?:\{[^{}]*\}|[^\s{}])+")
_MEANINGLESS = str.maketrans("(),", "   ")


@dataclass
class Statement:
    """A statement, or a whole subcircuit.

    Attributes:
        card: name of the card.
        line: number of its first line.
        text: its text, with its continuation lines, and single blanks between words.
        inner: the statements of a subcircuit.
    """

    card: str
    line: int
    text: str
    inner: list[Statement] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keyword = self.text.partition(" ")[0].lower()

    def words(self) -> list[str]:
        """Its words, of which parameter=value is one. Parentheses and commas mean nothing outside of expressions."""
        pieces = _BRACED.split(self.text)
        if any("{" in piece or "}" in piece for piece in pieces[::2]):
            raise self.wrong("expected braces in pairs around an expression")
        pieces[::2] = [piece.translate(_MEANINGLESS) for piece in pieces[::2]]
        blanks_once = " ".join("".join(pieces).split())
        return _WORD.findall(blanks_once.replace(" =", "=").replace("= ", "="))

    @property
    def size(self) -> int:
        """Number of characters, with those of `inner`."""
        return len(self.text) + sum(len(statement.text) for statement in self.inner)

    def check_only_name(self) -> None:
        """Raise CardError if more than a name follows the keyword."""
        _, follows, name = self.text.partition(" ")
        if follows and not NAME.fullmatch(name):
            raise self.wrong(f"expected only a name after {self.keyword}")

    def wrong(self, reason: str) -> CardError:
        return CardError(f"card {self.card}, line {self.line}: {reason}, in {self.text[:60]!r}")


def read_statements(card: str, text: str) -> list[Statement]:
    """The statements of a card. Those of a subcircuit are in its `inner`.

    Raises:
        CardError: a line is none that a card may have, or subcircuits do not begin and end in turn.
    """
    statements: list[Statement] = []
    subcircuit: Statement | None = None
    for statement in _joined(card, text):
        element = subcircuit is not None and statement.keyword[0] in ELEMENTS
        if not element and statement.keyword not in _KEYWORDS:
            raise statement.wrong(
                "expected only .model, .param, .subckt and .lib SECTION, in a subcircuit elements of type M, D, R, C, "
                "B, E or G: remove the line (a card cannot include files or run commands)"
            )
        if statement.keyword == ".ends":
            if subcircuit is None:
                raise statement.wrong("no subcircuit is open")
            statement.check_only_name()
            subcircuit = None
        elif subcircuit is not None:
            if statement.keyword in (".subckt", ".lib", ".endl"):
                raise statement.wrong(f"a subcircuit is still open since line {subcircuit.line}: end it with .ends")
            subcircuit.inner.append(statement)
        else:
            statements.append(statement)
            if statement.keyword == ".subckt":
                subcircuit = statement
    if subcircuit is not None:
        raise subcircuit.wrong("the subcircuit has no .ends")
    return statements


def _joined(card: str, text: str) -> Iterator[Statement]:
    """Statements with their continuation lines and without comments."""
    first, pieces = 0, list[str]()
    for line, raw in enumerate(text.splitlines(), 1):
        content = raw.partition(";")[0].partition("$")[0].strip()
        if not content or content.startswith("*"):
            continue
        if content.startswith("+"):
            if not pieces:
                raise CardError(f"card {card}, line {line}: a continuation line (+) with nothing before it")
            pieces.append(content[1:])
            continue
        if pieces:
            yield Statement(card, first, _single_blanks(pieces))
        first, pieces = line, [content]
    if pieces:
        yield Statement(card, first, _single_blanks(pieces))


def _single_blanks(pieces: list[str]) -> str:
    return " ".join(" ".join(pieces).split())
