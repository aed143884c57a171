"""Cells that were verified alike and differ elsewhere, against cards with another gain, coupling or coefficient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosim.config import Config
from cosim.currents.programming import cell_curves, program_cell
from cosim.device import Card, CellCurve, CellCurves, CellMismatch, CellVariation, NormalProgramming, load_card
from cosim.errors import ConfigError
from cosim.mapping import Group
from cosim.netlist import curve_deck
from cosim.spice import Simulator

CARDS = Path(__file__).parents[2] / "models" / "cards"
HOT, COLD = ["corner.temperature_c=125"], ["corner.temperature_c=-40", "corner.supply=0.9", "corner.process=ss"]
HIGH, LOW = ["corner.supply=1.1"], ["corner.supply=0.9"]


def currents_of(card: Card, shifts: np.ndarray, config: Config, simulator: Simulator) -> np.ndarray:
    deck = curve_deck(card, shifts, np.full(len(shifts), config.read_at_corner.bitline_v), config)
    return simulator.simulate([deck])[0].currents[0]


def truth_and_found(
    changed: list[str], mismatch: CellMismatch, settings: list[str], simulator: Simulator
) -> tuple[np.ndarray, np.ndarray]:
    """Currents at a corner of every number of units, in unit currents.

    They are those of a cell that really is another, verified to the levels' currents, and those of the card's own cell
    at the shifts that stand for it.
    """
    config, other = Config.load(None, settings), Config.load(None, [*settings, *changed])
    card, other_card = load_card(config.cell.card), load_card(other.cell.card)
    truth = currents_of(other_card, program_cell(other_card, other, simulator), other, simulator)
    curves = cell_curves(card, config, simulator)
    stored = mismatch.stored(program_cell(card, config, simulator), curves.verify)
    found = currents_of(card, mismatch.seen(stored, curves.read), config, simulator)
    return truth / config.cell.unit_a, found / config.cell.unit_a


def mismatch_of(gain: float = 1.0, threshold_v: float = 0.0) -> CellMismatch:
    """The same mismatch for every number of units."""
    every = np.ones(Config().cell.most_units + 1)
    return CellMismatch(gain * every, threshold_v * every)


def changed_card(folder: Path, name: str, old: str, new: str) -> list[str]:
    """Settings with a shipped card of which one number is another."""
    text = (CARDS / name / f"{name}.card").read_text()
    assert text.count(old) == 1
    path = folder / f"{name}.card"
    path.write_text(text.replace(old, new))
    return [f"cell.card={path}"]


@pytest.mark.parametrize("corner", [HOT, COLD[:1]])
def test_a_wordline_that_follows_the_temperature_hides_gain_factors_there(
    corner: list[str], simulator: Simulator
) -> None:
    def worst(tempco: str) -> float:
        config = Config.load(None, [*corner, f"read.wordline_tempco_v_per_k={tempco}"])
        card = load_card(config.cell.card)
        shifts, curves = program_cell(card, config, simulator), cell_curves(card, config, simulator)
        mismatch = mismatch_of(gain=1.08)
        seen = mismatch.seen(mismatch.stored(shifts, curves.verify), curves.read)
        errors = curves.read.currents(seen) - curves.read.currents(shifts)
        return float(np.abs(errors / config.cell.unit_a)[config.cell.offset_units :].max())

    assert worst("0") > 0.1
    assert worst("-1.4e-3") < 0.03
    assert worst("1.4e-3") > worst("0")


@pytest.mark.parametrize("corner", [HOT, COLD, HIGH])
def test_another_gain_factor_is_that_of_a_wider_cell(corner: list[str], simulator: Simulator) -> None:
    wider = ["cell.width_m=1.1e-7"]
    truth, found = truth_and_found(wider, mismatch_of(gain=1.1), corner, simulator)
    np.testing.assert_allclose(found, truth, atol=2e-4)
    _, without = truth_and_found(wider, mismatch_of(), corner, simulator)
    assert np.abs(without - truth).max() > 0.1  # it is there to be seen


@pytest.mark.parametrize("corner", [HOT, COLD])
def test_another_temperature_coefficient_is_that_of_a_changed_card(
    corner: list[str], tmp_path: Path, simulator: Simulator
) -> None:
    """In BSIM4 the threshold moves by kt1 (T / Tnom - 1)."""
    changed = changed_card(tmp_path, "nor65", "kt1=-0.594", "kt1=-0.564")
    kelvin = Config.load(None, corner).corner.temperature_c - 27
    mismatch = mismatch_of(threshold_v=0.03 / 300.15 * kelvin)
    truth, found = truth_and_found(changed, mismatch, corner, simulator)
    np.testing.assert_allclose(found, truth, atol=2e-4)


@pytest.mark.parametrize("corner", [HIGH, LOW])
def test_another_coupling_ratio_is_that_of_a_changed_divider(
    corner: list[str], tmp_path: Path, simulator: Simulator
) -> None:
    """The wordline couples 3 % more to the floating gate, and the charge's effect on it is the same."""
    changed = changed_card(tmp_path, "nor65-coupled", "0.60*(v(gate)-shift)", "0.618*v(gate)-0.60*shift")
    settings = ["cell.card=nor65-coupled", *corner]
    raised_v = Config.load(None, corner).read_at_corner.wordline_v - Config().read.wordline_v
    truth, found = truth_and_found(changed, mismatch_of(threshold_v=-0.03 * raised_v), settings, simulator)
    np.testing.assert_allclose(found, truth, atol=2e-4)


