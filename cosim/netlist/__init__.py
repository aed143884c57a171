"""Netlists: writes decks for groups of a tile plan, their threshold shifts and patterns. Only this imports PySpice."""

from cosim.netlist.array import ArrayDecks
from cosim.netlist.cell import curve_deck, sweep_deck
from cosim.netlist.closed import ClosedCells, closed_deck, ramp_v_per_s
from cosim.netlist.deck import Deck
from cosim.netlist.instance import CellWriter
from cosim.netlist.sense import TRANSISTORS, Misfit, SenseStage, misfit_deck, stage_deck

__all__ = [
    "TRANSISTORS",
    "ArrayDecks",
    "CellWriter",
    "ClosedCells",
    "Deck",
    "Misfit",
    "SenseStage",
    "closed_deck",
    "curve_deck",
    "misfit_deck",
    "ramp_v_per_s",
    "stage_deck",
    "sweep_deck",
]
