"""Parses expressions in cards, evaluates them if they are constant, and writes them again in a uniform way.

sum      product { + product | - product }
product  factor { * factor | / factor }
factor   + factor | - factor | atom [ ** factor ]
atom     number | name | function ( sum, ... ) | v ( node [, node] ) | ( sum )
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

NAME = re.compile(r"[a-z_][a-z0-9_]{0,63}", re.IGNORECASE | re.ASCII)

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?)(t|g|meg|k|m|u|n|p|f|a)?", re.IGNORECASE | re.ASCII)
_LONGEST_NUMBER = 64
_LARGEST_NUMBER = 1e30

_SUFFIXES = {"t": 1e12, "g": 1e9, "meg": 1e6, "k": 1e3, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15,
             "a": 1e-18}  # fmt: skip
# Functions with the same meaning in parameters and in sources of ngspice, and how many arguments they take.
_FUNCTIONS: dict[str, tuple[int, Callable[..., float]]] = {
    "abs": (1, abs), "exp": (1, math.exp), "log": (1, math.log), "max": (2, max), "min": (2, min),
    "pow": (2, math.pow), "sqrt": (1, math.sqrt), "tanh": (1, math.tanh),
}  # fmt: skip
_TOKEN = re.compile(
    r"\s*(?:((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?(?:meg|[tgkmunpfa])?(?![\w.]))|([a-z_]\w*)|(\*\*|[-+*/(),]))",
    re.IGNORECASE | re.ASCII,
)
_LONGEST = 2000
_LONGEST_REWRITTEN = 4000
_DEEPEST = 40


def number(text: str) -> float | None:
    """The value of a number in SPICE's notation, such as 15.8n.

    A text that has a value is safe to stand in a deck as it is.

    Returns:
        None if the text is anything else, is longer than 64 characters, or has a value beyond 1e30.
    """
    written = _NUMBER.fullmatch(text) if len(text) <= _LONGEST_NUMBER else None
    if written is None:
        return None
    value = float(written[1]) * _SUFFIXES.get((written[2] or "").lower(), 1.0)
    return value if abs(value) <= _LARGEST_NUMBER else None


@dataclass(frozen=True)
class _Part:
    """A piece of an expression: its text, and its value if it is constant."""

    text: str
    value: float | None


def rewrite(
    source: str, values: Mapping[str, str], names: Collection[str] = (), nodes: Callable[[str], str] | None = None
) -> str:
    """Rewrite an expression for ngspice.

    Args:
        source: the expression.
        values: parameters that are replaced by their numbers.
        names: parameters that stay, even if they are among `values`.
        nodes: checks and rewrites a node of v(...); None if voltages are not allowed.

    Returns:
        a number if the expression is constant, in its original notation if it is a plain number; otherwise fully
        parenthesized text.

    Raises:
        ValueError: the expression is wrong; the message says what is wrong with it.
    """
    return _Parser(source, values, names, nodes).whole()


class _Parser:
    def __init__(
        self, source: str, values: Mapping[str, str], names: Collection[str], nodes: Callable[[str], str] | None
    ) -> None:
        if len(source) > _LONGEST:
            raise ValueError(f"an expression of more than {_LONGEST} characters")
        self.values, self.names, self.nodes = values, names, nodes
        self.tokens: list[str] = []
        self.place = self.depth = 0
        at, source = 0, source.strip()
        while at < len(source):
            found = _TOKEN.match(source, at)
            if found is None:
                raise ValueError(f"{source[at : at + 20].strip()!r} in an expression")
            self.tokens.append(found[0].strip().lower())
            at = found.end()

    def whole(self) -> str:
        part = self.sum()
        if self.place < len(self.tokens):
            raise ValueError(f"{self.tokens[self.place]!r} after the end of an expression")
        return part.text if part.value is None else part.text.strip("()")

    def next(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        """Take the next token if it is one of those wanted, or else return an empty string."""
        found = self.next() if self.next() in wanted else ""
        self.place += bool(found)
        return found

    def expect(self, wanted: str) -> None:
        if not self.take(wanted):
            raise ValueError(f"{self.next() or 'the end'!r} in an expression where {wanted!r} is due")

    def sum(self) -> _Part:
        left = self.product()
        while sign := self.take("+", "-"):
            right = self.product()
            left = self.join(
                f"({left.text}{sign}{right.text})", operator.add if sign == "+" else operator.sub, left, right
            )
        return left

    def product(self) -> _Part:
        left = self.factor()
        while sign := self.take("*", "/"):
            right = self.factor()
            left = self.join(
                f"({left.text}{sign}{right.text})", operator.mul if sign == "*" else operator.truediv, left, right
            )
        return left

    def factor(self) -> _Part:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise ValueError("an expression nested too deeply")
        if sign := self.take("+", "-"):
            inner = self.factor()
            part = self.join(f"(0-{inner.text})", operator.neg, inner) if sign == "-" else inner
        else:
            part = self.atom()
            if self.take("**"):
                power = self.factor()
                part = self.join(f"pow({part.text},{power.text})", math.pow, part, power)
        self.depth -= 1
        return part

    def atom(self) -> _Part:
        token = self.next()
        self.place += 1
        if token == "(":
            part = self.sum()
            self.expect(")")
            return part
        value = number(token)
        if value is not None:
            return _Part(token, value)
        if not NAME.fullmatch(token):
            raise ValueError(
                f"{token[:20] or 'the end'!r} in an expression where a number or a name is due: numbers have at most "
                f"{_LONGEST_NUMBER} characters and lie within {_LARGEST_NUMBER:g}"
            )
        if self.next() == "(":
            return self.voltage() if token == "v" and self.nodes is not None else self.call(token)
        if token in self.names:
            return _Part(token, None)
        if token in self.values:
            text = self.values[token]
            return _Part(f"({text})" if text.startswith(("+", "-")) else text, number(text))
        raise ValueError(f"the unknown parameter {token!r}")

    def call(self, name: str) -> _Part:
        if name not in _FUNCTIONS:
            raise ValueError(f"the function {name!r}, which is none of {', '.join(sorted(_FUNCTIONS))}")
        count, function = _FUNCTIONS[name]
        self.expect("(")
        arguments = [self.sum()]
        while self.take(","):
            arguments.append(self.sum())
        self.expect(")")
        if len(arguments) != count:
            raise ValueError(f"{len(arguments)} arguments of {name!r}, which takes {count}")
        return self.join(f"{name}({','.join(part.text for part in arguments)})", function, *arguments)

    def voltage(self) -> _Part:
        assert self.nodes is not None
        self.expect("(")
        named = [self.node()]
        if self.take(","):
            named.append(self.node())
        self.expect(")")
        return _Part(f"v({','.join(named)})", None)

    def node(self) -> str:
        assert self.nodes is not None
        self.place += 1
        return self.nodes(self.tokens[self.place - 1] if self.place <= len(self.tokens) else "")

    def join(self, text: str, function: Callable[..., float], *parts: _Part) -> _Part:
        """A combination of parts, evaluated at once if all are constant."""
        if len(text) > _LONGEST_REWRITTEN:
            raise ValueError(f"an expression of more than {_LONGEST_REWRITTEN} characters with its parameters put in")
        arguments = [part.value for part in parts if part.value is not None]
        if len(arguments) < len(parts):
            return _Part(text, None)
        try:
            value = function(*arguments)
        except (ArithmeticError, ValueError) as error:
            raise ValueError(f"an expression without a value ({error})") from error
        if not abs(value) <= _LARGEST_NUMBER:
            raise ValueError("an expression without a value")
        text = f"{value:.12g}"
        return _Part(text if value >= 0 else f"({text})", value)
