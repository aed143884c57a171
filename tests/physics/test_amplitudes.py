"""Amplitude reads: drain voltages as inputs, source lines that are sensed, mixed reads put together of nested ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cosim.config import Config
from cosim.currents.programming import program_cell
from cosim.datasets import Dataset, load_dataset
from cosim.evaluate import CircuitNetwork, compare_record, infer
from cosim.experiments.bench import Bench
from cosim.mapping import ReadScheme, plan_tiles
from cosim.netlist import curve_deck
from cosim.network import Network, load_network
from cosim.report.cautions import find_cautions
from cosim.spice import Simulator
from tests.conftest import LEVEL_0_OFF, make_layer, make_network, random_images
from tests.physics.arrays import CARD, decks_for, group_of, nested_currents, random_group, read

AMPLITUDES = ["read.mode=amplitude", "array.source_line_wordlines=1"]
IDEAL_WIRES = [*AMPLITUDES, "array.bitline_res_ohm=0"]
SETTLED = "run.fidelity=dc"
UNIT_A = Config().cell.unit_a


def shares(reads: int = 24, inputs: int = 6, seed: int = 0) -> np.ndarray:
    """Random reads of many amplitudes, the first of none and the second of all."""
    drawn = np.random.default_rng(seed).integers(0, 16, (reads, inputs))
    drawn[:2] = [[0], [15]]
    return drawn / 15


def test_terms_of_a_conversion_are_its_activations() -> None:
    layer = make_layer(inputs=2, kernel=(2, 2))
    config = Config.load(None, AMPLITUDES)
    plan = plan_tiles(layer, config.array, config.cell, transposed=True)
    scheme = ReadScheme("amplitude", 4, max(plan.stream_inputs()))
    activations = torch.randint(0, 16, (1, 2, 5, 5), generator=torch.Generator().manual_seed(1)).float()
    reads = scheme.reads(plan, activations)
    assert reads.shape == (1, 4, 4, 1, 31)
    drive, terms, weights = scheme.in_order(reads.flatten(0, 3).T.numpy(), lambda few: scheme.drive(few, 8))
    unrolled = torch.nn.functional.unfold(activations, 2)[0].T.numpy().astype(float)
    np.testing.assert_array_equal(drive, unrolled / 15)
    assert terms.shape == (16, 31)
    summed = sum(weight * scheme.drive(term, 8) for weight, term in zip(weights, terms.T, strict=True))
    np.testing.assert_allclose(summed, unrolled / 15, atol=1e-12)


def test_a_source_line_carries_the_drain_currents_of_its_wordline(simulator: Simulator) -> None:
    """Cells between ideal lines, one by one in a deck of their own."""
    group, mixed = random_group(), shares()
    config = Config.load(None, [*IDEAL_WIRES, SETTLED])
    found = read(simulator, decks_for([*IDEAL_WIRES, SETTLED], simulator).deck(group, mixed))
    shifts = program_cell(CARD, config, simulator)[group.units]
    volts = np.broadcast_to(config.read.bitline_v * mixed[:, :, None], (*mixed.shape, 5))
    deck = curve_deck(CARD, np.broadcast_to(shifts, volts.shape).ravel(), volts.ravel(), config)
    alone = read(simulator, deck)[0].reshape(volts.shape).sum(axis=1)
    np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-5 * UNIT_A)
    assert np.abs(found[0]).max() < 1e-6 * UNIT_A, "a drain at 0 V carries nothing, whatever its gate"


@pytest.mark.parametrize(("offset_units", "column", "difference"), [(0, 0.8, 0.5), (8, 1.2, 0.33)])
def test_the_reference_takes_the_square_of_the_amplitude_away(
    offset_units: int, column: float, difference: float, simulator: Simulator
) -> None:
    """Of 15 units: what a level misses a line through its full amplitude by, alone and less level 8.

    The square, common to all cells, is gone; velocity saturation, in proportion to the weight, stays.
    """
    settings = [*IDEAL_WIRES, SETTLED, "cell.full_scale_a=6e-6", f"cell.offset_units={offset_units}"]
    held = np.arange(offset_units, 16 + offset_units, dtype=np.uint8)[None]
    group, amplitudes = group_of(np.pad(held, ((0, 63), (0, 0))), 0, 1), np.arange(16)[:, None] / 15
    units = (
        read(simulator, decks_for(settings, simulator).deck(group, amplitudes))
        / Config.load(None, settings).cell.unit_a
    )
    alone = np.abs(units - amplitudes * units[-1]).max()
    left = units - units[:, 8:9]
    products = np.abs(left - amplitudes * left[-1]).max()
    assert 0.9 * column < alone < column
    assert 0.9 * difference < products < difference


@pytest.mark.parametrize(
    ("settings", "bound_lsb"),
    [
        (["array.bitline_res_ohm=0"], 1e-4),
        (["array.bitline_res_ohm=5", "array.bitline_cap_f=0"], 1e-4),  # a bitline sees its own input only
        (["array.source_res_ohm=5"], 0.006),
        (["sense.stage=resistive"], 0.04),
    ],
)
def test_nested_patterns_add_up_to_a_mixed_read(settings: list[str], bound_lsb: float, simulator: Simulator) -> None:
    """Lines that cells share lose 0.2 and 1.2 units here; what nested patterns miss of it is the cells' curvature."""
    group, mixed = random_group(), shares(8)
    decks = decks_for([*AMPLITUDES, SETTLED, *settings], simulator)
    direct = read(simulator, decks.deck(group, mixed))
    assert np.abs(nested_currents(decks, group, mixed, simulator) - direct).max() < bound_lsb * UNIT_A


