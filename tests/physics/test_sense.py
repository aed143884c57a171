"""Sense stages: a resistance in front of the clamp, and a stage of transistors whose mirrored current is measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cosim.arithmetic.patterns import pattern_bits
from cosim.config import Config
from cosim.currents.programming import program_cell
from cosim.device import load_card
from cosim.errors import ConfigError
from cosim.evaluate import CircuitNetwork
from cosim.readout import ideal_sums
from cosim.spice import Simulator
from tests.conftest import make_network, random_images
from tests.physics.arrays import CARD, decks_for, random_group, read, stage_response

UNIT_A = Config().cell.unit_a
TRANSISTORS = ["sense.stage=transistor"]
LOADS = np.linspace(0, 135 * UNIT_A, 28)
DRIVE = pattern_bits(np.array([0, 1, 63, 32, 21, 63, 0, 42, 1]), 6)


def test_a_resistive_clamp_is_so_much_more_wire(simulator: Simulator) -> None:
    """One wordline behind 20 closed ones sees 21 cells of wire in series, or as much in front of the clamp."""
    group = random_group(first_wordline=20, wordlines=1)
    one = np.eye(2, group.inputs)
    wire = decks_for(["run.fidelity=dc", "array.bitline_res_ohm=10"], simulator).deck(group, one)
    stage = ["sense.stage=resistive", "sense.clamp_ohm=210", "array.bitline_res_ohm=0"]
    clamp = decks_for(["run.fidelity=dc", *stage], simulator).deck(group, one)
    np.testing.assert_allclose(read(simulator, clamp), read(simulator, wire), rtol=1e-5, atol=1e-11)


def test_an_ideal_clamp_holds_whatever_is_drawn(simulator: Simulator) -> None:
    measured, volts = stage_response([], LOADS, simulator)
    np.testing.assert_allclose(measured, LOADS, atol=1e-12)
    np.testing.assert_allclose(volts, 0.1, rtol=1e-9)


def test_the_transistors_hold_the_bitline_and_copy_its_current(simulator: Simulator) -> None:
    """What docs/reading.md says of the stage: impedance, offset and error of the mirror."""
    measured, volts = stage_response(TRANSISTORS, LOADS, simulator)
    slope = -np.diff(volts) / np.diff(LOADS)
    assert np.all(slope > 0)
    assert slope.max() < 700  # close to no current but the keeper's
    assert slope[5:].max() < 90  # above 25 unit currents
    assert np.abs(volts - 0.1).max() < 0.007
    gain, offset = np.polyfit(LOADS, measured, 1)
    assert gain == pytest.approx(1, abs=0.02)
    assert abs(offset) < UNIT_A
    assert np.abs(measured - gain * LOADS - offset).max() < UNIT_A
    assert np.all(np.diff(measured) > 0)


@pytest.mark.parametrize("process", ["ff", "ss", "fs", "sf"])
@pytest.mark.parametrize("rest", [(-40, 0.9), (125, 1.1)])
def test_the_stage_works_at_every_corner(process: str, rest: tuple[float, float], simulator: Simulator) -> None:
    corner = [f"corner.process={process}", f"corner.temperature_c={rest[0]}", f"corner.supply={rest[1]}"]
    measured, volts = stage_response([*TRANSISTORS, *corner], LOADS, simulator)
    assert np.abs(volts - 0.1 * rest[1]).max() < 0.02
    assert np.abs(measured - LOADS).max() < 4 * UNIT_A


def test_skewed_corners_move_the_periphery_alone(simulator: Simulator) -> None:
    """The cell is typical in fs and sf: behind an ideal clamp nothing changes, behind transistors it does."""
    group = random_group()
    for stage, moved in (("clamp", False), ("transistor", True)):
        found = [
            read(simulator, decks_for(["run.fidelity=dc", f"sense.stage={stage}", f"corner.process={name}"], simulator)
                 .deck(group, DRIVE))
            for name in ("fs", "sf")
        ]  # fmt: skip
        assert bool(np.abs(found[0] - found[1]).max() > 0.05 * UNIT_A) == moved


def test_the_mirrored_current_follows_the_sum_of_levels(simulator: Simulator) -> None:
    group = random_group()
    sums = ideal_sums(group, DRIVE)
    settled = read(simulator, decks_for(["run.fidelity=dc", *TRANSISTORS], simulator).deck(group, DRIVE))
    assert np.abs(settled / UNIT_A - sums).max() < 0.04 * sums.max() + 0.5
    reading = simulator.simulate([decks_for(TRANSISTORS, simulator).deck(group, DRIVE)])[0]
    still_moving = reading.unsettled[:, None]
    assert np.all(np.abs(reading.currents - settled) < still_moving + 0.05 * UNIT_A)
    assert still_moving.max() < UNIT_A


def test_a_pulse_too_short_for_the_stage_is_seen(simulator: Simulator) -> None:
    """An ideal clamp settles within 3 ns, the mirror does not: what is checked is the mirrored current."""
    group, short = random_group(), ["read.pulse_s=3e-9", "read.rise_s=2e-10"]
    unsettled = [
        simulator.simulate([decks_for([*short, *stage], simulator).deck(group, DRIVE)])[0].unsettled.max()
        for stage in ([], TRANSISTORS)
    ]
    assert unsettled[0] < 0.1 * UNIT_A
    assert unsettled[1] > UNIT_A


def test_levels_are_programmed_against_the_ideal_clamp(simulator: Simulator) -> None:
    nominal = program_cell(CARD, Config(), simulator)
    for stage in ("resistive", "transistor"):
        config = Config.load(None, [f"sense.stage={stage}"])
        np.testing.assert_array_equal(program_cell(CARD, config, simulator), nominal)


def test_trimming_takes_out_what_the_stage_does(shared_store: object) -> None:
    network, images = make_network(), random_images(6)
    settings = ["run.fidelity=dc", "run.layers=all", "array.open_wordlines=5", *TRANSISTORS]
    errors = []
    for method in ("none", "calibration"):
        circuit = CircuitNetwork(network, Config.load(None, [*settings, f"trim.method={method}"]), store=shared_store)
        with torch.no_grad():
            errors.append((circuit(images) - network(images)).abs().mean())
    assert errors[1] < errors[0] / 2


def test_the_periphery_has_both_kinds_of_transistor_at_every_corner() -> None:
    for section in load_card("periph65").sections.values():
        assert {name: model.kind for name, model in section.models.items()} == {"nmos": "nmos", "pmos": "pmos"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["sense.stage=resistive", "sense.clamp_ohm=20e3"],
            r"drop 0\.184 V on it.*usual values are 10 to 1000 ohm",
        ),
        (["sense.stage=transistor", "read.bitline_v=0.5"], r"hold bitlines at 0\.05 to 0\.3 V.*bitline_v = 0\.5"),
        (["sense.stage=mirror"], r"sense\.stage: Input should be 'clamp', 'resistive' or 'transistor'"),
    ],
)
def test_stages_that_cannot_work(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.load(None, settings)
