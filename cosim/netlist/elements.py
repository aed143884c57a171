"""Element lines and numbers, as every deck writes them."""

from __future__ import annotations

import numpy as np
from PySpice.Spice.Netlist import Circuit


def element_lines(circuit: Circuit) -> str:
    """A circuit's element lines, lower case, without its title."""
    return str(circuit).partition("\n")[2].lower()


def number(value: float) -> str:
    """A number with more digits than any simulator's tolerance."""
    return f"{value:.10g}"


def numbers(values: np.ndarray) -> list[str]:
    """The numbers of an array of one dimension."""
    return [number(value) for value in values.tolist()]
