"""The configuration: its sections, how they are checked against each other, and how it is read."""

from cosim.config.configuration import MACHINE_KEYS, Config, check_value
from cosim.config.sections import (
    Adc,
    Array,
    Cell,
    Corner,
    Fidelity,
    Process,
    Programming,
    Read,
    Run,
    Sense,
    Trim,
    Variation,
)

__all__ = [
    "MACHINE_KEYS",
    "Adc",
    "Array",
    "Cell",
    "Config",
    "Corner",
    "Fidelity",
    "Process",
    "Programming",
    "Read",
    "Run",
    "Sense",
    "Trim",
    "Variation",
    "check_value",
]
