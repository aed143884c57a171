"""SPICE cards: read, checked and written again, so that a deck never holds a line cosim did not write.

A card given by a user may hold model statements, comments and continuation lines, and nothing else: ngspice
would run a `.control` block or include a file that a card smuggles in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cosim.errors import CardError, nearest
from cosim.files import is_file, shipped

LARGEST_CARD_BYTES = 1 << 20
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?:t|g|meg|k|m|u|n|p|f|a)?", re.IGNORECASE)
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,63}", re.IGNORECASE)
_LARGEST_NUMBER = 1e30


@dataclass(frozen=True)
class Model:
    """One `.model` statement: its name, type (nmos, pmos, ...) and parameters as numbers in text form."""

    name: str
    kind: str
    parameters: dict[str, str]

    @property
    def spice_name(self) -> str:
        """Its name in decks, which no keyword of the simulator can be."""
        return f"cosim_{self.name}"

    def text(self) -> str:
        """The statement, one parameter a line."""
        lines = [
            f".model {self.spice_name} {self.kind}",
            *(f"+ {key}={value}" for key, value in self.parameters.items()),
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Card:
    """A card file: its name, and its models by name."""

    name: str
    models: dict[str, Model]

    def text(self) -> str:
        """The statements, rewritten from what was understood of them."""
        return f"* {self.name}: rewritten by cosim from the card it was given\n" + "".join(
            model.text() for model in self.models.values()
        )

    def cell_model(self) -> Model:
        """The BSIM4 n-channel transistor that is the cell: the only one, or the one named like the card.

        Raises:
            CardError: none, or several.
        """
        fitting = {
            name: model
            for name, model in self.models.items()
            if model.kind == "nmos" and model.parameters.get("level") in ("14", "54")
        }
        if self.name in fitting:
            return fitting[self.name]
        if len(fitting) != 1:
            raise CardError(
                f"card {self.name!r} needs one BSIM4 n-channel model (nmos, level=54), or one named {self.name!r}, "
                f"found {', '.join(fitting) or 'none'}: keep one"
            )
        return next(iter(fitting.values()))


def shipped_cards() -> list[str]:
    """Names of the cards that come with cosim."""
    return sorted(path.stem for path in shipped("cards").glob("*/*.card"))


def load_card(name: str | Path) -> Card:
    """A card by the name of a shipped one, or by path.

    Raises:
        CardError: no such card, or it holds anything but model statements.
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
    """Understand a card's text.

    Raises:
        CardError: a line that is no model statement, a parameter that is no number, no model at all.
    """
    models: dict[str, Model] = {}
    for number, statement in _statements(name, text):
        model = _parse_model(name, number, statement)
        if model.name in models:
            raise CardError(f"card {name}, line {number}: model {model.name!r} is there twice: keep one")
        models[model.name] = model
    if not models:
        raise CardError(f"card {name} holds no .model statement: name a file with the cell's BSIM4 model")
    return Card(name, models)


def _statements(name: str, text: str) -> list[tuple[int, str]]:
    """Statements with their continuation lines joined, and the line each starts at."""
    statements: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = re.split(r"[;$]", line)[0].strip()
        if not line or line.startswith("*"):
            continue
        if line.startswith("+"):
            if not statements:
                raise CardError(f"card {name}, line {number}: a continuation line (+) with nothing before it")
            start, begun = statements[-1]
            statements[-1] = (start, f"{begun} {line[1:]}")
        elif line.split()[0].lower() == ".model":
            statements.append((number, line))
        else:
            raise CardError(
                f"card {name}, line {number}: expected only .model statements and comments, found {line[:40]!r}: "
                "remove it (a card cannot include files or run commands)"
            )
    return statements


def _parse_model(name: str, number: int, statement: str) -> Model:
    words = re.sub(r"\s*=\s*", "=", re.sub(r"[(),]", " ", statement)).split()[1:]
    where = f"card {name}, line {number}"
    if len(words) < 2 or not all(_NAME.fullmatch(word) for word in words[:2]):
        raise CardError(f"{where}: expected '.model NAME TYPE parameter=number ...', found {statement[:60]!r}")
    parameters: dict[str, str] = {}
    for word in words[2:]:
        key, equals, value = word.partition("=")
        written = _NUMBER.fullmatch(value[:64])
        if not equals or not _NAME.fullmatch(key) or not written or abs(float(written[1])) > _LARGEST_NUMBER:
            raise CardError(f"{where}: expected parameter=number, found {word[:40]!r}: write every value as a number")
        if key.lower() in parameters:
            raise CardError(f"{where}: parameter {key!r} is given twice: keep one")
        parameters[key.lower()] = value.lower()
    return Model(words[0].lower(), words[1].lower(), parameters)