@pytest.mark.parametrize(
    "settings",
    [
        ["array.source_res_ohm=5", "array.source_strap_cells=4"],
        ["array.source_res_ohm=20", "array.source_strap_cells=64", "array.bitline_res_ohm=5"],
        ["sense.stage=resistive"],
        ["array.coupling_cap_f=0.1e-15", "array.wordline_res_ohm=100", "array.wordline_cap_f=0.2e-15"],
    ],
)
def test_lumped_bitlines_stand_for_their_cells(settings: list[str], simulator: Simulator) -> None:
    """Cells of closed bitlines conduct where source lines are not at 0 V: left out, they are missed."""
    rng = np.random.default_rng(2)
    tile = rng.integers(0, 16, (24, 5)).astype(np.uint8)
    group, mixed = group_of(tile, 7, 6), shares()
    found = {}
    for closed in ("cells", "lumped", "omitted"):
        given = [*AMPLITUDES, SETTLED, "array.bitlines=24", *settings, f"array.closed_wordlines={closed}"]
        found[closed] = read(simulator, decks_for(given, simulator).deck(group, mixed)) / UNIT_A
    missed, lumped = (np.abs(found[name] - found["cells"]).max() for name in ("omitted", "lumped"))
    assert lumped < max(0.03 * missed, 1e-4)


@pytest.mark.parametrize("settings", [[], ["array.source_res_ohm=5", "array.source_cap_f=0.2e-15"]])
def test_a_transient_settles_to_the_same_currents(settings: list[str], simulator: Simulator) -> None:
    group, mixed, given = random_group(), shares(), [*AMPLITUDES, *settings]
    settled = read(simulator, decks_for([*given, SETTLED], simulator).deck(group, mixed))
    for careful in (False, True):
        (reading,) = simulator.simulate([decks_for(given, simulator).deck(group, mixed, careful=careful)])
        assert np.abs(reading.currents - settled).max() < 0.01 * UNIT_A
        assert reading.unsettled.max() < 0.01 * UNIT_A


def test_the_supply_moves_amplitudes(simulator: Simulator) -> None:
    group, mixed = random_group(), shares()
    given = [*IDEAL_WIRES, SETTLED]
    low = read(simulator, decks_for([*given, "corner.supply=0.9"], simulator).deck(group, mixed))
    decks = decks_for(given, simulator)
    supplied = Config.load(None, [*given, "read.bitline_v=0.09", "read.wordline_v=3.6"])
    decks.config = supplied
    decks._sense = replace(decks._sense, bitline_v=0.09)
    np.testing.assert_allclose(read(simulator, decks.deck(group, mixed)), low, rtol=1e-6, atol=1e-6 * UNIT_A)


@pytest.mark.parametrize("encoding", ["offset", "differential"])
@pytest.mark.parametrize("offset_units", [0, 8])
@pytest.mark.parametrize(("mixed", "open_wordlines"), [("nested", 5), ("nested", 13), ("direct", 5), ("direct", 18)])
def test_an_ideal_circuit_is_the_integer_network(
    encoding: str, offset_units: int, mixed: str, open_wordlines: int
) -> None:
    """Eighteen inputs of four bits are too many for a number: their reads are hashed."""
    network, images = make_network(), random_images(4)
    settings = [*AMPLITUDES, f"read.mixed={mixed}", "run.fidelity=ideal", f"array.open_wordlines={open_wordlines}",
                "run.layers=all", "run.rescale=float",
                "adc.bits=13", f"array.encoding={encoding}", f"cell.offset_units={offset_units}"]  # fmt: skip
    with torch.no_grad():
        assert torch.equal(CircuitNetwork(network, Config.load(None, settings))(images), network(images))


@pytest.mark.parametrize("mode", ["amplitude", "pulse-width"])
def test_code_errors_of_a_sweep_are_those_of_whole_conversions(mode: str) -> None:
    dataset = Dataset("noise", random_images(3), 1, torch.zeros(3, dtype=torch.int64), digest="none")
    settings = [*AMPLITUDES, *LEVEL_0_OFF, f"read.mode={mode}", "run.fidelity=ideal", "adc.bits=11"]
    config = Config.load(None, settings)
    assert Bench(make_network(), dataset).measure(config).code_error_max < 1e-6
    coarse = config.with_values({"adc.bits": 8})
    assert 3 < Bench(make_network(), dataset).measure(coarse).code_error_max < 4.001, "half a code of 8 units"


