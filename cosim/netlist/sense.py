"""The sense stage behind every bitline, which holds it at the read voltage and measures its current.

A stage is an ideal source, an ideal source behind a resistance, or a circuit of transistors. In the latter, an
amplifier drives the gate of a cascode, through which the bitline's current flows. Its input is a p-channel pair, so
that it works near ground. A mirror copies the current to an output at half the supply, where it is measured. A keeper
draws a small current from the bitline, so that the loop stays closed when every cell is off, and a copy of this current
is subtracted from the output. docs/reading.md has the drawing, the reasons for the sizes, and measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PySpice.Spice.Netlist import Circuit

from cosim.config import Config
from cosim.device import Card, load_card
from cosim.errors import CardError
from cosim.netlist.deck import Deck, corner_options
from cosim.netlist.elements import element_lines, number
from cosim.netlist.instance import card_files
from cosim.netlist.wires import GROUND

PERIPHERY = "periph65"
SUPPLY_V = 1.8
# These currents come from ideal sources, like those of a bandgap reference, and do not depend on the corner.
_TAIL_A, _KEEPER_A = 20e-6, 2e-6
_CASCODE, _MIRROR, _PAIR, _LOAD = (20e-6, 0.2e-6), (6e-6, 0.4e-6), (8e-6, 0.4e-6), (1e-6, 0.6e-6)
_TAIL, _KEEPER, _KEEPER_COPY = (4e-6, 0.5e-6), (10e-6, 0.5e-6), (8e-6, 0.5e-6)
# The transistors of each stage: name -> kind, and width and length [m]. The keeper's copy "l" is smaller than keeper
# "k", whose drain is nearer to ground.
TRANSISTORS = {
    "c": ("nmos", _CASCODE),
    "d": ("pmos", _MIRROR),
    "o": ("pmos", _MIRROR),
    "t": ("pmos", _TAIL),
    "r": ("pmos", _PAIR),
    "b": ("pmos", _PAIR),
    "x": ("nmos", _LOAD),
    "g": ("nmos", _LOAD),
    "k": ("nmos", _KEEPER),
    "l": ("nmos", _KEEPER_COPY),
}
# Nodes and elements that all bitlines of a deck share.
_POWER, _REFERENCE, _TAIL_GATE, _KEEPER_GATE = "sdd", "sref", "stail", "skeep"


@dataclass(frozen=True)
class Misfit:
    """How one transistor of a stage differs from the others of its kind.

    Attributes:
        transistor: its name in TRANSISTORS.
        threshold_v: how much its threshold is off, by BSIM4's delvto [V].
        width: factor on its width, and so on its current.
    """

    transistor: str
    threshold_v: float = 0.0
    width: float = 1.0


@dataclass(frozen=True)
class SenseStage:
    """Writes sense stages. Equal objects write equal elements.

    Attributes:
        stage: kind of the stage.
        clamp_ohm: resistance of a "resistive" stage [ohm].
        bitline_v: voltage at which bitlines are held [V].
        supply: factor on the stage's supply voltage.
        grounds: whether it holds source lines at 0 V instead, and measures the currents that flow out of them.
        scale: factor on widths and lengths of its transistors.
    """

    stage: Literal["clamp", "resistive", "transistor"]
    clamp_ohm: float
    bitline_v: float
    supply: float
    grounds: bool = False
    scale: float = 1.0

    @classmethod
    def of(cls, config: Config) -> SenseStage:
        """The stage at the configuration's corner."""
        sense, bitline_v = config.sense, config.read_at_corner.bitline_v
        grounds = config.read.mode == "amplitude"
        return cls(sense.stage, sense.clamp_ohm, bitline_v, config.corner.supply, grounds, sense.scale)

    def source(self, line: int) -> str:
        """Name of the voltage source that carries the measured current of a line, with the opposite sign."""
        return f"vsl{line}" if self.grounds else f"vbl{line}"

    def add(self, circuit: Circuit, line: int, node: str) -> None:
        """Hold a bitline or a source line at `node`."""
        if self.stage == "transistor":
            self.add_misfitting(circuit, line, node, ())
            return
        held = node
        if self.stage == "resistive":
            held = f"h{line}"
            circuit.R(f"h{line}", held, node, number(self.clamp_ohm))
        if self.grounds:
            circuit.V(self.source(line)[1:], circuit.gnd, held, "0")
        else:
            circuit.V(self.source(line)[1:], held, circuit.gnd, number(self.bitline_v))

    def add_misfitting(self, circuit: Circuit, bitline: int, node: str, misfits: Sequence[Misfit]) -> None:
        """Hold a bitline at `node` by transistors, some of which differ from their kind."""
        gate, drain, out, tail, load = (f"s{name}{bitline}" for name in ("g", "d", "o", "t", "x"))
        misfitting = {misfit.transistor: misfit for misfit in misfits}

        def transistor(name: str, d: str, g: str, s: str) -> None:
            kind, _ = TRANSISTORS[name]
            width, length = self.size(name)
            given: dict[str, object] = {"width": width, "length": length}
            if name in misfitting:
                misfit = misfitting[name]
                given = {"width": misfit.width * width, "length": length, "raw_spice": f"delvto={misfit.threshold_v:g}"}
            body = GROUND if kind == "nmos" else _POWER
            circuit.M(f"s{name}{bitline}", d, g, s, body, model=f"cosim_{kind}", **given)

        transistor("c", drain, gate, node)
        transistor("d", drain, drain, _POWER)
        transistor("o", out, drain, _POWER)
        circuit.V(f"bl{bitline}", circuit.gnd, out, number(-self.supply * SUPPLY_V / 2))
        transistor("t", tail, _TAIL_GATE, _POWER)
        transistor("r", load, _REFERENCE, tail)
        transistor("b", gate, node, tail)
        transistor("x", load, load, GROUND)
        transistor("g", gate, load, GROUND)
        transistor("k", node, _KEEPER_GATE, GROUND)
        transistor("l", out, _KEEPER_GATE, GROUND)

    def add_shared(self, circuit: Circuit) -> None:
        """Supply, reference and bias of the transistors of all bitlines."""
        if self.stage != "transistor":
            return
        circuit.V("sdd", _POWER, circuit.gnd, number(self.supply * SUPPLY_V))
        circuit.V("sref", _REFERENCE, circuit.gnd, number(self.bitline_v))
        circuit.I("stail", _TAIL_GATE, circuit.gnd, number(_TAIL_A))
        circuit.I("skeep", _POWER, _KEEPER_GATE, number(_KEEPER_A))
        (tail_w, tail_l), (keeper_w, keeper_l) = self._scaled(_TAIL), self._scaled(_KEEPER)
        circuit.M("stail", _TAIL_GATE, _TAIL_GATE, _POWER, _POWER, model="cosim_pmos", width=tail_w, length=tail_l)
        circuit.M(
            "skeep", _KEEPER_GATE, _KEEPER_GATE, GROUND, GROUND, model="cosim_nmos", width=keeper_w, length=keeper_l
        )

    def size(self, transistor: str) -> tuple[float, float]:
        """Width and length of one of the TRANSISTORS [m]."""
        _, size = TRANSISTORS[transistor]
        return self._scaled(size)

    def _scaled(self, size: tuple[float, float]) -> tuple[float, float]:
        width, length = size
        return self.scale * width, self.scale * length


