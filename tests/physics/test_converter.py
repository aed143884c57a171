"""The converter that is not ideal: transfer curves, mismatch, range, noise and trimming against hand calculation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, norm

from cosim.config import Config
from cosim.currents import ReadRequest, SpiceSource
from cosim.datasets import Dataset
from cosim.errors import ConfigError
from cosim.evaluate import CircuitNetwork, compare_record, infer
from cosim.network import LayerSpec, Network, integer_mvm
from cosim.readout import Converter
from cosim.readout.adc import bit_weights
from tests.conftest import LEVEL_0_OFF, make_layer, make_network, random_images
from tests.scripted import ScriptedSource, ideal_units

IDEAL = ["run.fidelity=ideal", "run.keep_reads=true", *LEVEL_0_OFF]


def config(*settings: str) -> Config:
    return Config.load(None, [*IDEAL, *settings])


def on_arrays(layer: LayerSpec, activations: torch.Tensor, *settings: str) -> np.ndarray:
    circuit = CircuitNetwork(Network("one", (1, 1, 1), [layer]), config(*settings))
    return circuit.arrays[layer.name](activations).numpy()


def columns(levels: list[list[int]]) -> LayerSpec:
    """A 1x1 convolution of 1-bit inputs whose outputs are bare column sums: weight = level, zero point 0."""
    weight = torch.tensor(levels, dtype=torch.int32)[..., None, None]
    outputs = len(weight)
    return replace(
        make_layer(outputs=outputs, inputs=weight.shape[1], kernel=(1, 1), activation_bits=1),
        weight=weight,
        zero_point=torch.zeros(outputs, dtype=torch.int32),
        output_scale=torch.ones(outputs),
        output_bias=torch.zeros(outputs),
    )


def sar(*weights: float) -> Converter:
    ideal = Converter.from_config(config(f"adc.bits={len(weights)}"))
    return replace(ideal, weights=np.array([weights]))


def test_successive_approximation_by_hand() -> None:
    """Weights 1.1, 1.9 and 4.2: the upper half begins at 4.2 - 0.5, code 3 at 1.9 + 1.1 - 0.5, code 5 at 4.8."""
    positions = np.array(
        [[-0.6], [0.59], [0.61], [1.39], [1.41], [2.49], [2.51], [3.69], [3.71], [4.79], [4.81], [9.0]]
    )
    assert sar(1.1, 1.9, 4.2).codes(positions).ravel().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7]


def test_a_light_bit_leaves_a_code_out() -> None:
    """The largest weight below the sum of the others: code 3 would begin where the upper half already has."""
    codes = sar(1.0, 2.0, 2.5).codes(np.linspace(-1, 7, 1601)[:, None]).ravel()
    assert set(codes.tolist()) == {0, 1, 2, 4, 5, 6, 7}
    assert np.all(np.diff(codes) >= 0)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_without_mismatch_the_search_is_rounding(bits: int) -> None:
    ideal = Converter.from_config(config(f"adc.bits={bits}"))
    weights = bit_weights(bits, 0.0, 3, np.random.default_rng(0))
    np.testing.assert_allclose(weights, np.broadcast_to(2.0 ** np.arange(bits), (3, bits)))
    positions = np.random.default_rng(0).uniform(-2, 2**bits + 1, (1000, 3))
    assert np.array_equal(replace(ideal, weights=weights).codes(positions), ideal.codes(positions))


@pytest.mark.parametrize(("bits", "sigma"), [(6, 0.02), (8, 0.01), (8, 0.02), (10, 0.005)])
def test_nonlinearity_has_the_sigma_of_the_capacitors(bits: int, sigma: float) -> None:
    weights = bit_weights(bits, sigma, 4000, np.random.default_rng(1))
    middle, below = weights[:, -1], weights[:, :-1].sum(axis=1)
    assert (middle - below - 1).std() == pytest.approx(np.sqrt(2**bits - 1) * sigma, rel=0.05)
    assert (middle - 2 ** (bits - 1)).std() == pytest.approx(np.sqrt(2**bits - 1) * sigma / 2, rel=0.05)


def test_errors_are_drawn_with_their_sigmas_and_belong_to_a_bitline() -> None:
    settings = config("adc.gain_error=0.02", "adc.offset_lsb=0.5", "variation.sense_offset_sigma_a=4e-8")
    many = Converter.drawn(settings, 0, 0, 4000)
    assert many.gain.std() == pytest.approx(0.02, rel=0.05)
    assert many.offset_lsb.std() == pytest.approx(np.hypot(0.5, 0.1), rel=0.05)  # 40 nA are 0.1 unit currents
    few = Converter.drawn(settings, 0, 0, 7)
    assert np.array_equal(few.gain, many.gain[:7])
    assert not np.array_equal(few.gain, Converter.drawn(settings, 0, 1, 7).gain)
    assert not np.array_equal(few.gain, Converter.drawn(settings, 1, 0, 7).gain)
    other = config("adc.gain_error=0.02", "variation.chip=1")
    assert not np.array_equal(few.gain, Converter.drawn(other, 0, 0, 7).gain)


def test_noise_makes_the_codes_of_its_normal_distribution() -> None:
    """Column sums 6 and 24 at 0.4 LSB: each code as often as the normal distribution has it between its bounds."""
    layer = columns([[6, 0], [9, 15]])
    found = on_arrays(layer, torch.ones(1, 2, 150, 150), "adc.noise_lsb=0.4")
    for sums, mean in zip(found[0], (6, 24), strict=True):
        codes = mean + np.arange(-1, 2)
        expected = np.diff(norm.cdf([-np.inf, *(codes[:-1] + 0.5), np.inf], mean, 0.4)) * sums.size
        counts = [(sums <= codes[0]).sum(), (sums == codes[1]).sum(), (sums >= codes[2]).sum()]
        assert chisquare(counts, expected).pvalue > 1e-3


def test_noise_of_cells_adds_by_variance() -> None:
    levels = [3, 7, 15, 11]
    found = on_arrays(columns([levels]), torch.ones(1, 4, 100, 100), "variation.read_sigma_rel=0.1")
    assert found.mean() == pytest.approx(sum(levels), abs=0.1)
    assert found.var() == pytest.approx(0.01 * sum(level**2 for level in levels) + 1 / 12, rel=0.05)
    saturated = ["variation.read_sigma_rel=0.1", "variation.read_saturation_a=1.2e-6"]  # three unit currents
    found = on_arrays(columns([levels]), torch.ones(1, 4, 100, 100), *saturated)
    sigmas = 0.3 * (1 - np.exp(-np.array(levels) / 3))
    assert found.var() == pytest.approx((sigmas**2).sum() + 1 / 12, rel=0.05)


def test_noise_of_an_image_does_not_depend_on_its_company() -> None:
    network, images = make_network(), random_images(9)
    settings = ["adc.noise_lsb=0.7", "variation.read_sigma_rel=0.1", "array.open_wordlines=4", "adc.gain_error=0.01"]
    whole, single = (CircuitNetwork(network, config(*settings)) for _ in range(2))
    expected = whole(images)
    assert torch.equal(expected, torch.cat([single(image[None]) for image in images.flip(0)]).flip(0))
    assert torch.equal(expected, whole(images)), "nothing is remembered"
    assert not torch.equal(expected, CircuitNetwork(network, config(*settings, "run.seed=1"))(images))


@pytest.mark.parametrize("open_wordlines", [9, 14])
def test_noise_far_below_a_code_changes_nothing(open_wordlines: int) -> None:
    """The path that adds noise computes the sums that the tables hold."""
    layer = make_layer(inputs=4, outputs=6, groups=2, weight_bits=8)
    activations = torch.from_numpy(np.random.default_rng(0).integers(0, 16, (3, 4, 7, 6)).astype(np.float32))
    settings = ["array.bitlines=5", f"array.open_wordlines={open_wordlines}", "adc.bits=lossless"]
    found = on_arrays(layer, activations, *settings, "adc.noise_lsb=1e-3")
    assert np.array_equal(found, integer_mvm(layer, activations).numpy())


def record_of(*settings: str) -> tuple:
    images = (random_images(40) * 255).to(torch.uint8)
    dataset = Dataset("random", images, 255, torch.arange(40) % 3, "", training=images / 255)
    circuit = CircuitNetwork(make_network(), config("array.open_wordlines=4", *settings))
    return circuit, infer(circuit, dataset)


def test_a_calibrated_range_covers_its_sample_and_no_more() -> None:
    """Four wordlines of 15 units in 3 bits: 60 / 7 rounds to 9 units; sums that occur need less."""
    _, cover = record_of("adc.bits=3")
    by_layer, record = record_of("adc.bits=3", "adc.range=calibrated-layer", "adc.calibration_images=40")
    assert cover.layers[0].lsb_units == 9
    for array, layer in zip(by_layer.arrays.values(), record.layers, strict=True):
        largest = max((group.ideal * layer.lsb_units).max() for group in layer.kept or ())
        assert layer.lsb_units == np.ceil(largest / 7 - 1e-6) < 9
        assert {converter.lsb_units.item() for converter in array.table.converters} == {layer.lsb_units}
    assert compare_record(record).layers[0].clipped_codes == 0
    by_column, record = record_of("adc.bits=3", "adc.range=calibrated-column", "adc.calibration_images=40")
    (converter,) = by_column.arrays["conv1"].table.converters
    assert len(converter.lsb_units) == 4
    for group in record.layers[0].kept or ():
        assert np.all(group.ideal <= 7 + 1e-5)
    assert record.layers[0].lsb_units < by_layer.arrays["conv1"].table.converters[0].lsb_units


def test_a_range_of_one_unit_loses_nothing() -> None:
    """Eight bits hold every sum; neither calibration makes a code narrower than a unit current."""
    network, images = make_network(), random_images(8)
    for kind in ("calibrated-layer", "calibrated-column"):
        circuit = CircuitNetwork(network, config(f"adc.range={kind}"))
        circuit.calibrate(images)
        assert torch.equal(circuit(images), network(images))


def test_clipped_codes_are_counted_at_both_ends() -> None:
    _, record = record_of("adc.bits=4", "adc.full_scale_units=15", "adc.offset_lsb=2")
    for layer in compare_record(record).layers:
        found = sum(
            int(group.uses @ (((group.lsb < -0.5) & (group.ideal_codes > 0)) | (group.lsb > 15.5)).sum(axis=1))
            for group in record.layers[0].kept or ()
        )
        assert layer.clipped_codes > 0
    assert compare_record(record).layers[0].clipped_codes == found


@pytest.mark.parametrize("per", ["layer", "bitline"])
def test_calibration_takes_out_gain_and_offset(per: str) -> None:
    """Every bitline off by itself: a gain and an offset a bitline leave no differing code, one a layer some."""
    wrong = ["adc.gain_error=0.03", "adc.offset_lsb=1", "variation.sense_gain_sigma=0.02"]
    _, untrimmed = record_of(*wrong)
    circuit, trimmed = record_of(*wrong, "trim.method=calibration", f"trim.per={per}")
    before, after = (sum(layer.differing_codes for layer in compare_record(r).layers) for r in (untrimmed, trimmed))
    assert before > 0
    if per == "bitline":
        assert after == 0
        drawn = Converter.drawn(circuit.config, 0, 0, 4)
        np.testing.assert_allclose(circuit.arrays["conv1"].converters.gain, drawn.gain, rtol=1e-6)
        np.testing.assert_allclose(circuit.arrays["conv1"].converters.offset_lsb, drawn.offset_lsb, atol=1e-6)
    else:
        assert 0 < after < before


def answering(answer: Callable[[ReadRequest], np.ndarray], *overrides: str) -> CircuitNetwork:
    """A circuit whose groups answer with these unit currents."""
    settings = config(*overrides)
    return CircuitNetwork(make_network(), settings, source=ScriptedSource(settings, answer))


def shrunk(factor: float, *overrides: str) -> CircuitNetwork:
    """The circuit with every current smaller by a factor, as heat makes it."""
    return answering(lambda request: factor * ideal_units(request), *overrides)


@pytest.mark.parametrize("method", ["reference", "calibration"])
def test_trimming_finds_the_gain_that_heat_leaves(method: str) -> None:
    network, images = make_network(), random_images(8)
    trimmed = shrunk(0.84, f"trim.method={method}")
    assert torch.equal(trimmed(images), network(images))
    assert trimmed.arrays["conv1"].converters.gain == pytest.approx(0.84)
    assert not torch.equal(shrunk(0.84)(images), network(images))


def test_calibration_leaves_to_the_reference_column_what_every_cell_adds() -> None:
    """I = 0.9 q + 0.5 an open cell: the gain is 0.9, and 0.5 a cell is in the reference column too."""
    circuit = answering(
        lambda request: 0.9 * ideal_units(request) + 0.5 * request.drive.sum(1, keepdims=True),
        "trim.method=calibration",
    )
    circuit(random_images(8))
    assert circuit.arrays["conv1"].converters.gain == pytest.approx(0.9)
    assert circuit.arrays["conv1"].converters.offset_lsb == pytest.approx(0, abs=1e-9)


def test_calibration_takes_out_unequal_gains_of_what_every_cell_adds() -> None:
    """A hot array behind unequal converters: a converter's gain multiplies what all cells add alike, too."""
    network, images = make_network(), random_images(8)
    wrong = ("adc.gain_error=0.05", "adc.offset_lsb=1", "adc.bits=lossless")

    def hot(request: ReadRequest) -> np.ndarray:
        return 0.9 * ideal_units(request) + 2.5 * request.drive.sum(1, keepdims=True)

    assert not torch.equal(answering(hot, *wrong, "trim.method=none")(images), network(images))
    assert torch.equal(answering(hot, *wrong, "trim.method=calibration")(images), network(images))


