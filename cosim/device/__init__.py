"""The cell: cards, the threshold shifts that hold its levels, and how cells differ from each other."""

from cosim.device.card import Card, Model, Section, Subcircuit
from cosim.device.curve import CellCurve, CellCurves
from cosim.device.draws import cell_normals, chip_generator
from cosim.device.mismatch import CellMismatch
from cosim.device.parser import load_card, shipped_cards
from cosim.device.programming import CURVE_SHIFTS, program_levels
from cosim.device.retention import charge_loss
from cosim.device.variation import CellVariation, current_sigma

__all__ = [
    "CURVE_SHIFTS",
    "Card",
    "CellCurve",
    "CellCurves",
    "CellMismatch",
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