def straight(volts: float) -> CellCurve:
    """The curve of a cell in its linear region, whose current is 5 uA for every volt of overdrive."""
    shifts = np.linspace(-4, volts - 0.1, 400)
    return CellCurve.of(shifts, 5e-6 * (volts - shifts))


def whole_group(units: int = 8, wordlines: int = 40, bitlines: int = 100) -> Group:
    return Group(0, 0, 0, (0, wordlines), (0, bitlines - 1), np.full((wordlines, bitlines), units, np.uint8))


def deviations(*settings: str, supply: float = 1.0) -> np.ndarray:
    """How far cells of a shift of 1 V are from it at a read, where a supply of 0.9 takes 0.4 V of overdrive."""
    config = Config.load(None, [*settings, f"corner.supply={supply}"])
    curves = CellCurves(straight(3.0), straight(3.0 + 4.0 * (supply - 1)))
    cells = CellVariation(config, NormalProgramming(config, np.linspace(1.7, -0.6, 24)), curves)
    return cells.cell_shifts(0, whole_group(7)) - 1


def test_a_gain_factor_counts_with_what_the_overdrive_changes() -> None:
    """Verified at an overdrive of 2 V, the cell keeps 2 V / g; 0.4 V less overdrive then takes g 0.4 V."""
    found = deviations("variation.gain_factor_sigma=0.05", supply=0.9).ravel()
    assert found.std() == pytest.approx(0.05 * 0.4, rel=0.05)
    np.testing.assert_allclose(deviations("variation.gain_factor_sigma=0.05"), 0, atol=1e-12)


def test_coupling_counts_with_the_wordline_and_the_coefficient_with_the_temperature() -> None:
    assert deviations("variation.coupling_sigma=0.02", supply=1.1).std() == pytest.approx(0.02 * 0.4, rel=0.05)
    np.testing.assert_allclose(deviations("variation.coupling_sigma=0.02"), 0, atol=1e-12)
    hot = deviations("variation.tempco_sigma_v_per_k=1e-4", "corner.temperature_c=-40")
    assert hot.std() == pytest.approx(6.7e-3, rel=0.05)
    np.testing.assert_allclose(deviations("variation.tempco_sigma_v_per_k=1e-4"), 0, atol=1e-12)


def test_charge_that_verify_made_up_for_the_gain_is_lost_like_any_other() -> None:
    """A cell of gain g holds V = 3 V - 2 V / g, of which a share L goes: g L V more overdrive, not L 1 V."""
    age = ["variation.retention_s=16200", "variation.retention_loss_decade=0.1"]
    alone = deviations("variation.gain_factor_sigma=0.1", supply=0.9)
    gain = 1 + alone / 0.4  # of which 0.4 V less overdrive takes gain times as much
    both = deviations("variation.gain_factor_sigma=0.1", *age)
    np.testing.assert_allclose(both, -0.1 * gain * (3 - 2 / gain), atol=2e-4)


def test_mismatch_belongs_to_cells_of_a_circuit() -> None:
    with pytest.raises(ConfigError, match=r"coupling_sigma, .* move the thresholds of cells.*choose \"solved\""):
        Config.load(None, ["run.fidelity=ideal", "variation.coupling_sigma=0.02"])
