"""TilePlan, threshold shifts and patterns -> Deck. The only place that imports PySpice."""

from cosim.netlist.array import ArrayDecks
from cosim.netlist.cell import curve_deck
from cosim.netlist.deck import Deck

__all__ = ["ArrayDecks", "Deck", "curve_deck"]
