"""TilePlan, threshold shifts and patterns -> Deck. The only place that imports PySpice."""

from cosim.netlist.array import ArrayDecks
from cosim.netlist.cell import curve_deck, sweep_deck
from cosim.netlist.deck import Deck
from cosim.netlist.instance import CellWriter

__all__ = ["ArrayDecks", "CellWriter", "Deck", "curve_deck", "sweep_deck"]
