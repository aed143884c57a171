"""Programming to current: a level conducts its number of unit currents, read back from the simulator."""

from __future__ import annotations

import numpy as np
import pytest

from cosim.config import Config
from cosim.currents.programming import close_cells, program_cell
from cosim.device import load_card, program_levels
from cosim.errors import CardError
from cosim.netlist import curve_deck
from cosim.spice import Simulator
from tests.conftest import LEVEL_0_OFF

CARD = load_card("nor65")


def read_levels(config: Config, simulator: Simulator) -> tuple[np.ndarray, np.ndarray]:
    shifts = program_cell(CARD, config, simulator)
    deck = curve_deck(CARD, shifts, np.full(len(shifts), config.read.bitline_v), config)
    return shifts, simulator.simulate([deck])[0].currents[0]


@pytest.mark.parametrize("settings", [[], ["cell.full_scale_a=3e-6"], ["read.bitline_v=0.05"], ["cell.bits=2"]])
def test_levels_are_programmed_to_current(settings: list[str], simulator: Simulator) -> None:
    config = Config.load(None, [*LEVEL_0_OFF, *settings])
    shifts, currents = read_levels(config, simulator)
    assert len(shifts) == config.cell.levels
    assert np.all(np.diff(shifts) < 0)
    targets = np.arange(config.cell.levels) * config.cell.unit_a
    np.testing.assert_allclose(currents[1:], targets[1:], rtol=2e-6)
    assert 0 < currents[0] < 2e-4 * config.cell.unit_a


@pytest.mark.parametrize("process", ["ff", "ss"])
def test_verify_takes_out_the_process_of_the_chip_that_it_reads(process: str, simulator: Simulator) -> None:
    typical = Config.load(None, [f"corner.process={process}"])
    units = np.arange(typical.cell.most_units + 1)
    _, blind = read_levels(typical, simulator)
    assert np.abs(blind / typical.cell.unit_a - units)[1:].max() > 1
    _, verified = read_levels(typical.with_values({"programming.process": "own"}), simulator)
    np.testing.assert_allclose(verified[1:] / typical.cell.unit_a, units[1:], rtol=2e-6)


def test_linear_region_current_is_proportional_to_overdrive(simulator: Simulator) -> None:
    """I = beta (V_GS - V_T - V_DS / 2) V_DS: equal steps of threshold are nearly equal steps of current."""
    config = Config()
    deck = curve_deck(CARD, np.array([0.2, 0.4, 0.6]), np.full(3, 0.1), config)
    currents = simulator.simulate([deck])[0].currents[0]
    first, second = -np.diff(currents)
    assert first == pytest.approx(second, rel=0.1)


def test_cells_that_conduct_at_closed_wordlines_are_refused(simulator: Simulator) -> None:
    """2e-5 A is in reach, but of a cell that is on at 0 V: 256 of them would swamp a read."""
    config = Config.load(None, [*LEVEL_0_OFF, "cell.full_scale_a=2e-5"])
    shifts = program_cell(CARD, config, simulator)
    with pytest.raises(CardError, match=r"unit currents with every wordline closed.*lower cell\.full_scale_a"):
        close_cells(CARD, shifts, config, simulator)


def test_a_full_scale_out_of_reach_says_what_is_in_reach() -> None:
    shifts, currents = np.linspace(0, 2, 50), np.geomspace(5e-6, 1e-13, 50)
    config = Config.load(None, [*LEVEL_0_OFF, "cell.full_scale_a=8e-6"])
    with pytest.raises(CardError, match=r"the card reaches 5e-06 A.*lower cell\.full_scale_a"):
        program_levels(shifts, currents, config.cell)


def test_a_cell_that_cannot_be_switched_off_is_refused() -> None:
    shifts, currents = np.linspace(0, 2, 50), np.geomspace(9e-6, 1e-8, 50)
    with pytest.raises(CardError, match=r"leaks 1e-08 A.*lower read\.wordline_v"):
        program_levels(shifts, currents, Config.load(None, LEVEL_0_OFF).cell)


def test_levels_less_than_an_electron_apart_are_refused() -> None:
    shifts, currents = np.linspace(0, 0.02, 50), np.geomspace(9e-6, 1e-13, 50)
    with pytest.raises(CardError, match=r"levels 14 and 15 are 0\.\d+ mV.*cannot be told apart.*lower cell\.bits"):
        program_levels(shifts, currents, Config.load(None, LEVEL_0_OFF).cell)
