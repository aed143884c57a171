"""When and how a chip is calibrated: other conditions, replica columns, codes with noise, registers, own reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cosim.config import Config
from cosim.currents import ReadRequest
from cosim.datasets import Dataset, load_dataset
from cosim.errors import ConfigError, DatasetError
from cosim.evaluate import CircuitNetwork, compare_record, infer
from cosim.network import load_network
from tests.conftest import make_network, random_images
from tests.scripted import ScriptedSource, ideal_units

Answer = Callable[[ReadRequest], np.ndarray]


def at_factor(factor: float, common: float = 0.0) -> Answer:
    """Every current times a factor, after every open cell has added the same."""
    return lambda request: factor * (ideal_units(request) + common * request.drive.sum(1, keepdims=True))


def circuit_of(*settings: str, read: Answer, calibrated: Answer) -> CircuitNetwork:
    """A circuit that answers otherwise when it is calibrated than when images are read."""
    config = Config.load(None, ["run.fidelity=ideal", *settings])
    sources = [ScriptedSource(config, answer) for answer in (read, calibrated)]
    return CircuitNetwork(make_network(), config, source=sources[0], calibrating=sources[1])


UNEQUAL = ("adc.gain_error=0.05", "adc.offset_lsb=1", "trim.temperature_c=27")


def test_a_gain_found_elsewhere_misses_what_the_corner_does() -> None:
    network, images = make_network(), random_images(8)
    circuit = circuit_of(*UNEQUAL, read=at_factor(0.8), calibrated=at_factor(1))
    assert not torch.equal(circuit(images), network(images))


def test_a_replica_carries_the_corner_and_one_calibration_the_chip() -> None:
    """Gains of converters are measured once; what heat does to all cells is in the replica's current as well."""
    network, images = make_network(), random_images(8)
    hot, nominal = at_factor(0.8, common=2.0), at_factor(1)
    circuit = circuit_of(*UNEQUAL, "adc.reference=replica", "adc.bits=lossless", read=hot, calibrated=nominal)
    assert torch.equal(circuit(images), network(images))


def test_replica_columns_are_averaged() -> None:
    """Four pairs whose highest cells differ by a tenth: the reference is their mean."""

    def uneven(request: ReadRequest) -> np.ndarray:
        units = ideal_units(request).astype(float)
        if request.group.units.shape[1] == 8:
            units[:, :4] *= 1 + 0.1 * np.array([-1, -1, 1, 1])
        return units

    circuit = circuit_of("adc.reference=replica", "trim.method=none", read=uneven, calibrated=uneven)
    (converter,) = circuit.arrays["conv1"].table.converters
    assert converter.unit_a == pytest.approx(circuit.config.cell.unit_a)


@pytest.mark.parametrize("shared", ["tile", "chip"])
def test_replica_cells_have_errors_of_their_own(shared: str, shared_store: object) -> None:
    """20 mV a cell move a reference of two columns of nine cells by around a percent, and one chip unlike the next."""
    settings = ["run.fidelity=solved", "adc.reference=replica", "adc.replica_columns=1", "trim.method=none",
                f"adc.replica_per={shared}", "variation.program_sigma_v=0.02"]  # fmt: skip
    found = []
    for chip in (0, 1):
        circuit = CircuitNetwork(
            make_network(), Config.load(None, [*settings, f"variation.chip={chip}"]), store=shared_store
        )
        units = [array.table.converters[0].unit_a / circuit.config.cell.unit_a for array in circuit.arrays.values()]
        assert (units[0] == units[1]) == (shared == "chip")
        found += units
    assert np.ptp(found) > 1e-4
    np.testing.assert_allclose(found, 1, atol=0.05)


def test_calibrated_once_with_a_replica_the_solved_arrays_stand_the_corners(shared_store: object) -> None:
    """Cold with the supply low, after a calibration at 27 C: the replica keeps what a fixed reference loses."""
    network, images = make_network(), random_images(16)
    once = ["run.fidelity=solved", "trim.temperature_c=27", "trim.supply=1", "corner.temperature_c=-40",
            "corner.supply=0.9", "corner.process=ss"]  # fmt: skip
    apart = {}
    for reference in ("fixed", "replica"):
        config = Config.load(None, [*once, f"adc.reference={reference}"])
        logits = CircuitNetwork(network, config, store=shared_store)(images)
        apart[reference] = float((logits - network(images)).abs().mean())
    assert apart["replica"] < 0.2 * apart["fixed"]


def test_an_age_at_calibration(shared_store: object) -> None:
    """Calibrated fresh, read after ten years in heat: worse than calibrated just before; again each year: between."""
    network, images = make_network(), random_images(16)
    aged = ["run.fidelity=solved", "variation.retention_s=3.15e8", "variation.retention_temperature_c=85",
            "variation.retention_loss_decade=0.02"]  # fmt: skip
    apart = []
    for when in ([], ["trim.age_s=0", "trim.interval_s=3.15e7"], ["trim.age_s=0"]):
        circuit = CircuitNetwork(network, Config.load(None, [*aged, *when]), store=shared_store)
        apart.append(float((circuit(images) - network(images)).abs().mean()))
    assert apart[0] <= apart[1] < 0.5 * apart[2]


def test_calibration_through_codes_averages_noise() -> None:
    """Converters with noise, read 64 times: gains come within their standard error, and single reads are worse."""
    wrong = ["adc.gain_error=0.03", "adc.noise_lsb=1", "trim.through=codes", "trim.reads=128"]
    errors = []
    for repeats in (1, 64):
        circuit = circuit_of(*wrong, f"trim.repeats={repeats}", read=ideal_units, calibrated=ideal_units)
        array = circuit.arrays["conv1"]
        exact = circuit_of(*wrong[:1], read=ideal_units, calibrated=ideal_units).arrays["conv1"]
        assert array.table.scheme == exact.table.scheme  # which trims both
        errors.append(np.abs(array.converters.gain - exact.converters.gain).max())
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.01


