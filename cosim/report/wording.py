"""Writes numbers, counts and tables as text, for pages and for terminal tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.markup import escape

_PREFIXES = {-15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G"}
# The last part of a configuration key tells its unit.
_UNITS = {"a": "A", "f": "F", "m": "m", "ohm": "Ω", "s": "s", "v": "V"}


def percent(part: float) -> str:
    """A share in percent, such as 98.77 for 0.98765, without the percent sign."""
    return f"{100 * part:.2f}"


def share(count: int, total: int) -> str:
    """A count with its share, such as 1,234 (5.6 %), or "none"."""
    return f"{count:,} ({100 * count / total:.2g} %)" if count and total else "none"


def count(number: int, thing: str) -> str:
    """A count with its noun, such as 1 deck or 1,234 decks."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def become(count: int, what: str) -> str:
    """A count with its verb, such as none becomes, 1 becomes or 2 become."""
    return f"{count or 'none'} becomes {what}" if count in (0, 1) else f"{count:,} become {what}"


def number(value: float, form: str) -> str:
    """`value` in the format `form`, with a typographic minus sign. Zero has no decimals."""
    return "0" if value == 0 else format(value, form).replace("-", "−")


def if_known(value: float | None, form: str) -> str:
    """`value` in the format `form`, or a dash if it is None."""
    return "-" if value is None else format(value, form)


def seconds(value: float) -> str:
    """A time as text, such as 12 ms, 3.4 s, 12 min 5 s or 2 h 3 min."""
    if value == 0:
        return "0 s"
    if value < 0.0995:
        return f"{1000 * value:.2g} ms"
    if value < 100:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def quantity(key: str, value: Any) -> str:
    """A value with its unit, such as 0.2 fF for 2e-16 if its key ends in `_f`."""
    unit = _UNITS.get(key.rpartition("_")[2]) if "_" in key else None
    if value is None:
        return "not set"
    if unit is None or isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    power = 3 * int(np.floor(np.log10(abs(value)) / 3 + 1e-9)) if value else 0
    power = min(max(power, min(_PREFIXES)), max(_PREFIXES))
    return f"{value / 10.0**power:.6g} {_PREFIXES[power]}{unit}"


def narrow(heading: str) -> str:
    """A heading for a column of a terminal's table: of a key the last part, and each word on a line of its own."""
    return escape(heading.rpartition(".")[2].translate({ord(" "): "\n", ord("_"): "\n"}))


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown. The first row has the headings."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def sentences(said: Sequence[str]) -> str:
    """Sentences, each on a line of its own."""
    return "".join(f"{sentence}.\n" for sentence in said)
