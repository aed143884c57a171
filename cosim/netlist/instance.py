"""A card's cell as an element of a circuit: the one place that knows which kind of element it is."""

from __future__ import annotations

from dataclasses import dataclass

from PySpice.Spice.Netlist import Circuit

from cosim.config import Cell
from cosim.device import Card


@dataclass(frozen=True)
class CellWriter:
    """Writes instances of one cell; equal writers write equal elements.

    Attributes:
        model: the transistor's name in decks.
        width_m, length_m: its drawn channel [m].
    """

    model: str
    width_m: float
    length_m: float

    @classmethod
    def for_card(cls, card: Card, cell: Cell) -> CellWriter:
        """The writer of a card's cell.

        Raises:
            CardError: the card holds no cell.
        """
        return cls(card.cell_model().spice_name, cell.width_m, cell.length_m)

    def add(self, circuit: Circuit, name: str, drain: str, gate: str, source: str, body: str, shift: str) -> None:
        """Put a cell into a circuit.

        Args:
            name: what follows the element's letter.
            drain, gate, source, body: nodes.
            shift: its threshold shift [V] as text, a number or a place to be formatted.
        """
        circuit.M(
            name, drain, gate, source, body,
            model=self.model, length=self.length_m, width=self.width_m, raw_spice=f"delvto={shift}",
        )  # fmt: skip
