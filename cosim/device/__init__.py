"""The cell: cards, the threshold shifts that hold its levels, and how cells differ from each other."""

from cosim.device.card import Card, Model, Section, Subcircuit
from cosim.device.parser import load_card, shipped_cards
from cosim.device.programming import CURVE_SHIFTS, program_levels
from cosim.device.variation import CellVariation, cell_normals, charge_loss, chip_generator, current_sigma

__all__ = [
    "CURVE_SHIFTS",
    "Card",
    "CellVariation",
    "Model",
    "Section",
    "Subcircuit",
    "cell_normals",
    "charge_loss",
    "chip_generator",
    "current_sigma",
    "load_card",
    "program_levels",
    "shipped_cards",
]
