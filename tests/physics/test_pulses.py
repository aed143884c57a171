"""Pulse widths: the charge of nested patterns, from tables and from the waveform of a deck."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cosim.arithmetic.codes import code_units
from cosim.arithmetic.patterns import layer_patterns, pattern_bits
from cosim.config import Config
from cosim.datasets import Dataset
from cosim.evaluate import CircuitNetwork, compare_record, infer
from cosim.mapping import plan_tiles
from cosim.network import Network
from cosim.readout import Converter
from cosim.spice import Simulator
from tests.conftest import LEVEL_0_OFF, make_layer, make_network, random_images
from tests.physics.arrays import decks_for, random_group, read

PULSES = ["read.mode=pulse-width"]
UNIT_A = Config().cell.unit_a


def test_wordlines_are_open_for_as_many_pulses_as_the_activation() -> None:
    layer = make_layer(inputs=2, kernel=(2, 2))
    config = Config()
    plan = plan_tiles(layer, config.array, config.cell)
    activations = torch.randint(0, 16, (2, 2, 5, 5), generator=torch.Generator().manual_seed(1)).float()
    patterns = layer_patterns(activations, "pulses", 4, plan.chunks, layer.geometry())
    assert patterns.shape == (2, 4, 4, 1, 15)
    assert torch.equal(patterns[..., 1:] & patterns[..., :-1], patterns[..., 1:]), "each pattern holds those after it"
    opened = sum(pattern_bits(pulse, 8) for pulse in patterns.flatten(0, 3).T.numpy())
    unrolled = torch.nn.functional.unfold(activations, 2).transpose(1, 2).flatten(0, 1)
    np.testing.assert_array_equal(opened, unrolled.numpy())


@pytest.mark.parametrize("settings", [[], ["array.bitline_res_ohm=5"], ["sense.stage=transistor"]])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_charge_of_a_waveform_is_that_of_nested_patterns(
    settings: list[str], seed: int, simulator: Simulator
) -> None:
    """Less what every open cell loses at its two edges, whatever its width: two thirds of rise_s, 3.4 % of a pulse.

    A stage of transistors loses more, as its mirror starts from next to no current.
    """
    group, read_s = random_group(), Config().read
    activations = np.random.default_rng(seed).integers(0, 8, 6)
    drive = np.array([activations > pulse for pulse in range(7)] + [np.zeros(6)], float)
    (reading,) = simulator.simulate([decks_for(settings, simulator).deck(group, drive, careful=True)])
    settled = read(simulator, decks_for([*settings, "run.fidelity=dc"], simulator).deck(group, drive))
    charge = np.trapezoid(reading.wave_currents - settled[-1], reading.wave_time, axis=0)
    nested = read_s.pulse_s * (settled - settled[-1]).sum(axis=0)
    lost = (nested - charge) / (read_s.rise_s * (settled[0] - settled[-1]))
    low, high = (0.9, 1.1) if settings == ["sense.stage=transistor"] else (0.6, 0.8)
    assert low < lost.min()
    assert lost.max() < high
    full_scale = 7 * read_s.pulse_s * 6 * 15 * UNIT_A
    assert np.abs(charge - nested).max() < (0.005 if high > 1 else 0.003) * full_scale


def test_a_circuit_without_wires_is_the_integer_network(shared_store: object) -> None:
    network, images = make_network(), random_images(4)
    settings = ["array.bitline_res_ohm=0", "run.fidelity=dc", "array.open_wordlines=5", "run.layers=all", "adc.bits=11",
                "run.rescale=float"]  # fmt: skip
    for encoding in ("offset", "differential"):
        config = Config.load(None, [*settings, *PULSES, f"array.encoding={encoding}"])
        with torch.no_grad():
            assert torch.equal(CircuitNetwork(network, config, store=shared_store)(images), network(images))


def test_both_ways_of_reading_share_their_decks(tmp_path: object) -> None:
    """A second run reads other sums of the same patterns: nothing is simulated again."""
    network, images = make_network(), random_images(4)
    settings = ["run.fidelity=dc", "array.open_wordlines=4", "run.patterns_per_deck=16"]
    for mode in ([], PULSES):
        circuit = CircuitNetwork(network, Config.load(None, [*settings, *mode]), store=tmp_path)
        circuit(images)
    assert circuit.source.usage.decks == 0


def test_the_converter_covers_the_charge_of_all_pulses() -> None:
    assert code_units(Config(), 15) == (12.0, 255)  # 15 * 9 * 23 = 3105 in 255 codes
    assert code_units(Config.load(None, LEVEL_0_OFF), 15) == (8.0, 255)  # 15 * 9 * 15 = 2025
    assert code_units(Config.load(None, ["adc.bits=12"]), 15) == (1.0, 4095)
    assert code_units(Config.load(None, ["adc.full_scale_units=127.5"]), 15) == (7.5, 255)
    settings = Config.load(None, ["variation.sense_offset_sigma_a=1e-7", "adc.offset_lsb=0.5"])
    # A sense stage's offset is integrated with the current, a converter's is there once.
    (once, pulsed) = (Converter.drawn(settings, 0, 0, 3, np.ones(1), pulses) for pulses in (1, 15))
    own = Converter.drawn(Config.load(None, ["adc.offset_lsb=0.5"]), 0, 0, 3, np.ones(1)).offset_lsb
    np.testing.assert_allclose(pulsed.offset_lsb - own, 15 * (once.offset_lsb - own))


def test_one_code_a_group_is_what_few_bits_cost() -> None:
    """One activation of 15 on one wordline of level 8: 120 units, and a code is 8 of them."""
    layer, settings = make_layer(inputs=1, outputs=1, kernel=(1, 1)), [*LEVEL_0_OFF, *PULSES, "run.fidelity=ideal"]
    for activation in range(16):
        circuit = CircuitNetwork(Network("one", (1, 1, 1), [layer]), Config.load(None, settings))
        found = circuit.arrays["conv1"](torch.full((1, 1, 1, 1), float(activation))).item()
        codes = [(activation * level + 4) // 8 for level in (layer.levels().item(), 8)]
        assert found == 8 * (codes[0] - codes[1])


@pytest.mark.parametrize("scope", ["layer", "column"])
def test_a_range_is_calibrated_by_charges(scope: str) -> None:
    """Eight bits for the sums that occur, instead of all that could."""
    layer = make_layer(inputs=1)
    activations = torch.full((1, 1, 3, 3), 3.0)
    settings = [*LEVEL_0_OFF, "run.fidelity=ideal", f"adc.range=calibrated-{scope}", "adc.bits=9"]
    circuit = CircuitNetwork(Network("one", (1, 1, 1), [layer]), Config.load(None, [*settings, *PULSES]))
    array = circuit.arrays["conv1"]
    array.calibrate(activations)
    assert all(np.all(converter.lsb_units == 1) for converter in array.table.converters)  # 3 * 135 = 405 < 512
    array.calibrate(activations + 12)
    assert max(converter.lsb_units.max() for converter in array.table.converters) > 1


@pytest.mark.parametrize("fidelity", ["ideal", "tran"])
def test_a_run_with_audit_trimming_and_noise(fidelity: str, shared_store: object) -> None:
    network, images = make_network(), random_images(6)
    settings = [f"run.fidelity={fidelity}", "array.open_wordlines=5", "adc.noise_lsb=0.2", "trim.method=calibration"]
    circuit = CircuitNetwork(network, Config.load(None, [*settings, *PULSES, "adc.bits=11"]), store=shared_store)
    record = infer(circuit, Dataset("noise", images, 1, torch.zeros(6, dtype=torch.int64), digest="none"))
    comparison = compare_record(record)
    assert record.layers[0].noise_lsb == pytest.approx(0.2)
    assert record.layers[0].reads == record.layers[0].summary.groups.reads.sum()
    assert np.abs(record.logits_circuit - record.logits_software).max() < 1.0
    if fidelity == "tran":
        assert record.audit is not None
        assert comparison.layers[0].error_max_lsb < 10  # of 1,125 units that five wordlines can reach
        assert record.audit.max_error_lsb < 1
