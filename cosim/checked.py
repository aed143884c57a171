"""Types of values in files, and checks of a file's JSON against them.

A file may be damaged or come from a stranger. What is read from it has the type that is declared, lies in its range and
can be printed, or is refused with a reason.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

_T = TypeVar("_T")

# For `__pydantic_config__` of a dataclass that `parse` makes.
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
# Far beyond any quantity, and near enough that squares and sums stay finite.
LARGEST = 1e30


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must have printable characters only")
    return text


def printable(text: str) -> str:
    """The text with a question mark for every character that cannot be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


Text = Annotated[str, AfterValidator(_printable)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Amount = Annotated[float, Field(ge=0, le=LARGEST)]


def parse(kind: type[_T], text: str | bytes) -> _T:
    """Make a value of a type from JSON.

    Raises:
        ValueError: the text is not JSON, or what it holds is not of this type; the message names the key.
    """
    try:
        return cast(_T, _adapter(cast(Hashable, kind)).validate_json(text, strict=True))
    except ValidationError as error:
        first = error.errors()[0]
        key = printable(".".join(str(part) for part in first["loc"]))
        found = "" if first["type"] == "json_invalid" else f", found {first['input']!r:.80}"
        reason = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{key + ': ' if key else ''}{reason}{found}") from error


@functools.cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))
