"""Small networks and a simulator for the tests. A machine without ngspice fails them; it never skips them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cosim.config import Config
from cosim.experiments.bench import Bench, Outcome
from cosim.network import LayerSpec, Network, SoftwareStep
from cosim.spice import Simulator, Store

# The plainest cell, for counting by hand: level 0 is off, a unit is 0.4 uA, and converters are as they were made.
LEVEL_0_OFF = ["cell.offset_units=0", "cell.full_scale_a=6e-6", "trim.method=none"]


@pytest.fixture(scope="session", autouse=True)
def ngspice_is_there() -> None:
    if shutil.which("ngspice") is None:
        pytest.exit("ngspice is missing: install the package ngspice, without which these tests prove nothing", 3)


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for tests that do not test the store: equal decks are simulated once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def simulator(shared_store: Path) -> Simulator:
    return Simulator(Config().run, Store(shared_store))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configuration of every circuit that a bench measures, in order."""
    seen: list[Config] = []
    original = Bench.measure

    def measure(bench: Bench, config: Config) -> Outcome:
        seen.append(config)
        return original(bench, config)

    monkeypatch.setattr(Bench, "measure", measure)
    return seen


def make_layer(
    *,
    outputs: int = 4,
    inputs: int = 2,
    kernel: tuple[int, int] = (3, 3),
    weight_bits: int = 4,
    activation_bits: int = 4,
    seed: int = 0,
    kind: str = "conv2d",
    name: str = "conv1",
    groups: int = 1,
    asymmetric: bool = False,
    **geometry: tuple[int, int],
) -> LayerSpec:
    """A layer with random weights and biases; asymmetric ones have a zero point an output and one of the input."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 2**weight_bits, (outputs, inputs // groups, *kernel))
    zero_point = rng.integers(0, 2**weight_bits, outputs) if asymmetric else np.full(outputs, 2 ** (weight_bits - 1))
    return LayerSpec(
        name,
        kind,
        torch.from_numpy(levels - zero_point[:, None, None, None]).to(torch.int32),
        weight_bits=weight_bits,
        zero_point=torch.from_numpy(zero_point).to(torch.int32),
        activation_bits=activation_bits,
        activation_scale=1 / (2**activation_bits - 1),
        output_scale=torch.from_numpy(rng.uniform(0.005, 0.02, outputs).astype(np.float32)),
        output_bias=torch.from_numpy(rng.normal(0, 0.5, outputs).astype(np.float32)),
        groups=groups,
        input_zero_point=3 if asymmetric else 0,
        **geometry,
    )


def make_network(*, name: str = "tiny", float_weights: bool = False, seed: int = 0) -> Network:
    """conv 1->3, relu, pool, conv 3->4, relu, flatten, linear 4->3 on 6x6 images."""
    first = make_layer(outputs=3, inputs=1, name="conv1", seed=seed)
    second = make_layer(outputs=4, inputs=3, kernel=(2, 2), name="conv2", seed=seed + 1)
    last = make_layer(outputs=3, inputs=4, kernel=(1, 1), kind="linear", name="linear3", seed=seed + 2)
    layers = (first, second, last)
    return Network(
        name,
        (1, 6, 6),
        [first, SoftwareStep("relu"), SoftwareStep("max_pool2d", {"kernel_size": 2}), second, SoftwareStep("relu"),
         SoftwareStep("flatten"), last],
        float_weights={layer.name: (layer.weight.float() / 8, layer.output_bias) for layer in layers}
        if float_weights
        else None,
    )  # fmt: skip


def random_images(count: int, shape: tuple[int, ...] = (1, 6, 6), seed: int = 0) -> torch.Tensor:
    """Sparse images with values in 0..1."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 1, (count, *shape)) * (rng.uniform(0, 1, (count, *shape)) < 0.6)
    return torch.from_numpy(values.astype(np.float32))