@pytest.mark.parametrize("registers", ["analog", "digital", "both"])
def test_registers_of_many_bits_correct_as_well_as_exact_ones(registers: str) -> None:
    network, images = make_network(), random_images(8)
    wrong = ["adc.gain_error=0.03", "adc.offset_lsb=1", "adc.bits=12", "adc.full_scale_units=511.875"]
    left = {}
    for kind in ("exact", registers):
        settings = [
            *wrong,
            f"trim.registers={kind}",
            "trim.gain_bits=16",
            "trim.offset_bits=16",
            "trim.fraction_bits=8",
        ]
        circuit = circuit_of(*settings, read=ideal_units, calibrated=ideal_units)
        left[kind] = float((circuit(images) - network(images)).abs().max())
        assert circuit.arrays["conv1"].converters.beyond_registers == 0
    untrimmed = circuit_of(*wrong, "trim.method=none", read=ideal_units, calibrated=ideal_units)
    before = float((untrimmed(images) - network(images)).abs().max())
    assert left[registers] < 0.1 * before
    assert left["exact"] <= left[registers] + 1e-3


def test_coarse_registers_leave_what_they_cannot_set() -> None:
    wrong = ["adc.gain_error=0.03", "adc.bits=lossless", "trim.registers=analog", "trim.gain_bits=4"]
    circuit = circuit_of(*wrong, read=ideal_units, calibrated=ideal_units)
    (converter,) = circuit.arrays["conv1"].table.converters
    step = 0.25 / 8
    assert 0.1 * step < np.abs(converter.gain - 1).max() <= 0.51 * step


def test_registers_that_cannot_reach_are_counted_and_cautioned() -> None:
    images = (random_images(8) * 255).to(torch.uint8)
    dataset = Dataset("random", images, 255, torch.arange(8) % 3, "")
    wrong = ["adc.gain_error=0.1", "trim.registers=analog", "trim.gain_range=0.05"]
    circuit = circuit_of(*wrong, read=ideal_units, calibrated=ideal_units)
    record = infer(circuit, dataset)
    beyond = sum(array.converters.beyond_registers for array in circuit.arrays.values())
    assert beyond > 0
    assert sum(layer.beyond_registers for layer in compare_record(record).layers) == beyond


def test_calibration_reads_of_training_images_are_reads_that_they_cause() -> None:
    images = random_images(12)
    circuit = circuit_of("trim.patterns=images", "trim.reads=16", read=ideal_units, calibrated=ideal_units)
    circuit.calibrate(images)
    array = circuit.arrays["conv1"]
    states = array._known_states[0]
    assert not states[0].any()
    assert len(np.unique(states, axis=0)) == len(states) <= 16
    numbers = states @ (1 << np.arange(states.shape[1]))
    activations = array.layer.quantize_input(images)
    padded = F.pad(activations, (array.layer.padding[1],) * 2 + (array.layer.padding[0],) * 2)
    caused = array.scheme.patterns(array.plan, padded)[..., 0, :].unique().numpy()
    assert set(numbers[1:]) <= set(caused)


def test_a_configuration_that_wants_training_images_says_so() -> None:
    circuit = circuit_of("trim.patterns=images", read=ideal_units, calibrated=ideal_units)
    with pytest.raises(ConfigError, match=r"need training images, found none: call calibrate"):
        circuit(random_images(2))
    images = (random_images(4) * 255).to(torch.uint8)
    with pytest.raises(DatasetError, match=r"training images needs those of data set 'mine', found none"):
        infer(circuit, Dataset("mine", images, 255, torch.arange(4) % 3, ""))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["trim.age_s=10"], r"trim\.age_s = 10 s lies after the time at which images are read"),
        (["trim.age_s=-1"], r"trim\.age_s: Input should be greater than or equal to 0"),
        (["trim.interval_s=10"], r"counts from the first calibration, found no trim\.age_s"),
        (["trim.method=reference", "trim.through=codes"], r'trim\.through = "codes" needs trim'),
        (["trim.registers=digital", "adc.bits=lossless"], r"corrects codes, which adc\.bits = \"lossless\""),
        (["trim.density=0"], r"trim\.density: Input should be greater than 0"),
        (["adc.reference=replica", "adc.replica_columns=40"], r"40 pairs do not fit array\.bitlines = 64"),
    ],
)
def test_settings_that_cannot_be(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.load(None, settings)


@pytest.mark.parametrize(
    "corner",
    [
        ["corner.process=ss", "corner.temperature_c=-40", "corner.supply=0.9"],
        ["corner.process=ff", "corner.temperature_c=125", "corner.supply=1.1"],
    ],
)
def test_a_chip_with_every_effect_that_was_calibrated_once_still_knows_its_digits(
    corner: list[str], shared_store: Path
) -> None:
    """The whole profile at the corners farthest from its only calibration."""
    settings = ["run.fidelity=solved", "run.certificate_reads=8", "variation.chip=3", *corner]
    circuit = CircuitNetwork(load_network("digits-w4a4"), Config.load(None, settings, "realistic"), store=shared_store)
    comparison = compare_record(infer(circuit, load_dataset("digits").head(100)))
    assert comparison.accuracy_circuit.correct >= comparison.accuracy_software.correct - 1
    assert len(comparison.disagreements) <= 2
    assert comparison.certificate is not None
