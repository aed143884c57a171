"""Mismatch of the sense stage's transistors: against decks whose amplifiers and mirrors really are off."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from cosim.arithmetic.patterns import pattern_bits
from cosim.config import Config
from cosim.currents.programming import ProgrammedCell, program
from cosim.errors import ConfigError
from cosim.evaluate import CircuitNetwork
from cosim.netlist import TRANSISTORS, ArrayDecks, Deck
from cosim.readout import Converter
from cosim.spice import Simulator
from tests.conftest import make_network, random_images
from tests.physics.arrays import random_group, read

PELGROM = ["sense.stage=transistor", "variation.sense_avt_v_m=3.5e-9", "variation.sense_abeta_m=1e-8"]
CORNERS = [[], ["corner.process=ss", "corner.temperature_c=-40", "corner.supply=0.9"],
           ["corner.process=ff", "corner.temperature_c=125", "corner.supply=1.1"]]  # fmt: skip
UNIT_A = Config().cell.unit_a
DRIVE = pattern_bits(np.arange(1, 64), 6)
NAMES = list(TRANSISTORS)
SIGMA_V = {name: 3.5e-9 / np.sqrt(2 * width * length) for name, (_, (width, length)) in TRANSISTORS.items()}


def array_of(corner: list[str], simulator: Simulator) -> tuple[ProgrammedCell, Deck]:
    """A group of random cells behind stages of transistors: what was programmed, and its deck."""
    config = Config.load(None, ["run.fidelity=dc", *PELGROM, *corner])
    cell = program(config, simulator)
    group = random_group()
    group = replace(group, units=group.units + np.uint8(8))
    return cell, ArrayDecks(cell.card, cell.shifts, config, cell.closed).deck(group, DRIVE)


def with_thresholds(deck: Deck, bitline: int, shifts: dict[str, float]) -> Deck:
    """The same deck with other thresholds of one bitline's transistors."""
    circuit = deck.circuit
    for name, shift in shifts.items():
        circuit, found = re.subn(rf"(?m)^(ms{name}{bitline} .*)$", rf"\1 delvto={shift:.6g}", circuit)
        assert found == 1
    return replace(deck, circuit=circuit)


@pytest.mark.parametrize("corner", CORNERS)
def test_an_offset_source_before_the_amplifier_is_the_gain_that_is_drawn(
    corner: list[str], simulator: Simulator
) -> None:
    """A source in series with the amplifier's input moves the bitline as a threshold of its pair does."""
    cell, deck = array_of(corner, simulator)
    gate = re.search(r"(?m)^msb0 (\S+) (\S+) ", deck.circuit)
    assert gate is not None
    line = gate.group(0)
    sourced = (
        deck.circuit.replace(line, f"msb0 {gate.group(1)} inb0 ") + f"voff inb0 {gate.group(2)} {SIGMA_V['b']:.6g}\n"
    )
    nominal, moved = (read(simulator, each)[:, 0] for each in (deck, replace(deck, circuit=sourced)))
    assert cell.sense is not None
    found = np.abs(moved - nominal) / nominal
    assert found.min() > 0.009, "1.4 mV of 0.1 V"
    drawn = np.abs(cell.sense.gain[NAMES.index("b")])
    assert (found * nominal).sum() / nominal.sum() == pytest.approx(drawn, rel=0.05)
    # Cells of high levels answer the bitline's voltage in proportion, those nearer to their threshold less.
    np.testing.assert_allclose(found, drawn, rtol=0.1)


