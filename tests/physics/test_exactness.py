"""An ideal circuit is the integer network: zero codes differ, whatever the geometry of the layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cosim.config import Config
from cosim.evaluate import CircuitNetwork
from cosim.network import LayerSpec, Network, integer_mvm
from cosim.reference import exact_mvm
from tests.conftest import LEVEL_0_OFF, make_layer, make_network, random_images

GEOMETRIES = {
    "plain": {},
    "one input": {"inputs": 1},
    "kernel 1x1": {"kernel": (1, 1), "inputs": 11},
    "kernel 5x5": {"kernel": (5, 5)},
    "kernel 2x4": {"kernel": (2, 4)},
    "stride": {"stride": (2, 3)},
    "padding": {"padding": (1, 2)},
    "dilation": {"dilation": (2, 1)},
    "groups": {"inputs": 4, "outputs": 6, "groups": 2},
    "depthwise": {"inputs": 5, "outputs": 5, "groups": 5, "padding": (1, 1)},
    "depthwise with multiplier": {"inputs": 3, "outputs": 6, "groups": 3, "stride": (2, 2)},
    "more rows than wordlines": {"inputs": 9},
    "more outputs than bitlines": {"outputs": 17},
    "2-bit weights": {"weight_bits": 2},
    "1-bit activations": {"activation_bits": 1},
    "8-bit activations": {"activation_bits": 8},
    "asymmetric per channel": {"asymmetric": True},
    "asymmetric depthwise, padded": {"inputs": 4, "outputs": 4, "groups": 4, "asymmetric": True, "padding": (1, 1)},
    "8-bit weights in two cells": {"weight_bits": 8},
    "6-bit asymmetric weights, more outputs than bitlines": {"weight_bits": 6, "outputs": 5, "asymmetric": True},
}
# Small tiles, so that layers of test size are split both ways.
SMALL = ["array.wordlines=30", "array.bitlines=6"]


def activations_for(layer: LayerSpec, count: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(7)
    return torch.from_numpy(rng.integers(0, 2**layer.activation_bits, (count, layer.inputs, 9, 8)).astype(np.float32))


def on_the_circuit(layer: LayerSpec, activations: torch.Tensor, settings: list[str], store: object) -> torch.Tensor:
    circuit = CircuitNetwork(Network("one", (1, 1, 1), [layer]), Config.load(None, settings), store=store)
    return circuit.arrays[layer.name](activations)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_software_sums_equal_the_definition(geometry: dict) -> None:
    layer = make_layer(**geometry)
    activations = activations_for(layer)
    assert np.array_equal(integer_mvm(layer, activations).numpy(), exact_mvm(layer, activations.numpy()))


@pytest.mark.parametrize("open_wordlines", [1, 4, 9, 14])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_tables_equal_the_definition(geometry: dict, open_wordlines: int) -> None:
    layer = make_layer(**geometry)
    activations = activations_for(layer)
    settings = [*SMALL, f"array.open_wordlines={open_wordlines}", "adc.bits=lossless", "run.fidelity=ideal"]
    found = on_the_circuit(layer, activations, settings, None)
    assert np.array_equal(found.numpy(), exact_mvm(layer, activations.numpy()))


@pytest.mark.parametrize(
    ("geometry", "fidelity"),
    [
        *((geometry, "dc") for geometry in GEOMETRIES),
        *(
            (geometry, "tran")
            for geometry in ("plain", "depthwise", "asymmetric per channel", "8-bit weights in two cells")
        ),
    ],
)
def test_circuit_without_wires_equals_the_definition(geometry: str, fidelity: str, shared_store: object) -> None:
    layer = make_layer(**GEOMETRIES[geometry])
    activations = activations_for(layer, 1)
    settings = [*SMALL, "array.open_wordlines=5", "array.bitline_res_ohm=0", f"run.fidelity={fidelity}"]
    found = on_the_circuit(layer, activations, settings, shared_store)
    assert np.array_equal(found.numpy(), exact_mvm(layer, activations.numpy()))


@pytest.mark.parametrize("offset_units", [0, 5])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_tables_of_differential_pairs_equal_the_definition(geometry: dict, offset_units: int) -> None:
    layer = make_layer(**geometry)
    activations = activations_for(layer)
    settings = [*SMALL, "array.open_wordlines=4", "array.encoding=differential", "run.fidelity=ideal"]
    settings += [f"cell.offset_units={offset_units}"]
    found = on_the_circuit(layer, activations, settings, None)
    assert np.array_equal(found.numpy(), exact_mvm(layer, activations.numpy()))


@pytest.mark.parametrize("mode", ["pulse-width", "amplitude"])
@pytest.mark.parametrize("encoding", ["offset", "differential"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_tables_of_one_conversion_equal_the_definition(geometry: dict, encoding: str, mode: str) -> None:
    layer = make_layer(**geometry)
    activations = activations_for(layer, 1)
    settings = [*SMALL, "array.open_wordlines=4", f"array.encoding={encoding}", "run.fidelity=ideal", *LEVEL_0_OFF]
    # 4 wordlines x 15 levels x 15 pulses: without loss from 10 bits on; activations of 8 bits need more.
    settings += [f"read.mode={mode}", "array.source_line_wordlines=1"]
    settings += ["adc.bits=lossless" if layer.activation_bits > 4 else "adc.bits=10"]
    found = on_the_circuit(layer, activations, settings, None)
    assert np.array_equal(found.numpy(), exact_mvm(layer, activations.numpy()))


@pytest.mark.parametrize("geometry", ["plain", "depthwise", "asymmetric per channel", "8-bit weights in two cells"])
@pytest.mark.parametrize("fidelity", ["dc", "tran"])
def test_differential_pairs_without_wires_equal_the_definition(
    geometry: str, fidelity: str, shared_store: object
) -> None:
    layer = make_layer(**GEOMETRIES[geometry])
    activations = activations_for(layer, 1)
    settings = [*SMALL, "array.open_wordlines=5", "array.bitline_res_ohm=0", f"run.fidelity={fidelity}"]
    found = on_the_circuit(layer, activations, [*settings, "array.encoding=differential"], shared_store)
    assert np.array_equal(found.numpy(), exact_mvm(layer, activations.numpy()))


@pytest.mark.parametrize("layers", ["conv", "all", "conv2"])
def test_network_without_wires_equals_software(layers: str, shared_store: object) -> None:
    network, images = make_network(), random_images(8)
    settings = ["array.bitline_res_ohm=0", "run.fidelity=dc", "array.open_wordlines=5", f"run.layers={layers}",
                "run.rescale=float"]  # fmt: skip
    circuit = CircuitNetwork(network, Config.load(None, settings), store=shared_store)
    with torch.no_grad():
        assert torch.equal(circuit(images), network(images))


def test_more_wordlines_than_can_be_enumerated_on_the_circuit(shared_store: object) -> None:
    """18 rows: a group of 13, whose patterns are listed as they come, and one of 5, whose decks hold every pattern."""
    layer = make_layer()
    activations = activations_for(layer, 1)
    settings = ["array.open_wordlines=13", "array.bitline_res_ohm=0", "run.fidelity=dc"]
    found = on_the_circuit(layer, activations, settings, shared_store)
    assert np.array_equal(found.numpy(), exact_mvm(layer, activations.numpy()))


@pytest.mark.parametrize("opened", [20, 64, 200])
def test_many_open_wordlines_learn_patterns_as_images_come(opened: int) -> None:
    layer = make_layer(inputs=24)
    settings = [f"array.open_wordlines={opened}", "adc.bits=lossless", "run.fidelity=ideal"]
    circuit = CircuitNetwork(Network("one", (1, 1, 1), [layer]), Config.load(None, settings))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        activations = torch.from_numpy(rng.integers(0, 16, (2, 24, 6, 6)).astype(np.float32))
        found = circuit.arrays["conv1"](activations).numpy()
        assert np.array_equal(found, exact_mvm(layer, activations.numpy()))


def test_few_converter_bits_round_every_column_sum() -> None:
    layer = make_layer(inputs=1, outputs=1, kernel=(1, 1), activation_bits=1)
    settings = [*LEVEL_0_OFF, "array.open_wordlines=9", "adc.bits=4", "run.fidelity=ideal"]
    found = on_the_circuit(layer, torch.ones(1, 1, 1, 1), settings, None)
    # Nine wordlines of 15 units in 15 codes: a code is 9 units.
    level = layer.levels().item()
    assert found.item() == 9 * (round(level / 9) - round(8 / 9))
