"""Reads the binary raw files that ngspice writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


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
        ValueError: the file is not such a raw file, or it is cut short.
    """
    content = path.read_bytes()
    head, marker, body = content.partition(b"Binary:\n")
    if not marker:
        raise ValueError("no binary section")
    header: dict[str, str] = {}
    lines = head.decode("ascii", "replace").splitlines()
    for line in lines:
        key, _, value = line.partition(":")
        header.setdefault(key, value.strip())
    listed = lines[lines.index("Variables:") + 1 :]
    if header.get("Flags") != "real":
        raise ValueError(f"flags {header.get('Flags')!r}, expected 'real'")
    variables = tuple(line.split()[1].lower() for line in listed if line.strip())
    count, points = int(header["No. Variables"]), int(header["No. Points"])
    if len(variables) != count:
        raise ValueError(f"{len(variables)} variables listed, {count} announced")
    if len(body) != 8 * count * points:
        raise ValueError(f"{len(body)} bytes of data, {8 * count * points} announced")
    values = np.frombuffer(body, np.float64, count * points).reshape(points, count)
    return RawFile(header.get("Plotname", ""), variables, values)