def test_activations_of_one_bit() -> None:
    layer = make_layer(activation_bits=1)
    activations = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (2, 2, 5, 5)).astype(np.float32))
    for mode in ("amplitude", "bit-serial", "pulse-width"):
        config = Config.load(None, [*AMPLITUDES, f"read.mode={mode}", "run.fidelity=ideal"])
        circuit = CircuitNetwork(Network("one", (1, 1, 1), [layer]), config)
        expected = torch.nn.functional.conv2d(activations, layer.weight.float())
        assert torch.equal(circuit.arrays["conv1"](activations), expected)


@pytest.mark.parametrize(("fidelity", "open_wordlines"), [("dc", 4), ("tran", 3)])
def test_digits_are_recognized(fidelity: str, open_wordlines: int, shared_store: object) -> None:
    """Sums of some hundred units follow the integers' within what velocity saturation bends."""
    digits = load_dataset("digits")
    dataset = Dataset(digits.name, digits.images[:20], digits.full_scale, digits.labels[:20], digits.digest)
    settings = [*AMPLITUDES, f"run.fidelity={fidelity}", f"array.open_wordlines={open_wordlines}",
                "cell.offset_units=8", "run.layers=conv1"]  # fmt: skip
    circuit = CircuitNetwork(load_network("digits-w4a4"), Config.load(None, settings), store=shared_store)
    record = infer(circuit, dataset)
    comparison = compare_record(record)
    assert comparison.accuracy_circuit.share >= 0.95
    assert len(comparison.disagreements) <= 1
    assert record.audit is not None
    assert record.audit.max_error_lsb < 0.01
    assert comparison.layers[0].unsettled_lsb < 0.01
    (caution,) = find_cautions(replace(comparison, audit_max_error_lsb=0.3))
    assert "reads of several amplitudes are not the sum of reads of one here" in caution


@pytest.mark.parametrize("stage", ["array.source_res_ohm=5", "sense.stage=resistive"])
def test_direct_reads_of_several_amplitudes(stage: str, shared_store: object) -> None:
    """Solved as ngspice does it, and what an audit simulates is what the tables hold."""
    settings = [*AMPLITUDES, stage, "array.open_wordlines=5", "adc.bits=10"]
    held, missed = {}, {}
    for mixed, fidelity in (("direct", "dc"), ("direct", "solved"), ("nested", "dc")):
        given = [*settings, f"read.mixed={mixed}", f"run.fidelity={fidelity}", "run.certificate_reads=0"]
        circuit = CircuitNetwork(make_network(), Config.load(None, given), store=shared_store)
        record = infer(circuit, Dataset("noise", random_images(1), 1, torch.zeros(1, dtype=torch.int64), digest="none"))
        array = circuit.arrays["conv1"]
        assert array.reads == 16 * len(array.plan.groups), "a read a place and group"
        reads, _ = array.table.occurred(1)
        held[mixed, fidelity] = array.table.lookup(1, reads)
        missed[mixed, fidelity] = record.audit.max_error_lsb if record.audit else None
    assert np.abs(held["direct", "dc"] - held["direct", "solved"]).max() < 1e-3
    assert missed["direct", "dc"] < 1e-4, "rounding to single precision"
    assert missed["nested", "dc"] > 1e-3


@pytest.mark.parametrize(
    ("fidelity", "mixed"), [("ideal", "nested"), ("ideal", "direct"), ("dc", "nested"), ("dc", "direct")]
)
def test_a_run_with_audit_trimming_chip_and_noise(fidelity: str, mixed: str, shared_store: object) -> None:
    network, images = make_network(), random_images(6)
    settings = [*AMPLITUDES, f"read.mixed={mixed}", f"run.fidelity={fidelity}", "array.open_wordlines=5",
                "adc.noise_lsb=0.2",
                "trim.method=calibration", "adc.bits=11", "adc.range=calibrated-layer", "adc.calibration_images=6",
                "adc.offset_lsb=0.5",
                "variation.sense_offset_sigma_a=1e-8"]  # fmt: skip
    if fidelity == "dc":
        settings += ["variation.program_sigma_v=0.01", "array.source_res_ohm=2"]
    circuit = CircuitNetwork(network, Config.load(None, settings), store=shared_store)
    circuit.calibrate(images)
    record = infer(circuit, Dataset("noise", images, 1, torch.zeros(6, dtype=torch.int64), digest="none"))
    comparison = compare_record(record)
    assert record.layers[0].noise_lsb == pytest.approx(0.2)
    assert record.layers[0].reads == 6 * 16 * 2, "a conversion a place and group"
    assert np.abs(record.logits_circuit - record.logits_software).max() < 1.0
    assert 0.9 < comparison.layers[0].trim_gain < 1.1
    if fidelity == "dc":
        assert record.audit is not None
        assert record.audit.max_error_lsb < 0.1
