"""Cells that differ: thresholds and currents with the sigma asked for, charge lost by formula, chips that repeat."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest, truncnorm

from cosim.config import Config
from cosim.currents import SpiceSource
from cosim.currents.programming import cell_curves, program_cell
from cosim.datasets import Dataset
from cosim.device import CellVariation, NormalProgramming, cell_normals, charge_loss, current_sigma, load_card
from cosim.device.sigmas import verified_sigma
from cosim.errors import ConfigError
from cosim.evaluate import CircuitNetwork, RunRecord, compare_record, infer
from cosim.mapping import Group
from cosim.netlist import ArrayDecks
from cosim.spice import Simulator
from tests.conftest import make_network, random_images

SHIFTS = np.linspace(2.4, 0.3, 16)
SMALL = ["run.fidelity=dc", "array.open_wordlines=4", "array.bitline_res_ohm=0"]


def config(*settings: str) -> Config:
    return Config.load(None, ["run.fidelity=dc", *settings])


def group_of(units: np.ndarray, *, tile: int = 0, first_wordline: int = 0) -> Group:
    outputs = units.shape[1] - 1
    return Group(tile, first_wordline, 0, (0, len(units)), (0, outputs), units.astype(np.uint8))


def all_alike(units: int = 8, wordlines: int = 40, bitlines: int = 100) -> Group:
    return group_of(np.full((wordlines, bitlines), units))


def variation_of(settings: Config, shifts: np.ndarray = SHIFTS) -> CellVariation:
    return CellVariation(settings, NormalProgramming(settings, shifts))


def deviations(group: Group, *settings: str, layer: int = 0) -> np.ndarray:
    return variation_of(config(*settings)).cell_shifts(layer, group) - SHIFTS[group.units]


def test_thresholds_are_normal_with_the_sigma_asked_for() -> None:
    found = deviations(all_alike(), "variation.program_sigma_v=0.02").ravel()
    assert kstest(found / 0.02, "norm").pvalue > 1e-3
    assert found.std() == pytest.approx(0.02, rel=0.05)


def test_verify_leaves_a_truncated_normal() -> None:
    found = deviations(all_alike(), "variation.program_sigma_v=0.1", "variation.verify_band_v=0.05").ravel()
    assert np.abs(found).max() <= 0.05
    assert kstest(found / 0.1, truncnorm(-0.5, 0.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("ratio", [1e-6, 0.01, 0.0499, 0.0501, 0.5, 2, 10])
def test_sigma_after_verify_is_that_of_a_truncated_normal(ratio: float) -> None:
    expected = 0.1 * truncnorm(-ratio, ratio).std() if ratio > 1e-3 else 0.1 * ratio / np.sqrt(3)
    assert verified_sigma(np.array([0.1]), 0.1 * ratio) == pytest.approx(expected, rel=1e-3)


def test_current_sigma_is_the_published_form() -> None:
    """Write sigma of fresh SONOS cells, 19.9 (1 - exp(-I / 176)) nA: 6.39 nA at 68 nA, 19.9 nA at most."""
    found = current_sigma(np.array([0.0, 68e-9, 1e-5]), 19.9 / 176, 176e-9)
    assert found == pytest.approx([0, 19.9e-9 * (1 - np.exp(-68 / 176)), 19.9e-9])
    assert current_sigma(np.array([1e-6]), 0.02, None) == pytest.approx(2e-8)


def single_cell_currents(settings: Config, simulator: Simulator, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Currents of 6 x 60 cells of one level read one at a time, and their deviations of threshold."""
    card = load_card(settings.cell.card)
    shifts = program_cell(card, settings, simulator)
    cells = NormalProgramming(settings, shifts, cell_curves(card, settings, simulator).verify)
    group = all_alike(level, wordlines=6, bitlines=60)
    drawn = cells.verified(0, group)
    deck = ArrayDecks(card, shifts, settings).deck(group, np.eye(6), shifts=drawn)
    return simulator.simulate([deck])[0].currents, drawn - shifts[level]


def test_sigma_of_currents_is_slope_times_sigma_of_thresholds(simulator: Simulator) -> None:
    """In the linear region I = beta V_DS (V_GS - V_T - V_DS / 2): dI / dV_T = -beta V_DS, from level 12 to level 4."""
    settings = config("variation.program_sigma_v=0.005", "array.bitline_res_ohm=0")
    card = load_card("nor65")
    shifts = program_cell(card, settings, simulator)
    unit = settings.cell.unit_a
    slope = 8 * unit * cell_curves(card, settings, simulator).verify.log_slopes(shifts)[8]
    assert slope == pytest.approx(8 * unit / (shifts[12] - shifts[4]), rel=0.03)
    currents, drawn = single_cell_currents(settings, simulator, 8)
    np.testing.assert_allclose(currents - 8 * unit, slope * drawn, atol=0.01 * unit)
    assert currents.std() == pytest.approx(abs(slope) * 0.005, rel=0.12)  # 360 cells: 4 % standard error