@pytest.mark.parametrize("corner", CORNERS)
def test_stages_whose_thresholds_all_differ_measure_what_is_drawn(corner: list[str], simulator: Simulator) -> None:
    """Three bitlines, each with thresholds of its own, by some units: drawn to 0.15 units, near no current to 0.5."""
    cell, deck = array_of(corner, simulator)
    assert cell.sense is not None
    sigmas = np.random.default_rng(1).standard_normal((3, len(NAMES)))
    changed = deck
    for bitline, drawn in enumerate(sigmas):
        off = {name: times * SIGMA_V[name] for name, times in zip(NAMES, drawn, strict=True)}
        changed = with_thresholds(changed, bitline, off)
    nominal, found = (read(simulator, each) for each in (deck, changed))
    thresholds = slice(0, len(NAMES))
    gains, offsets = sigmas @ cell.sense.gain[thresholds], sigmas @ cell.sense.offset_a[thresholds]
    expected = nominal[:, :3] * (1 + gains) + offsets
    assert np.abs(found[:, :3] - nominal[:, :3]).max() > 2 * UNIT_A, "there is something to find"
    error = (found[:, :3] - expected) / UNIT_A
    assert np.sqrt((error**2).mean()) < 0.15
    assert np.abs(error).max() < 0.5
    np.testing.assert_allclose(found[:, 3:], nominal[:, 3:], atol=1e-3 * UNIT_A)


def test_what_a_line_leaves_of_the_effect_is_small(simulator: Simulator) -> None:
    """docs/reading.md gives these figures: 2.7 % of gain, 0.7 units of offset, and 0.12 units that are no line."""
    cell, _ = array_of([], simulator)
    assert cell.sense is not None
    gain, offset = (np.sqrt((each**2).sum()) for each in (cell.sense.gain, cell.sense.offset_a / UNIT_A))
    assert gain == pytest.approx(0.027, abs=0.001)
    assert offset == pytest.approx(0.7, abs=0.05)
    rest = np.sqrt((cell.sense.rest_a**2).sum(axis=0)) / UNIT_A
    assert np.sqrt((rest**2).mean()) == pytest.approx(0.12, abs=0.02)


def test_converters_draw_gain_and_offset_of_their_stage(simulator: Simulator) -> None:
    config = Config.load(None, PELGROM)
    sense = program(config, simulator).sense
    assert sense is not None
    many, few = (Converter.drawn(config, 0, 0, bitlines, sense=sense) for bitlines in (4000, 7))
    assert many.gain.std() == pytest.approx(np.sqrt((sense.gain**2).sum()), rel=0.05)
    per_lsb = UNIT_A * many.lsb_units
    assert (many.offset_lsb * per_lsb).std() == pytest.approx(np.sqrt((sense.offset_a**2).sum()), rel=0.05)
    together = (sense.gain * sense.offset_a).sum() / np.sqrt((sense.gain**2).sum() * (sense.offset_a**2).sum())
    assert np.corrcoef(many.gain, many.offset_lsb)[0, 1] == pytest.approx(together, abs=0.05)
    np.testing.assert_array_equal(few.gain, many.gain[:7])
    other = Converter.drawn(config, 0, 1, 7, sense=sense)
    assert not np.array_equal(few.gain, other.gain)


def test_larger_transistors_of_the_same_shape_differ_less(simulator: Simulator) -> None:
    """Twice the width and length: half the sigma of thresholds, in a stage that works nearly as before."""
    small, large = (program(Config.load(None, [*PELGROM, f"sense.scale={scale}"]), simulator).sense for scale in (1, 2))
    assert small is not None
    assert large is not None
    for name in ("gain", "offset_a"):
        first, second = (np.sqrt((getattr(sense, name) ** 2).sum()) for sense in (small, large))
        assert second == pytest.approx(first / 2, rel=0.15)


def test_a_whole_circuit_draws_them_and_calibration_takes_them_out(shared_store: object) -> None:
    network, images = make_network(), random_images(6)
    settings = ["run.fidelity=solved", "run.layers=all", "array.open_wordlines=5", *PELGROM]
    errors = []
    for method in ("none", "calibration"):
        config = Config.load(None, [*settings, f"trim.method={method}"])
        circuit = CircuitNetwork(network, config, store=shared_store)
        errors.append(float((circuit(images) - network(images)).abs().mean()))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["variation.sense_avt_v_m=3e-9"], r'sense\.stage = "clamp" has none: set sense\.stage to "transistor"'),
        ([*PELGROM, "run.fidelity=ideal"], r'but run\.fidelity = "ideal" has none'),
        (["variation.sense_abeta_m=1"], r"sense_abeta_m"),
    ],
)
def test_stages_without_transistors_have_no_mismatch(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.load(None, settings)
