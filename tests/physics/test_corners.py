"""Corners and kinds of cell: what temperature, process and supply do, and that cells of other forms work alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cosim.config import Config
from cosim.currents.programming import program_cell
from cosim.datasets import load_dataset
from cosim.device import load_card
from cosim.errors import CardError, ConfigError
from cosim.evaluate import CircuitNetwork
from cosim.mapping import Group
from cosim.netlist import ArrayDecks, curve_deck, sweep_deck
from cosim.network import load_network
from cosim.spice import Simulator
from tests.conftest import LEVEL_0_OFF, make_network, random_images

# A user's cell: a level-1 transistor whose source is lifted by the threshold shift, seen from gate and body.
LEVEL_1 = """
.param beta=150u
.subckt mine drain gate source body dvt=0 w=0.1u
bg g 0 v=v(gate)-dvt
m1 drain g source body square w={w} l=0.11u
.ends
.lib tt
.model square nmos level=1 vto=1.2 kp={beta} lambda=0.02
.endl
.lib ff
.model square nmos level=1 vto=1.1 kp={1.1*beta} lambda=0.02
.endl
"""
# Another, of another level (BSIM3), with a model of its own and a series resistance.
BSIM3 = """
.subckt flash d g s b extra=0
.model t3 nmos level=8 version=3.3.0 tox=15n vth0={1.0+extra} u0=400 k1=0.6
m1 di g s b t3 w=0.1u l=0.2u
rd d di 500
.ends
"""


def currents(card: str | Path, shifts: np.ndarray, simulator: Simulator, *settings: str) -> np.ndarray:
    """Read currents of single cells at the corner."""
    config = Config.load(None, settings)
    volts = np.full(len(shifts), config.read_at_corner.bitline_v)
    return simulator.simulate([curve_deck(load_card(card), shifts, volts, config)])[0].currents[0]


@pytest.fixture
def shifts(simulator: Simulator) -> np.ndarray:
    return program_cell(load_card("nor65"), Config.load(None, LEVEL_0_OFF), simulator)


def test_levels_are_programmed_at_the_nominal_corner_whatever_the_corner(
    shifts: np.ndarray, simulator: Simulator
) -> None:
    hot = Config.load(None, [*LEVEL_0_OFF, "corner.process=ff", "corner.temperature_c=85", "corner.supply=0.9"])
    np.testing.assert_array_equal(program_cell(load_card("nor65"), hot, simulator), shifts)


def test_process_and_temperature_move_currents_the_right_way(shifts: np.ndarray, simulator: Simulator) -> None:
    typical = currents("nor65", shifts, simulator)
    fast, slow = (currents("nor65", shifts, simulator, f"corner.process={name}") for name in ("ff", "ss"))
    assert np.all(slow < typical)
    assert np.all(typical < fast)
    for skewed in ("fs", "sf"):
        np.testing.assert_array_equal(currents("nor65", shifts, simulator, f"corner.process={skewed}"), typical)
    cold, hot = (currents("nor65", shifts, simulator, f"corner.temperature_c={t}") for t in (-40.0, 85.0))
    # Mobility falls with heat and so does the threshold: far above threshold less current, below it more.
    assert hot[-1] < typical[-1] < cold[-1]
    assert hot[0] > 10 * typical[0] > 100 * cold[0]
    assert hot[-1] / typical[-1] - 1 == pytest.approx(-0.133, abs=0.002)


def test_supply_multiplies_both_read_voltages(shifts: np.ndarray, simulator: Simulator) -> None:
    found = currents("nor65", shifts, simulator, "corner.supply=1.1")
    same = currents("nor65", shifts, simulator, "read.wordline_v=4.4", "read.bitline_v=0.11")
    np.testing.assert_allclose(found, same, rtol=1e-9)


@pytest.mark.parametrize("fidelity", ["dc", "tran"])
def test_an_array_is_read_at_the_corner(fidelity: str, shifts: np.ndarray, simulator: Simulator) -> None:
    """Without wires a bitline carries what its cells carry one by one at that corner."""
    corner = ("corner.process=ss", "corner.temperature_c=-40", "corner.supply=0.9")
    config = Config.load(None, [*LEVEL_0_OFF, f"run.fidelity={fidelity}", "array.bitline_res_ohm=0", *corner])
    units = np.array([[3, 15], [8, 8], [15, 1]], np.uint8)
    decks = ArrayDecks(load_card("nor65"), shifts, config)
    deck = decks.deck(Group(0, 0, 0, (0, 3), (0, 1), units), np.array([[1, 0, 0], [0, 1, 1], [1, 1, 1]]))
    found = simulator.simulate([deck])[0].currents
    single = currents("nor65", shifts, simulator, *corner)[units]
    expected = np.stack([single[[0]].sum(0), single[[1, 2]].sum(0), single.sum(0)])
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_the_nominal_corner_leaves_no_trace_in_a_deck() -> None:
    text = ArrayDecks(load_card("nor65"), np.linspace(2, 0, 16), Config()).deck(
        Group(0, 0, 0, (0, 1), (0, 1), np.zeros((1, 2), np.uint8)), np.array([[0], [1]])
    ).text()  # fmt: skip
    assert "temp" not in text
    hot = Config.load(None, ["corner.temperature_c=85"])
    deck = curve_deck(load_card("nor65"), np.zeros(1), np.zeros(1), hot)
    assert "temp=85" in deck.text()


@pytest.mark.parametrize("process", ["tt", "ff", "ss"])
@pytest.mark.parametrize("celsius", [-40.0, 27.0, 125.0])
def test_both_forms_of_the_floating_gate_agree(
    process: str, celsius: float, shifts: np.ndarray, simulator: Simulator
) -> None:
    """The controlled source with the coupling ratios, and the referred transistor fitted to it at tt."""
    corner = (f"corner.process={process}", f"corner.temperature_c={celsius}")
    referred, coupled = (currents(name, shifts, simulator, *corner) for name in ("nor65", "nor65-coupled"))
    largest = 0.0025 if process == "tt" else 0.01
    assert np.abs(referred - coupled).max() < largest * Config.load(None, LEVEL_0_OFF).cell.full_scale_a


def test_both_forms_are_programmed_alike(shifts: np.ndarray, simulator: Simulator) -> None:
    config = Config.load(None, [*LEVEL_0_OFF, "cell.card=nor65-coupled"])
    coupled = program_cell(load_card("nor65-coupled"), config, simulator)
    np.testing.assert_allclose(coupled, shifts, atol=2e-3)


@pytest.mark.parametrize(("text", "shift"), [(LEVEL_1, "dvt"), (BSIM3, "extra")])
def test_a_cell_of_the_users_own_is_programmed(text: str, shift: str, tmp_path: Path, simulator: Simulator) -> None:
    path = tmp_path / "my-cell.lib"
    path.write_text(text)
    config = Config.load(None, [*LEVEL_0_OFF, f"cell.card={path}"])
    levels = program_cell(load_card(path), config, simulator)
    found = currents(path, levels, simulator, f"cell.card={path}")
    # A level-1 transistor has a kink where it leaves saturation, so its curve is inverted less exactly.
    np.testing.assert_allclose(found[1:], config.cell.unit_a * np.arange(1, 16), rtol=1e-5)
    assert f" {shift}={levels[3]:.10g}" in curve_deck(load_card(path), levels, levels, config).text()


def test_a_cell_of_the_users_own_reads_digits(tmp_path: Path, shared_store: Path) -> None:
    path = tmp_path / "square.lib"
    path.write_text(LEVEL_1)
    network, images = load_network("digits-w4a4"), load_dataset("digits").head(4).real(0, 4)
    config = Config.load(None, [f"cell.card={path}", "run.fidelity=dc", "run.layers=conv1"])
    circuit = CircuitNetwork(network, config, store=shared_store)
    torch.testing.assert_close(circuit(images), network(images), rtol=0.05, atol=0.3)
    assert torch.equal(circuit(images).argmax(1), network(images).argmax(1))


def test_the_level_1_cell_follows_its_equation(tmp_path: Path, simulator: Simulator) -> None:
    """I = beta (V_GS - V_T - V_DS / 2) V_DS (1 + lambda V_DS), at the corner its card has."""
    path = tmp_path / "square.lib"
    path.write_text(LEVEL_1)
    shifts = np.array([0.0, 0.7, 1.5])
    for process, beta, threshold in (("tt", 150e-6, 1.2), ("ff", 165e-6, 1.1)):
        found = currents(path, shifts, simulator, f"cell.card={path}", f"corner.process={process}")
        expected = beta * 0.1 / 0.11 * (4 - threshold - shifts - 0.05) * 0.1 * (1 + 0.02 * 0.1)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(CardError, match="no section 'ss'"):
        currents(path, shifts, simulator, f"cell.card={path}", "corner.process=ss")


def test_transients_and_netlists_of_a_users_cell(tmp_path: Path, shared_store: Path) -> None:
    path = tmp_path / "square.lib"
    path.write_text(LEVEL_1)
    images = random_images(2)
    logits = []
    for fidelity in ("dc", "tran"):
        config = Config.load(None, [f"cell.card={path}", f"run.fidelity={fidelity}", "array.open_wordlines=5"])
        circuit = CircuitNetwork(make_network(), config, store=shared_store)
        logits.append(circuit(images))
        circuit.write_netlists(tmp_path / fidelity)
        deck = (tmp_path / fidelity / "conv1_g0_0.cir").read_text()
        assert "x0_0 n0_0 w0 0 0 cosim_mine dvt=" in deck
        assert (
            ".subckt cosim_mine drain gate source body dvt=0 w=0.1u"
            in (tmp_path / fidelity / "square.card").read_text()
        )
    torch.testing.assert_close(*logits)


def test_a_shift_that_does_nothing_or_the_wrong_way_is_refused(tmp_path: Path, simulator: Simulator) -> None:
    for change in (("-dvt", ""), ("-dvt", "+dvt")):
        path = tmp_path / "square.lib"
        path.write_text(LEVEL_1.replace(*change))
        with pytest.raises(CardError, match=r"current falls with its threshold shift.*sign of the shift parameter"):
            program_cell(load_card(path), Config.load(None, [f"cell.card={path}"]), simulator)


def test_curves_meet_the_read_condition(shifts: np.ndarray, simulator: Simulator) -> None:
    """Transfer and output curves pass through the currents of single cells."""
    card, config = load_card("nor65"), Config()
    point = currents("nor65", shifts, simulator)
    transfer = sweep_deck(card, shifts, config, bitline_v=0.1, step_v=0.5, stop_v=5.0)
    output = sweep_deck(card, shifts, config, wordline_v=4.0, step_v=0.05, stop_v=0.3)
    gates, drains = simulator.simulate([transfer, output])
    np.testing.assert_allclose(transfer.samples, np.linspace(0, 5, 11))
    np.testing.assert_allclose(gates.currents[8], point, rtol=1e-5)
    np.testing.assert_allclose(drains.currents[2], point, rtol=1e-5)
    assert np.abs(drains.currents[0]).max() < 1e-12


@pytest.mark.parametrize(
    "setting", ["corner.process=tf", "corner.temperature_c=150", "corner.supply=0.7", "corner.voltage=1"]
)
def test_corners_that_cannot_be(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        Config.load(None, [setting])
