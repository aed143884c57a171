"""Reads the binary raw files that ngspice writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosim.files import read_regular

# A transient of a whole tile takes some ten MiB.
_MOST_BYTES, _MOST_HEAD = 1 << 30, 1 << 20
_COUNT = re.compile(r"\d{1,15}", re.ASCII)


@dataclass(frozen=True, eq=False)
class RawFile:
    """One plot of a raw file.

    Attributes:
        plotname: ngspice's name for the analysis.
        variables: names of the vectors in lower case, of which the scale (time or sweep) is the first.
        values: (points, variables) float64, in SI units.
    """

    plotname: str
    variables: tuple[str, ...]
    values: np.ndarray


def read_raw(path: Path) -> RawFile:
    """Read a binary raw file of real vectors.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is not a regular file, or is larger than any result.
        MachineError: it cannot be read.
        ValueError: the file is not such a raw file, or it is cut short.
    """
    head, marker, body = read_regular(path, _MOST_BYTES).partition(b"Binary:\n")
    if not marker or len(head) > _MOST_HEAD:
        raise ValueError("no binary section after a list of variables")
    lines = head.decode("ascii", "replace").splitlines()
    if "Variables:" not in lines:
        raise ValueError("no list of variables")
    header: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        header.setdefault(key, value.strip())
    if header.get("Flags") != "real":
        raise ValueError(f"flags {header.get('Flags')!r}, expected 'real'")
    count, points = _count(header, "No. Variables"), _count(header, "No. Points")
    listed = [line.split() for line in lines[lines.index("Variables:") + 1 :] if line.strip()]
    variables = tuple(columns[1].lower() for columns in listed if len(columns) > 1)
    if count < 1 or not len(listed) == len(variables) == count:
        raise ValueError(f"{len(variables)} variables listed, {count} announced")
    if len(body) != 8 * count * points:
        raise ValueError(f"{len(body)} bytes of data, {8 * count * points} announced")
    return RawFile(header.get("Plotname", ""), variables, np.frombuffer(body, np.float64).reshape(points, count))


def _count(header: dict[str, str], name: str) -> int:
    if not _COUNT.fullmatch(header.get(name, "")):
        raise ValueError(f"{name!r} is {header.get(name)!r}, expected a number")
    return int(header[name])