def test_program_error_of_the_current(simulator: Simulator) -> None:
    settings = config("variation.program_sigma_rel=0.02", "array.bitline_res_ohm=0")
    for level in (2, 15):
        currents, _ = single_cell_currents(settings, simulator, level)
        assert currents.std() == pytest.approx(0.02 * level * settings.cell.unit_a, rel=0.12)


def test_loss_of_charge_by_formula() -> None:
    def loss(*settings: str) -> float:
        return charge_loss(config(*settings).variation)

    assert loss() == 0
    decade = "variation.retention_s=16200"  # nine times the onset: log10(10) is one decade
    assert loss(decade) == pytest.approx(0.005)
    assert loss(decade, "variation.retention_loss_decade=0.02") == pytest.approx(0.02)
    # 1.1 eV from 25 to 85 degrees C shortens time exp(1.1 / 8.617e-5 * (1 / 298.15 - 1 / 358.15)) = 1301 times.
    hot = loss("variation.retention_s=3.6e6", "variation.retention_temperature_c=85")
    assert hot == pytest.approx(0.005 * np.log10(1 + 2000 * 1301), rel=1e-3)
    assert loss("variation.retention_s=1e10", "variation.retention_temperature_c=250") < 0.1


def test_loss_at_room_temperature_is_half_of_that_at_90_degrees() -> None:
    """Measured on 45 nm NOR after 1000 hours (Calabrese et al., ICICDT 2013)."""
    cold, hot = (
        charge_loss(config("variation.retention_s=3.6e6", f"variation.retention_temperature_c={celsius}").variation)
        for celsius in (25, 90)
    )
    assert cold / hot == pytest.approx(0.5, abs=0.02)


def test_cells_lose_in_proportion_to_their_charge() -> None:
    group = group_of(np.arange(16)[:, None].repeat(3, axis=1))
    age = ["variation.retention_s=16200", "variation.retention_loss_decade=0.1"]
    np.testing.assert_allclose(deviations(group, *age), -0.1 * SHIFTS[group.units])
    neutral = deviations(group, *age, "variation.neutral_shift_v=0.5")
    np.testing.assert_allclose(neutral, -0.1 * (SHIFTS[group.units] - 0.5))
    spread = deviations(all_alike(), *age, "variation.retention_spread=0.2").ravel() / SHIFTS[8]
    assert spread.mean() == pytest.approx(-0.1, rel=0.02)
    assert spread.std() == pytest.approx(0.02, rel=0.05)
    assert np.all(spread <= 0)


def test_a_small_share_of_the_cells_loses_much_more() -> None:
    """The tail is exponential: among its cells, what is lost beyond the mean loss has a mean of `retention_tail`."""
    age = ["variation.retention_s=16200", "variation.retention_loss_decade=0.01", "variation.retention_tail_share=0.2"]
    lost = -deviations(all_alike(), *age, "variation.retention_tail=5").ravel() / SHIFTS[8] / 0.01
    tail = lost[lost > 1 + 1e-9] - 1
    assert len(tail) == pytest.approx(0.2 * lost.size, rel=0.1)
    assert kstest(tail / 5, "expon").pvalue > 1e-3
    np.testing.assert_allclose(lost[lost <= 1 + 1e-9], 1)
    everything = deviations(all_alike(), *age, "variation.retention_tail=1000").ravel()
    assert everything.min() == pytest.approx(-SHIFTS[8]), "no cell loses more than it has"


def test_levels_of_electrons_rise_and_levels_of_holes_fall() -> None:
    """Cells go towards the one without charge: of the default design, levels 0 to 10 rise and levels 11 to 15 fall."""
    group = group_of(np.arange(16)[:, None].repeat(2, axis=1))
    age = ["variation.retention_s=16200", "variation.retention_tail_share=0.5"]
    shifts = np.array([*SHIFTS[:11], -0.1, -0.2, -0.3, -0.4, -0.5])
    moved = variation_of(config(*age), shifts).cell_shifts(0, group) - shifts[group.units]
    assert np.all(moved[:11] < 0), "a lower threshold, more current"
    assert np.all(moved[11:] > 0)


def test_a_cell_is_drawn_by_its_place_alone() -> None:
    settings = config()
    whole = group_of(np.zeros((30, 8)), tile=2)
    part = group_of(np.zeros((5, 3)), tile=2, first_wordline=11)
    drawn = cell_normals(settings, "program error", 4, whole)
    assert np.array_equal(cell_normals(settings, "program error", 4, part), drawn[11:16, :3])
    others = [
        cell_normals(settings, "program error", 5, whole),
        cell_normals(settings, "program error", 4, replace(whole, tile=3)),
        cell_normals(settings, "traps", 4, whole),
        cell_normals(config("variation.chip=1"), "program error", 4, whole),
        cell_normals(config("run.seed=1"), "program error", 4, whole),
        cell_normals(config(f"run.seed={2**32}"), "program error", 4, whole),
    ]
    for first, second in zip([drawn, *others[:-1]], others, strict=True):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.25


def chip_of(store: Path, *settings: str) -> CircuitNetwork:
    return CircuitNetwork(make_network(), Config.load(None, [*SMALL, *settings]), store=store)