def test_trimming_refuses_currents_that_do_not_follow_the_sums() -> None:
    circuit = shrunk(0.01, "trim.method=reference")
    with pytest.raises(ConfigError, match=r"trimming found gains of 0\.01 .* expected 0\.05 to 20"):
        circuit(random_images(1))


def test_trimming_decks_read_at_less_than_they_were_programmed_at(shared_store: Path) -> None:
    """At 90 mV instead of 100 mV a cell in its linear region conducts 0.9 of its current, and more near saturation."""
    settings = [*LEVEL_0_OFF, "run.fidelity=dc", "array.open_wordlines=4", "array.bitline_res_ohm=0"]
    images, network = random_images(10), make_network()
    dataset = Dataset("random", (images * 255).to(torch.uint8), 255, torch.arange(10) % 3, "")
    programmed = CircuitNetwork(network, Config.load(None, settings), store=shared_store).source
    assert isinstance(programmed, SpiceSource)
    assert programmed.cell is not None
    errors = {}
    for method in ("none", "reference", "calibration"):
        chosen = Config.load(None, [*settings, "read.bitline_v=0.09", f"trim.method={method}"])
        source = SpiceSource(chosen, programmed.cell, programmed.simulator)
        circuit = CircuitNetwork(network, chosen, source=source)
        layer = infer(circuit, dataset).layers[0]
        errors[method] = float(layer.summary.groups.error_max_lsb.max())
        assert layer.trim_gain == pytest.approx(1 if method == "none" else 0.915, abs=0.01)
    assert errors["none"] > 2
    assert max(errors["reference"], errors["calibration"]) < 0.2


