"""SPICE cards: the models and subcircuits of a card file at each process corner, and the cell among them.

`cosim.device.parser` reads a card file, and this module writes what it understood into decks.
"""

from __future__ import annotations

from dataclasses import dataclass

from cosim.errors import CardError, listed, nearest

# The corner of a card without sections, and the one at which levels are programmed.
NOMINAL = "tt"
# Parameters of a subcircuit that are given the configured geometry.
GEOMETRY = ("w", "l")
_PORT_ORDER = "dgsb"


@dataclass(frozen=True)
class Model:
    """One `.model` statement: its name, type (nmos, pmos, ...) and parameters as numbers in text form."""

    name: str
    kind: str
    parameters: dict[str, str]

    @property
    def spice_name(self) -> str:
        """Its name in decks, which cannot be a keyword of the simulator."""
        return f"cosim_{self.name}"

    def text(self) -> str:
        """The statement as text, with one parameter on each line."""
        lines = [
            f".model {self.spice_name} {self.kind}",
            *(f"+ {key}={value}" for key, value in self.parameters.items()),
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Subcircuit:
    """One `.subckt`: its name, ports, parameters with their defaults, and its lines as they go into decks."""

    name: str
    ports: tuple[str, ...]
    parameters: dict[str, str]
    lines: tuple[str, ...]

    @property
    def spice_name(self) -> str:
        """Its name in decks."""
        return f"cosim_{self.name}"

    def text(self) -> str:
        """The statements from .subckt to .ends."""
        defaults = "".join(f" {key}={value}" for key, value in self.parameters.items())
        return "\n".join([f".subckt {self.spice_name} {' '.join(self.ports)}{defaults}", *self.lines, ".ends"]) + "\n"

    def shift_parameter(self, asked: str | None = None) -> str:
        """Name of the parameter that is the threshold shift: the one asked for, or else the only one besides w and l.

        Raises:
            CardError: there is no such parameter, or there are several.
        """
        known = [name for name in self.parameters if name not in GEOMETRY]
        if asked is not None:
            if asked.lower() not in known:
                raise CardError(
                    f"cell.shift_parameter: subcircuit {self.name!r} has no parameter {asked!r}"
                    + (f": {nearest(asked.lower(), known)}" if known else f": write .subckt {self.name} ... {asked}=0")
                )
            return asked.lower()
        if len(known) != 1:
            raise CardError(
                f"subcircuit {self.name!r} needs one parameter, the threshold shift, found {listed(known)}: "
                + ("name it with cell.shift_parameter" if known else "write .subckt NAME drain gate source body "
                   "shift=0 and use it")
            )  # fmt: skip
        return known[0]


@dataclass(frozen=True)
class Section:
    """The statements of a card for one process corner.

    Attributes:
        card: the card's name.
        models: its models by name.
        subcircuits: its subcircuits by name.
    """

    card: str
    models: dict[str, Model]
    subcircuits: dict[str, Subcircuit]

    def text(self) -> str:
        """The statements as text, rewritten from what the parser understood."""
        parts: list[Model | Subcircuit] = [*self.models.values(), *self.subcircuits.values()]
        return f"* {self.card}: rewritten by cosim from the card it was given\n" + "".join(
            part.text() for part in parts
        )

    def cell(self, asked: str | None = None) -> Model | Subcircuit:
        """The cell: a subcircuit if the card has any, or else a BSIM4 n-channel transistor.

        If there are several, it is the one asked for, or the one with the name of the card.

        Raises:
            CardError: there is no cell, there are several, or the ports of the subcircuit are not those of a cell.
        """
        if asked is None and not self.subcircuits:
            return self._transistor()
        name = (asked or self.card).lower()
        if asked is None and len(self.subcircuits) == 1:
            (name,) = self.subcircuits
        if name not in self.subcircuits:
            raise CardError(
                f"cell.subcircuit: card {self.card!r} has no subcircuit {asked!r}: {nearest(name, self.subcircuits)}"
                if asked is not None and self.subcircuits
                else f"card {self.card!r} needs one subcircuit, found {listed(self.subcircuits)}: "
                "name the cell with cell.subcircuit"
            )
        found = self.subcircuits[name]
        if len(found.ports) != 4:
            raise CardError(
                f"subcircuit {name!r} needs the four ports drain gate source body, found {listed(found.ports)}"
            )
        initials = "".join("b" if port in ("bulk", "well") else port[0] for port in found.ports)
        if initials != _PORT_ORDER and sorted(initials) == sorted(_PORT_ORDER):
            raise CardError(
                f"subcircuit {name!r}: expected its ports in the order drain gate source body, found "
                f"{' '.join(found.ports)}: reorder them, or rename them if they are what cosim expects"
            )
        return found

    def _transistor(self) -> Model:
        fitting = {
            name: model
            for name, model in self.models.items()
            if model.kind == "nmos" and model.parameters.get("level") in ("14", "54")
        }
        if self.card in fitting:
            return fitting[self.card]
        if len(fitting) != 1:
            raise CardError(
                f"card {self.card!r} needs one BSIM4 n-channel model (nmos, level=54), or one named {self.card!r}, "
                f"or a subcircuit, found {listed(fitting)}: keep one"
            )
        return next(iter(fitting.values()))


@dataclass(frozen=True)
class Card:
    """A card file: its name, and its section for each process corner."""

    name: str
    sections: dict[str, Section]

    def at(self, process: str) -> Section:
        """The section for a process corner.

        Raises:
            CardError: the card has no such section.
        """
        if process not in self.sections:
            raise CardError(
                f"card {self.name!r} has no section {process!r}, only {', '.join(sorted(self.sections))}: "
                f"set corner.process to one of these, or write .lib {process} ... .endl into the card"
            )
        return self.sections[process]