def deck_texts(circuit: CircuitNetwork, layer: str) -> list[str]:
    assert isinstance(circuit.source, SpiceSource)
    return [circuit.source.deck(request).text() for _, request in circuit.arrays[layer].reader.every_request()]


def test_a_chip_is_the_same_however_it_is_simulated(shared_store: Path, tmp_path: Path) -> None:
    """Whatever the workers, the size of a deck, the order of images, and the layers that are simulated with it."""
    error, images = "variation.program_sigma_v=0.03", random_images(12)
    chip = chip_of(shared_store, error)
    logits = chip(images)
    assert torch.equal(chip_of(tmp_path / "one", error, "run.workers=1")(images), logits)
    assert torch.equal(chip_of(tmp_path / "two", error, "run.workers=2")(images.flip(0)).flip(0), logits)
    assert torch.equal(chip_of(shared_store, error, "run.patterns_per_deck=4")(images), logits)
    alone = deck_texts(chip_of(shared_store, error, "run.layers=conv2"), "conv2")
    assert alone == deck_texts(chip, "conv2")
    assert not torch.equal(chip_of(shared_store, error, "variation.chip=1")(images), logits)


def test_a_chip_without_errors_is_the_design_to_the_letter(simulator: Simulator) -> None:
    other = ["variation.chip=3", "adc.noise_lsb=1", "adc.capacitor_sigma=0.01"]
    design, chip = (chip_of(simulator.store.root, *settings) for settings in ([], other))
    assert deck_texts(design, "conv1") == deck_texts(chip, "conv1")


def test_a_chip_with_everything_that_can_be_wrong(shared_store: Path, tmp_path: Path) -> None:
    """A whole run: audits find the reads of noisy images, and the record keeps what the chip drew."""
    settings = [
        "variation.program_sigma_v=0.05", "variation.retention_s=3e8", "variation.read_sigma_rel=0.02",
        "variation.telegraph_traps=0.05", "variation.sense_gain_sigma=0.01", "adc.gain_error=0.01",
        "adc.offset_lsb=0.5", "adc.capacitor_sigma=0.02", "adc.noise_lsb=0.3", "adc.range=calibrated-column",
        "adc.bits=6", "trim.method=calibration",
    ]  # fmt: skip
    images = (random_images(30) * 255).to(torch.uint8)
    dataset = Dataset("random", images, 255, torch.arange(30) % 3, "", training=(images / 255).repeat(3, 1, 1, 1))
    record, again = (infer(chip_of(shared_store, *settings), dataset) for _ in range(2))
    assert np.array_equal(record.logits_circuit, again.logits_circuit)
    assert record.audit is not None
    assert record.audit.max_error_lsb < 0.01
    record.save(tmp_path / "run.h5")
    loaded = RunRecord.load(tmp_path / "run.h5")
    assert compare_record(loaded) == compare_record(record)
    chip = loaded.provenance.chip
    assert chip["program_sigma_v"] == 0.05
    assert chip["overlapping_levels"] > 5
    assert chip["charge_loss"] == pytest.approx(0.005 * np.log10(1 + 3e8 / 1800))
    for layer in loaded.layers:
        assert 0.3 < layer.noise_lsb < 1
        assert layer.trim_gain_spread > 0.01


def test_levels_that_overlap_are_counted() -> None:
    """Steps of 0.14 V: seven sigmas at 20 mV, 2.8 at 50 mV, and 14 sigmas over all levels at 150 mV."""
    separated = variation_of(config("variation.program_sigma_v=0.02", "cell.offset_units=0"))
    assert separated.separation == pytest.approx(np.full(15, 7.0))
    assert separated.overlapping == 0
    assert variation_of(config("variation.program_sigma_v=0.05", "cell.offset_units=0")).overlapping == 15
    verified = config("variation.program_sigma_v=0.15", "variation.verify_band_v=0.04", "cell.offset_units=0")
    assert variation_of(verified).overlapping == 0


def test_levels_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no two levels .* sigma of 0\.6 V after verify.*2\.1 V from the lowest"):
        variation_of(config("variation.program_sigma_v=0.6", "cell.offset_units=0"))


def test_a_cell_that_has_lost_everything_is_refused() -> None:
    age = ["variation.retention_s=1e9", "variation.retention_temperature_c=250", "variation.retention_loss_decade=0.2"]
    with pytest.raises(ConfigError, match=r"retention_s = 1e\+09 at 250 degrees C loses .* % of the charge: shorten"):
        variation_of(config(*age))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["run.fidelity=ideal", "variation.program_sigma_v=0.02"],
            r"thresholds of cells.*choose \"solved\", \"dc\" or \"tran\"",
        ),
        (["run.fidelity=ideal", "variation.retention_s=1"], r"thresholds of cells.*choose"),
        (["variation.program_sigma_v=20"], r"variation\.program_sigma_v.*found 20"),
        (["variation.chip=-1"], r"variation\.chip"),
        (["variation.chips=1"], r"unknown key variation\.chips: did you mean 'chip'"),
    ],
)
def test_settings_that_cannot_be(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.load(None, settings)
