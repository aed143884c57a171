"""Writes a card's cell as an element of a circuit. Only this module knows which kind of element it is."""

from __future__ import annotations

from dataclasses import dataclass

from PySpice.Spice.Netlist import Circuit

from cosim.config import Cell, Config
from cosim.device import Card, Subcircuit
from cosim.errors import CardError


def card_files(card: Card, config: Config) -> dict[str, str]:
    """File name -> text of what a deck includes of a card, which is its section for the corner."""
    return {f"{card.name}.card": card.at(config.corner.process).text()}


@dataclass(frozen=True)
class CellWriter:
    """Writes instances of one cell. Equal writers write equal elements.

    Attributes:
        model: the name of the transistor or subcircuit in decks.
        geometry: the parameters of width and length, with their values [m].
        shift: the parameter of a subcircuit that is the threshold shift; None for a transistor.
    """

    model: str
    geometry: tuple[tuple[str, float], ...]
    shift: str | None = None

    @classmethod
    def for_card(cls, card: Card, config: Config) -> CellWriter:
        """Make the writer of a card's cell at the corner.

        Raises:
            CardError: the card has no section for the corner, holds no cell, or holds one that does not fit the
                configuration.
        """
        cell = config.cell
        found = card.at(config.corner.process).cell(cell.subcircuit)
        if isinstance(found, Subcircuit):
            shift = found.shift_parameter(cell.shift_parameter)
            sizes = {"w": "width_m", "l": "length_m"}
            for key, name in sizes.items():
                if key not in found.parameters and getattr(cell, name) != getattr(Cell(), name):
                    raise CardError(
                        f"cell.{name} is set, but subcircuit {found.name!r} has no parameter {key!r}: "
                        f"write .subckt {found.name} ... {key}=1u and use it, or leave cell.{name} out"
                    )
            given = tuple((key, getattr(cell, name)) for key, name in sizes.items() if key in found.parameters)
            return cls(found.spice_name, given, shift)
        if cell.shift_parameter is not None:
            raise CardError(
                f"cell.shift_parameter = {cell.shift_parameter!r} names a parameter of a subcircuit, but the cell of "
                f"card {card.name!r} is a transistor, which has delvto: leave it out"
            )
        return cls(found.spice_name, (("length", cell.length_m), ("width", cell.width_m)))

    def add(self, circuit: Circuit, name: str, drain: str, gate: str, source: str, body: str, shift: str) -> None:
        """Put a cell into a circuit.

        Args:
            circuit: the circuit.
            name: name of the element, without its letter.
            drain: node of the drain.
            gate: node of the gate.
            source: node of the source.
            body: node of the body.
            shift: threshold shift [V] as text, either a number or a field of a format string.
        """
        given = dict(self.geometry)
        if self.shift is None:
            circuit.M(name, drain, gate, source, body, model=self.model, raw_spice=f"delvto={shift}", **given)
        else:
            # As an argument, a parameter could have the name of one of PySpice's own.
            circuit.X(name, self.model, drain, gate, source, body).parameters = {self.shift: shift, **given}
