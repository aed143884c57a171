"""What a deck and its cards may consist of, told once more and without the code that writes them.

Every line must be of one of a few forms, made of names, numbers and expressions. Whatever else stands in a deck was
smuggled into it.
"""

from __future__ import annotations

import re

from cosim.netlist import Deck

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?(?:meg|[tgkmunpfa])?"
_NAME = r"[a-z_][a-z0-9_]{0,80}"
_NODE = rf"(?:0|{_NAME})"
_TOKEN = re.compile(rf"({_NUMBER}(?![a-z0-9_.])|{_NAME}|[-+*/(),])", re.ASCII)
_FUNCTIONS = {"abs", "exp", "log", "max", "min", "pow", "sqrt", "tanh", "v"}
_EXPRESSION = r"[-+*/(),.a-z0-9_]+"
_VALUE = rf"(?:{_NUMBER}|\{{{_EXPRESSION}\}})"
_GIVEN = rf"(?: {_NAME}={_VALUE})*"
_SCALES = {"t": 1e12, "g": 1e9, "meg": 1e6, "k": 1e3, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15,
           "a": 1e-18}  # fmt: skip

_CARD_LINES = [
    r"\* [a-z0-9_]{1,64}: rewritten by cosim from the card it was given",
    rf"\.model cosim_{_NAME} {_NAME}",
    rf"\+ {_NAME}={_VALUE}",
    r"\+ version=[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}",
    rf"\.subckt cosim_{_NAME}(?: {_NAME})+{_GIVEN}",
    r"\.ends",
    rf"\.param {_NAME}={_VALUE}",
    rf"m[a-z0-9_]*(?: {_NODE}){{4}} cosim_{_NAME}{_GIVEN}",
    rf"d[a-z0-9_]*(?: {_NODE}){{2}} cosim_{_NAME}{_GIVEN}",
    rf"[rc][a-z0-9_]*(?: {_NODE}){{2}} {_VALUE}",
    rf"[eg][a-z0-9_]*(?: {_NODE}){{4}} {_VALUE}",
    rf"b[a-z0-9_]*(?: {_NODE}){{2}} [vi]={_EXPRESSION}",
]
_PLAIN = rf"(?: {_NAME}={_NUMBER})+"
_DECK_LINES = [
    r"\* [ -~]*",
    r"\.include [a-z0-9_]{1,64}\.card",
    rf"[vi][a-z0-9_]+(?: {_NODE}){{2}} (?:{_NUMBER}|pwl\({_NUMBER}(?: {_NUMBER})+\))",
    rf"[rc][a-z0-9_]+(?: {_NODE}){{2}} {_NUMBER}",
    rf"g[a-z0-9_]+(?: {_NODE}){{4}} {_NUMBER}",
    rf"m[a-z0-9_]+(?: {_NODE}){{4}} cosim_{_NAME}{_PLAIN}",
    rf"x[a-z0-9_]+(?: {_NODE}){{4}} cosim_{_NAME}{_PLAIN}",
    rf"b[a-z0-9_]+(?: {_NODE}){{2}} v=pwl\((?:time|v\(read\))(?:,{_NUMBER})+\)",
    rf"\.options(?: {_NAME}=(?:{_NUMBER}|gear))+",
    rf"\.save(?: i\({_NAME}\))+",
    rf"\.tran(?: {_NUMBER})+",
    rf"\.dc {_NAME}(?: {_NUMBER}){{3}}",
    r"\.op",
]
_CARD_LINE, _DECK_LINE = (re.compile("|".join(lines), re.ASCII) for lines in (_CARD_LINES, _DECK_LINES))
_END = [".control", "set num_threads=1", "set filetype=binary", "run", "if $sim_status = 0", "write out.raw", "quit 0",
        "end", "quit 3", ".endc", ".end"]  # fmt: skip


def smuggled(deck: Deck) -> str | None:
    """The first line of a deck or of its cards that is of no form that a deck has, or None."""
    lines = deck.text().split("\n")
    if lines[-len(_END) - 1 :] != [*_END, ""]:
        return "the end of the deck"
    for line in lines[: -len(_END) - 1]:
        if not _DECK_LINE.fullmatch(line) or not _numbers_are_finite(line.partition(" ")[2]):
            return line
        if line.startswith(".include") and line.partition(" ")[2] not in deck.cards:
            return line
    return next((line for text in deck.cards.values() if (line := smuggled_into_card(text)) is not None), None)


def smuggled_into_card(text: str) -> str | None:
    """The first line of a card's text that is of no form that a card has, or None."""
    *lines, last = text.split("\n")
    for line in lines:
        if not _CARD_LINE.fullmatch(line):
            return line
        for value in re.findall(r"=([^ ]+)", line):
            if not line.startswith("+ version=") and not _is_value(value.strip("{}")):
                return line
    return last or None


def _is_value(text: str) -> bool:
    """Whether a text is a number or an expression: known functions, parentheses in pairs, and numbers in range."""
    if len(text) > 4000:
        return False
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        return False
    depth = 0
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        depth += (token == "(") - (token == ")")
        if depth < 0 or (following == "(" and token[0].isalpha() and token not in _FUNCTIONS):
            return False
        if re.fullmatch(_NUMBER, token) and not _is_in_range(token):
            return False
    return depth == 0


def _numbers_are_finite(text: str) -> bool:
    return all(_is_in_range(word) for word in re.split(r"[ =(),]", text) if re.fullmatch(_NUMBER, word))


def _is_in_range(text: str) -> bool:
    digits = re.match(r"[+-]?[0-9.]+(?:e[+-]?[0-9]+)?", text)
    assert digits is not None
    return len(text) <= 64 and abs(float(digits[0]) * _SCALES.get(text[digits.end() :], 1.0)) <= 1e30
