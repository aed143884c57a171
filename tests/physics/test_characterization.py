"""A cell measured as a device: its figures against single reads and against arithmetic."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from cosim.config import Config, Corner
from cosim.device import load_card
from cosim.experiments.characterization import THRESHOLD_A, Characterization, characterize
from cosim.netlist import curve_deck
from cosim.report.cell_plots import write_cell_plots
from cosim.report.cell_tables import cell_corner_table, cell_table, write_cell_tables
from cosim.spice import Simulator, Store


@pytest.fixture(scope="module")
def measured(shared_store: Path) -> Characterization:
    config = Config()
    return characterize(config, Simulator(config.run, Store(shared_store)))


def test_currents_are_those_of_single_reads(measured: Characterization, simulator: Simulator) -> None:
    np.testing.assert_allclose(measured.currents[1:], measured.targets[1:], rtol=2e-6)
    nominal = measured.corners.index(Corner())
    np.testing.assert_array_equal(measured.corner_currents[nominal], measured.currents)
    read = int(np.argmin(np.abs(measured.gate_v - 4.0)))
    assert measured.gate_v[read] == pytest.approx(4.0)
    np.testing.assert_allclose(measured.transfer[read], measured.currents, rtol=1e-4)
    deck = curve_deck(load_card("nor65"), measured.shifts, np.full(16, measured.drain_v[-1]), measured.config)
    np.testing.assert_allclose(measured.output[-1], simulator.simulate([deck])[0].currents[0], rtol=1e-5)


def test_the_sensitivity_is_the_slope_of_current_against_shift(measured: Characterization) -> None:
    by_levels = np.gradient(measured.currents, measured.shifts)
    np.testing.assert_allclose(measured.slopes[3:-1], -by_levels[3:-1], rtol=0.02)


def test_a_threshold_shift_moves_the_threshold_by_itself(measured: Characterization) -> None:
    """The transfer curve is translated along the control-gate voltage, at the threshold current and elsewhere."""
    moved = measured.thresholds - measured.thresholds[-1]
    np.testing.assert_allclose(moved, measured.shifts - measured.shifts[-1], atol=5e-3)
    assert 0.15 < measured.swing < 0.2
    assert 1e4 < measured.on_off < 1e6
    at = np.interp(measured.thresholds[8], measured.gate_v, np.log(measured.transfer[:, 8]))
    assert np.exp(at) == pytest.approx(THRESHOLD_A, rel=1e-6)


def test_linearity_takes_gain_and_offset_out(measured: Characterization) -> None:
    line = 3e-7 + 0.9 * measured.targets
    assert measured.inl(line) < 1e-12
    bent = line + np.where(np.arange(16) == 8, 6e-8, 0)
    assert 0.008 < measured.inl(bent) < 0.01, "one level off by 1 % of full scale, less what the line follows it"
    assert measured.inl(measured.currents) < 1e-5
    assert 0.01 < measured.inl(measured.equal_steps) < 0.02, "equal steps of threshold are no equal steps of current"


def test_files_hold_what_was_measured(measured: Characterization, tmp_path: Path) -> None:
    names = {path.name for path in (*write_cell_tables(measured, tmp_path), *write_cell_plots(measured, tmp_path))}
    assert names == {path.name for path in tmp_path.iterdir()}
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in tmp_path.glob("*.png"))
    with (tmp_path / "corners.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0][:4] == ["process", "temperature_c", "supply", "level0_a"]
    found = np.array([[float(value) for value in row[3:]] for row in rows[1:]])
    np.testing.assert_allclose(found, measured.corner_currents, rtol=1e-8)
    assert len(rows) == 1 + 5 * 4 + 2
    transfer = np.loadtxt(tmp_path / "transfer.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(transfer[:, 1:], measured.transfer, rtol=1e-8)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [level["shift_v"] for level in summary["levels"]] == measured.shifts.tolist()
    assert summary["config"] == measured.config.to_record()
    assert cell_table(measured).row_count == 16
    assert cell_corner_table(measured).row_count == 22


def test_a_card_of_one_corner_and_two_levels(tmp_path: Path, shared_store: Path) -> None:
    path = tmp_path / "square.lib"
    path.write_text(
        ".model q nmos level=1 vto=1 kp=100u\n.subckt c d g s b dvt=0\n"
        "bg g1 0 v=v(g)-dvt\nm1 d g1 s b q w=0.1u l=0.1u\n.ends\n"
    )
    config = Config.load(None, [f"cell.card={path}", "cell.bits=1"])
    measured = characterize(config, Simulator(config.run, Store(shared_store)))
    assert len(measured.corners) == 4 + 2
    assert np.isfinite(measured.corner_currents).all()
    write_cell_tables(measured, tmp_path)
    write_cell_plots(measured, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["levels"][1]["current_a"] == pytest.approx(config.cell.full_scale_a, rel=1e-5)