def test_calibration_brings_a_hot_array_back(shared_store: Path) -> None:
    """At 85 degrees C levels programmed at 27 conduct less, but every open cell adds something alike.

    The reference column's current holds both, so its gain lies above that of the levels.
    """
    images, network = random_images(30), make_network()
    errors, gains = {}, {}
    for method in ("none", "reference", "calibration"):
        settings = [*LEVEL_0_OFF, "run.fidelity=dc", "array.open_wordlines=4", "corner.temperature_c=85"]
        settings += [f"trim.method={method}"]
        circuit = CircuitNetwork(network, Config.load(None, settings), store=shared_store)
        errors[method] = float((circuit(images) - network(images)).abs().mean())
        gains[method] = circuit.arrays["conv1"].converters.gain
    assert errors["calibration"] < 0.75 * errors["none"]
    assert 0.75 < gains["calibration"].mean() < gains["reference"].mean() < 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["adc.range=calibrated-layer", "adc.full_scale_units=99"],
            r"range that adc\.full_scale_units fixes already",
        ),
        (["adc.range=calibrated-layer", "adc.bits=lossless"], r"range that adc\.bits = \"lossless\" fixes already"),
        (
            ["adc.capacitor_sigma=0.01", "adc.bits=lossless"],
            r"needs a converter with capacitors.*set adc\.bits to 1\.\.16",
        ),
        (["adc.range=column"], r"adc\.range: Input should be 'cover'"),
        (["adc.noise_lsb=-1"], r"adc\.noise_lsb"),
        (["trim.method=both"], r"trim\.method: Input should be 'none', 'reference' or 'calibration'"),
    ],
)
def test_settings_that_contradict_each_other(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(*settings)
