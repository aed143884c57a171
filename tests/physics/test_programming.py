"""Incremental pulses: electron by electron, the distribution that verify leaves, and chips that are drawn from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from cosim.config import Config, Programming
from cosim.device import CellCurve, Population, PulseProgramming, program_population
from cosim.device.pulses import CELLS, transfer
from cosim.errors import ConfigError
from cosim.experiments.programmed import ProgrammedCells, program_cells
from cosim.mapping import Group
from cosim.report.programmed_cells import programmed_table, write_programmed
from cosim.spice import Simulator, Store

ELECTRON_V = 1.602e-19 / 1e-16
LEVELS = np.array([0.9, 0.4, -0.1])
# A cell in its linear region: 4.5 uA for every volt of overdrive.
CURVE = CellCurve.of(np.linspace(-4, 2.9, 400), 4.5e-6 * (3 - np.linspace(-4, 2.9, 400)))
QUIET = ("programming.verify_noise_a=0", "programming.capacitance_f=1e-13")


def settings(*keys: str) -> Config:
    return Config.load(None, ["programming.method=pulses", *keys])


def population_of(*keys: str) -> Population:
    return program_population(settings(*keys), LEVELS, CURVE)


def limits_v(config: Config) -> np.ndarray:
    """The thresholds at which the cells of the three levels enter their band."""
    return LEVELS - config.programming.band_units * config.cell.unit_a / 4.5e-6


def test_a_cell_follows_the_ramp_step_by_step() -> None:
    """From wherever it begins, its rises come to equal the steps of the wordline."""
    programming, shift = Programming(step_v=0.1), np.array([-2.0, -1.0, 0.5])
    for pulse in range(60):
        rise, _ = transfer(programming, -1.0 + 0.1 * pulse - shift)
        shift += rise
    np.testing.assert_allclose(rise, 0.1, rtol=1e-3)
    assert np.ptp(shift) < 1e-3, "and the beginning is forgotten"


@pytest.mark.parametrize(("step_v", "efold_v"), [(0.02, 0.6), (0.2, 0.2), (0.3, 0.1)])
def test_mean_and_sigma_of_a_rise_are_those_of_electrons_that_come_one_by_one(step_v: float, efold_v: float) -> None:
    """The rate of injection falls e-fold for every `efold_v` that electrons have raised the threshold."""
    generator, cells = np.random.default_rng(0), 4000
    mean, sigma = transfer(Programming(step_v=step_v, efold_v=efold_v), np.zeros(()))
    pulse = np.expm1(step_v / efold_v) * efold_v / ELECTRON_V  # length, if the first electron comes at a rate of 1
    clock, rise = np.zeros(cells), np.zeros(cells)
    while (left := clock < pulse).any():
        clock[left] += generator.exponential(np.exp(rise[left] / efold_v))
        rise[left & (clock < pulse)] += ELECTRON_V
    assert rise.mean() == pytest.approx(mean, abs=4 * sigma / cells**0.5 + ELECTRON_V / 2)
    assert rise.std() == pytest.approx(sigma, rel=0.08)


def test_small_rises_are_poissonian_and_large_ones_less_than_that() -> None:
    _, small = transfer(Programming(step_v=1e-3), np.zeros(()))
    assert small == pytest.approx((ELECTRON_V * 1e-3) ** 0.5, rel=2e-3)
    _, large = transfer(Programming(step_v=2.0, efold_v=0.1), np.zeros(()))
    assert large == pytest.approx((ELECTRON_V * 0.1 / 2) ** 0.5, rel=1e-3)


def test_without_noise_cells_end_within_a_step_of_their_band() -> None:
    keys = (*QUIET, "programming.speed_sigma_v=0", "programming.step_v=0.05")
    found, limit = population_of(*keys), limits_v(settings(*keys))[:, None]
    assert np.all(found.shifts >= limit - 1e-6)
    assert np.all(found.shifts < limit + 0.06)
    # The ramp takes them there from the erased cells: 20 pulses a volt.
    between = np.diff(found.pulses.mean(axis=1))
    np.testing.assert_allclose(between, -10, atol=1)


@pytest.mark.parametrize("keys", [("programming.step_v=0.1",), (), ("programming.verify_noise_a=4e-8",)])
def test_spread_is_that_of_a_renewal_process(keys: tuple[str, ...]) -> None:
    """Beyond the limit lies the excess of the last rise: m^2 / 12 + s^2 / 2 - (s^2 / 2 m)^2, and the verify's noise."""
    config, found = settings(*keys), population_of(*keys)
    mean, sigma = (float(each) for each in transfer(config.programming, np.zeros(())))
    noise = config.programming.verify_noise_a / 4.5e-6
    spread = (mean**2 / 12 + sigma**2 / 2 - (sigma**2 / (2 * mean)) ** 2 + noise**2) ** 0.5
    np.testing.assert_allclose(found.shifts[:2].std(axis=1), spread, rtol=0.1)
    middle = limits_v(config)[:2] + (mean**2 + sigma**2) / (2 * mean)
    np.testing.assert_allclose(found.shifts[:2].mean(axis=1), middle, atol=0.15 * mean + noise)


def test_a_noisy_verify_stops_some_cells_too_early() -> None:
    quiet, noisy = population_of(*QUIET), population_of(QUIET[1], "programming.verify_noise_a=1e-7")
    assert np.all(noisy.shifts.mean(axis=1) < quiet.shifts.mean(axis=1))
    assert np.all(noisy.shifts.std(axis=1) > 1.5 * quiet.shifts.std(axis=1))
    cell_noise = population_of(*QUIET, "variation.read_sigma_rel=0.02")
    assert np.all(cell_noise.shifts.std(axis=1) > 1.5 * quiet.shifts.std(axis=1))


