"""The cell: cards, the threshold shifts that hold its levels, and how cells differ from each other."""

from cosim.device.card import Card, Model, Section, Subcircuit
from cosim.device.curve import CellCurve, CellCurves
from cosim.device.defects import RepairedBitlines, StuckCells
from cosim.device.draws import cell_normals, chip_generator
from cosim.device.mismatch import CellMismatch
from cosim.device.normal import NormalProgramming
from cosim.device.parser import load_card, shipped_cards
from cosim.device.programming import CURVE_SHIFTS, program_levels
from cosim.device.pulses import Population, PulseProgramming, program_population
from cosim.device.retention import charge_loss
from cosim.device.sigmas import current_sigma
from cosim.device.traps import Traps, draw_traps
from cosim.device.variation import CellProgramming, CellVariation

__all__ = [
    "CURVE_SHIFTS",
    "Card",
    "CellCurve",
    "CellCurves",
    "CellMismatch",
    "CellProgramming",
    "CellVariation",
    "Model",
    "NormalProgramming",
    "Population",
    "PulseProgramming",
    "RepairedBitlines",
    "Section",
    "StuckCells",
    "Subcircuit",
    "Traps",
    "cell_normals",
    "charge_loss",
    "chip_generator",
    "current_sigma",
    "draw_traps",
    "load_card",
    "program_levels",
    "program_population",
    "shipped_cards",
]
