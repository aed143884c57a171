"""Element lines and numbers, in the form in which every deck writes them."""

from __future__ import annotations

import numpy as np
from PySpice.Spice.Netlist import Circuit


def element_lines(circuit: Circuit) -> str:
    """A circuit's element lines, lower case, without its title."""
    return str(circuit).partition("\n")[2].lower()


def number(value: float) -> str:
    """A number as text, with more digits than the simulator's tolerances need."""
    return f"{value:.10g}"


def numbers(values: np.ndarray) -> list[str]:
    """The numbers of a one-dimensional array as texts."""
    return [number(value) for value in values.tolist()]
