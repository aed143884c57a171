"""Unusual values that code tends not to expect, for every kind of input."""

from __future__ import annotations

from typing import Any

import numpy as np

# Numbers at the limits of types, and values that are not numbers.
NUMBERS = (0, -1, 1, 2**31, 2**63 - 1, -(2**63), 2**64, 10**30, 0.5, -0.0, 1e-320, 1e308, -1e308,
           float("nan"), float("inf"), float("-inf"))  # fmt: skip
TEXTS = ("", " ", "nan", "0", "-1", "a" * 5000, "../../etc/passwd", "/dev/zero", "\0", "\ud800", "é漢\u202e", "%s%n",
         "<script>alert(1)</script>", "[bold]x[/bold]", "$(touch x)", "`touch x`", "'; touch x; '",
         "{{ 7 * 7 }}", "a\nb", "\x1b[2J")  # fmt: skip


def any_value(rng: np.random.Generator) -> Any:
    """A value of any type that JSON has."""
    choice = int(rng.integers(6))
    if choice < 2:
        return NUMBERS[int(rng.integers(len(NUMBERS)))]
    if choice < 4:
        return TEXTS[int(rng.integers(len(TEXTS)))]
    rest: tuple[Any, ...] = (None, True, False, [], {}, [1, 2], ["a"], [[]], {"a": 1}, {"": None}, [None] * 9)
    return rest[int(rng.integers(len(rest)))]


def damage_json(data: Any, rng: np.random.Generator) -> str:
    """Change one entry of nested lists and dictionaries in place. Returns a description."""
    holders: list[tuple[Any, Any, str]] = []

    def collect(value: Any, path: str) -> None:
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in entries:
            holders.append((value, key, f"{path}.{key}"))
            collect(inner, f"{path}.{key}")

    collect(data, "")
    holder, key, path = holders[int(rng.integers(len(holders)))]
    choice = int(rng.integers(5))
    if choice == 0:
        del holder[key]
        return f"delete {path}"
    if choice == 1 and isinstance(holder, dict):
        name = TEXTS[int(rng.integers(len(TEXTS)))]
        holder[name] = any_value(rng)
        return f"add {name!r:.40} beside {path}"
    if choice == 2 and isinstance(holder[key], list) and holder[key]:
        holder[key] = holder[key] * int(rng.integers(2, 5))
        return f"repeat the entries of {path}"
    holder[key] = any_value(rng)
    return f"{path} = {holder[key]!r:.60}"


def damage_bytes(
    content: bytes, other: bytes, rng: np.random.Generator, near: tuple[bytes, ...] = ()
) -> tuple[bytes, str]:
    """Damage bytes.

    Args:
        content: the bytes.
        other: bytes of another input, to be spliced in.
        rng: decides the damage.
        near: signatures; in half of the cases the damage is near one of these.

    Returns:
        the damaged bytes, and a description of the damage.
    """
    data = bytearray(content)
    choice = ("flip", "flip", "flip", "fill", "truncate", "append", "splice", "move")[int(rng.integers(8))]
    if choice == "flip":
        places = [_place(content, rng, near) for _ in range(int(rng.integers(1, 5)))]
        for place in places:
            data[place] = int(rng.integers(256)) if rng.integers(2) else data[place] ^ (1 << int(rng.integers(8)))
        return bytes(data), f"bytes at {places} changed"
    if choice == "fill":
        place, length = _place(content, rng, near), int(rng.integers(1, 17))
        data[place : place + length] = bytes([(0x00, 0xFF, 0x7F, 0x80)[int(rng.integers(4))]]) * length
        return bytes(data[: len(content)]), f"{length} bytes at {place} filled"
    if choice == "truncate":
        end = int(rng.integers(len(data)))
        return bytes(data[:end]), f"cut off at {end}"
    if choice == "append":
        return bytes(data) + rng.bytes(int(rng.integers(1, 5000))), "bytes appended"
    source = other if choice == "splice" else content
    length = int(rng.integers(1, max(2, len(source) // 4)))
    start, place = int(rng.integers(len(source))), _place(content, rng, near)
    data[place : place + length] = source[start : start + length]
    return bytes(data), f"{choice}: {length} bytes from {start} put at {place}"


def _place(content: bytes, rng: np.random.Generator, near: tuple[bytes, ...]) -> int:
    if near and rng.integers(2):
        found = content.find(near[int(rng.integers(len(near)))], int(rng.integers(len(content))))
        if found >= 0:
            return min(found + int(rng.integers(96)), len(content) - 1)
    return int(rng.integers(len(content)))
