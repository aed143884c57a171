"""Currents of arrays in ngspice against Kirchhoff's law solved apart from it, and the premises of pattern tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cosim.config import Config
from cosim.mapping import gray_order
from cosim.readout import Converter, ideal_sums
from cosim.reference import solve_group
from cosim.spice import Simulator
from tests.physics.arrays import CARD, cell_curve, decks_for, drive_of, random_group, read


@pytest.mark.parametrize("fidelity", ["dc", "tran"])
@pytest.mark.parametrize("ohm", [0.0, 0.4, 40.0])
def test_currents_equal_an_independent_nodal_solution(fidelity: str, ohm: float, simulator: Simulator) -> None:
    closed = "array.closed_wordlines=omitted"  # the solver knows nothing of them
    decks = decks_for([f"run.fidelity={fidelity}", f"array.bitline_res_ohm={ohm}", closed], simulator)
    config = decks.config
    curve = cell_curve(CARD, decks.shifts, config, simulator)
    group, patterns = random_group(), gray_order(64)
    solved = solve_group(group, patterns, config.array, config.read.bitline_v, curve)
    full_scale = 6 * config.cell.full_scale_a
    assert np.abs(read(simulator, decks.deck(group, drive_of(group, patterns))) - solved).max() < 2e-6 * full_scale


def test_wires_take_from_the_ideal_sum(simulator: Simulator) -> None:
    group, patterns = random_group(), gray_order(64)
    converter = Converter.from_config(Config())
    errors = []
    for ohm in (0.0, 1.0, 10.0):
        decks = decks_for(["run.fidelity=dc", f"array.bitline_res_ohm={ohm}"], simulator)
        lsb = converter.in_lsb(read(simulator, decks.deck(group, drive_of(group, patterns))))
        errors.append(np.abs(lsb - ideal_sums(group, drive_of(group, patterns))).max())
    assert errors[0] < 2e-3
    assert errors[0] < errors[1] < errors[2]


def test_superposition_holds_without_wires_and_fails_with_them(simulator: Simulator) -> None:
    group, patterns = random_group(), np.array([0, 0b000111, 0b111000, 0b111111])
    for ohm, holds in ((0.0, True), (40.0, False)):
        decks = decks_for(["run.fidelity=dc", f"array.bitline_res_ohm={ohm}"], simulator)
        none, low, high, both = read(simulator, decks.deck(group, drive_of(group, patterns)))
        assert np.allclose(low + high - none, both, rtol=1e-7) is holds


def test_a_pulse_too_short_to_settle_is_seen(simulator: Simulator) -> None:
    """With a bitline whose RC is of the order of the pulse, the current still moves at the sample."""
    slow = ["array.bitline_res_ohm=40", "array.bitline_cap_f=5e-15", "read.pulse_s=2e-9", "read.rise_s=0.5e-9"]
    group, patterns = random_group(), gray_order(16)
    (unsettled,) = simulator.simulate([decks_for(slow, simulator).deck(group, drive_of(group, patterns))])
    (settled,) = simulator.simulate([decks_for([], simulator).deck(group, drive_of(group, patterns))])
    unit = Config().cell.unit_a
    assert unsettled.unsettled.max() > 0.1 * unit
    assert settled.unsettled.max() < 0.01 * unit


def test_bitlines_do_not_see_each_other(simulator: Simulator) -> None:
    decks = decks_for(["array.bitline_res_ohm=10", "run.fidelity=dc"], simulator)
    group, patterns = random_group(), gray_order(64)
    alone = replace(group, units=group.units[:, 2:3])
    whole = read(simulator, decks.deck(group, drive_of(group, patterns)))
    single = read(simulator, decks.deck(alone, drive_of(alone, patterns)))
    np.testing.assert_allclose(whole[:, 2:3], single, rtol=1e-6, atol=1e-12)


def test_order_of_patterns_does_not_matter(simulator: Simulator) -> None:
    decks = decks_for([], simulator)
    group = random_group()
    shuffled = np.random.default_rng(0).permutation(64)
    gray = read(simulator, decks.deck(group, drive_of(group, gray_order(64))))[np.argsort(gray_order(64))]
    mixed = read(simulator, decks.deck(group, drive_of(group, shuffled)))[np.argsort(shuffled)]
    assert np.abs(gray - mixed).max() < 0.005 * Config().cell.unit_a


def test_a_sweep_of_a_single_read(simulator: Simulator) -> None:
    decks, group = decks_for(["run.fidelity=dc"], simulator), random_group()
    single = read(simulator, decks.deck(group, drive_of(group, np.array([5]))))
    assert np.allclose(single, read(simulator, decks.deck(group, drive_of(group, np.array([4, 5]))))[1:], rtol=1e-5)


def test_the_same_pattern_twice_gives_the_same_current(simulator: Simulator, tmp_path: Path) -> None:
    decks = decks_for([], simulator)
    group, patterns = random_group(), np.array([5, 5, 0, 0, 5])
    repeated = read(simulator, decks.deck(group, drive_of(group, patterns), careful=True))
    assert np.abs(repeated[[1, 4]] - repeated[0]).max() < 1e-4 * Config().cell.unit_a
    assert np.abs(repeated[2:4]).max() < 1e-3 * Config().cell.unit_a