def deck_files(card: Card, config: Config) -> dict[str, str]:
    """File name -> text of what a deck includes: the cell's card, and that of the sense stage.

    Raises:
        CardError: the two have the same name, or models of the same name, of which the simulator would take one.
    """
    files, periphery = card_files(card, config), periphery_files(config)
    if periphery:
        process = config.corner.process
        same = sorted(card.at(process).models.keys() & load_card(PERIPHERY).at(process).models.keys())
        if same or card.name == PERIPHERY:
            raise CardError(
                f"card {card.name!r} has {f'the model {same[0]!r}' if same else 'the name'} of the sense stage's card "
                f'{PERIPHERY!r}, expected another with sense.stage = "transistor": rename it'
            )
    return files | periphery


def periphery_files(config: Config) -> dict[str, str]:
    """File name -> text of what a deck includes for sense stages, which is the periphery's section for the corner."""
    if config.sense.stage != "transistor":
        return {}
    return {f"{PERIPHERY}.card": load_card(PERIPHERY).at(config.corner.process).text()}


def stage_deck(config: Config, step_a: float, points: int) -> Deck:
    """Write a deck of the configured stage of transistors alone, whose bitline draws 0, `step_a`, 2 `step_a`, ... [A].

    Returns:
        a deck that gives two currents at every point: the current that the mirror copies, and a current of as many
        amperes as the bitline's voltage has volts.
    """
    return misfit_deck(config, step_a, points, [()])


def misfit_deck(config: Config, step_a: float, points: int, misfits: Sequence[Sequence[Misfit]]) -> Deck:
    """Write a deck of several stages of transistors, whose bitlines all draw 0, `step_a`, 2 `step_a`, ... [A].

    Args:
        config: the configuration, for the corner.
        step_a: step of the current [A].
        points: number of points.
        misfits: for each stage, how its transistors differ.

    Returns:
        a deck that gives for every stage what `stage_deck` gives: first the mirrored currents of all stages, then the
        voltages of all bitlines.
    """
    circuit, stage = Circuit("stage"), SenseStage.of(config)
    for index, each in enumerate(misfits):
        node, held = f"b{index}", f"held{index}"
        stage.add_misfitting(circuit, index, node, each)
        circuit.VCCS(f"draw{index}", node, circuit.gnd, "draw", circuit.gnd, 1)
        circuit.V(held, held, circuit.gnd, "0")
        circuit.VCCS(held, held, circuit.gnd, node, circuit.gnd, 1)
    stage.add_shared(circuit)
    circuit.V("draw", "draw", circuit.gnd, "0")
    stages = range(len(misfits))
    return Deck(
        "dc",
        f".dc vdraw 0 {number((points - 0.75) * step_a)} {number(step_a)}",
        element_lines(circuit),
        {"reltol": 1e-7, "abstol": 1e-14, "vntol": 1e-9, **corner_options(config)},
        periphery_files(config),
        (*(stage.source(index) for index in stages), *(f"vheld{index}" for index in stages)),
        step_a * np.arange(points),
        comments=("sense stages alone: where they hold bitlines that draw so much, and what they measure",),
    )
