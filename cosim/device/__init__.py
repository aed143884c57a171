"""The cell: cards, and the threshold shifts that hold its levels."""

from cosim.device.card import Card, Model, Section, Subcircuit
from cosim.device.parser import load_card, shipped_cards
from cosim.device.programming import CURVE_SHIFTS, program_levels

__all__ = [
    "CURVE_SHIFTS",
    "Card",
    "Model",
    "Section",
    "Subcircuit",
    "load_card",
    "program_levels",
    "shipped_cards",
]