def test_cells_erased_beyond_their_level_stay_there() -> None:
    """Pulses only raise thresholds: such cells get none, and the others are as they would be."""
    keys = ("programming.erased_sigma_v=0.6", "programming.speed_sigma_v=0")
    found, limit = population_of(*keys), limits_v(settings(*keys))[2]
    never = found.pulses[2] == 0
    assert never.mean() == pytest.approx(0.067, abs=0.02)  # 0.9 V are 1.5 sigmas
    assert found.shifts[2, never].min() > limit - 0.01
    assert found.shifts[2, ~never].max() < limit + 0.1


def group_of(levels: int, wordlines: int, bitlines: int, first: int = 0) -> Group:
    units = np.full((wordlines, bitlines), levels, np.uint8)
    return Group(0, first, 0, (0, wordlines), (0, bitlines - 1), units)


def test_a_chip_is_drawn_from_the_population_by_place() -> None:
    config, found = settings("cell.offset_units=0"), population_of()
    cells = PulseProgramming(config, found)
    drawn = cells.verified(3, group_of(1, 40, 100))
    assert ks_2samp(drawn.ravel(), found.shifts[1]).pvalue > 1e-3
    np.testing.assert_array_equal(cells.verified(3, group_of(1, 5, 7, first=11)), drawn[11:16, :7])
    other = PulseProgramming(settings("cell.offset_units=0", "variation.chip=1"), found)
    assert abs(np.corrcoef(other.verified(3, group_of(1, 40, 100)).ravel(), drawn.ravel())[0, 1]) < 0.1
    again = population_of("variation.chip=1", "run.seed=7")
    np.testing.assert_array_equal(again.shifts, found.shifts)


@pytest.fixture(scope="module")
def measured(shared_store: Path) -> ProgrammedCells:
    config = settings()
    return program_cells(config, Simulator(config.run, Store(shared_store)), cells=500)


def test_cells_of_the_default_design(measured: ProgrammedCells) -> None:
    """7 mV about their levels, a twelfth of a level; and nothing more, read where they were verified."""
    np.testing.assert_allclose(measured.verified_v.mean(axis=0), measured.targets_v, atol=0.004)
    assert 0.005 < measured.verified_v.std(axis=0).min() < measured.verified_v.std(axis=0).max() < 0.009
    np.testing.assert_allclose(measured.read_a, measured.verified_a, rtol=1e-9)
    assert measured.in_band is not None
    assert measured.in_band.min() > 0.6
    assert measured.population is not None
    assert measured.cell_s is not None
    np.testing.assert_allclose(measured.cell_s, 1.1e-6 * measured.population.pulses.mean(axis=1))
    assert measured.wordline_s is not None
    assert measured.cell_s.max() < measured.wordline_s < 1.1e-6 * measured.population.pulses.max()


def test_the_population_is_programmed_once(simulator: Simulator, measured: ProgrammedCells) -> None:
    answers = set((simulator.store.root / "answers").iterdir())
    again = program_cells(settings("variation.chip=5"), simulator, cells=2)
    assert set((simulator.store.root / "answers").iterdir()) == answers
    assert again.population is not None
    assert measured.population is not None
    np.testing.assert_array_equal(again.population.shifts, measured.population.shifts)
    assert again.population.shifts.shape == (16, CELLS)


def test_tables_and_files_hold_the_figures(measured: ProgrammedCells, simulator: Simulator, tmp_path: Path) -> None:
    paths = write_programmed(measured, tmp_path)
    figures = json.loads(paths[0].read_text())
    assert figures["levels"][15]["shift_sigma_v"] == measured.verified_v[:, 15].std()
    assert figures["sigma_v"] == pytest.approx(0.0069, abs=3e-4)
    assert figures["sigma_units"] == pytest.approx(0.075, abs=4e-3)
    assert figures["levels"][3]["pulses"] > figures["levels"][4]["pulses"]
    cells = np.loadtxt(paths[1], delimiter=",", skiprows=1)
    np.testing.assert_allclose(cells[:, :16], measured.verified_v, atol=1e-6)
    assert paths[2].read_bytes()[:4] == b"\x89PNG"
    assert programmed_table(measured).row_count == 16
    plain = program_cells(Config.load(None, ["variation.program_sigma_v=0.02"]), simulator, cells=50)
    assert plain.cell_s is plain.wordline_s is plain.in_band is None
    assert "pulses" not in plain.to_json()["levels"][0]
    assert len(programmed_table(plain).columns) == 5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["variation.program_sigma_v=0.02"], r'method = "pulses" computes the error .*program_sigma_v = 0\.02'),
        (["variation.verify_band_v=0.02"], r"verify_band_v = 0\.02, which prescribes it"),
        (["run.fidelity=ideal"], r"programming\.method, .* move the thresholds of cells"),
        (["programming.step_v=0"], r"programming\.step_v"),
    ],
)
def test_keys_that_contradict(keys: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(*keys)


def test_ramps_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"erased_shift_v = 0 V must be below the lowest level, at -0\.1 V"):
        population_of("programming.erased_shift_v=0")
    with pytest.raises(ConfigError, match=r"step_v = 0\.001 V makes a ramp of 2\d+ pulses.*at most 2000: enlarge"):
        population_of("programming.step_v=1e-3")


def test_cells_without_error_are_not_measured(simulator: Simulator) -> None:
    with pytest.raises(ConfigError, match=r"every cell is exactly at its level: set programming\.method"):
        program_cells(Config(), simulator)
