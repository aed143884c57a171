"""Noise that is drawn for sums: moments of codes against draws, and layers against noise that is drawn for reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cosim.config import Config
from cosim.errors import ConfigError
from cosim.evaluate import CircuitNetwork
from cosim.readout import Converter
from cosim.readout.sum_noise import CodeMoments
from tests.conftest import make_network, random_images


@pytest.mark.parametrize("sigma", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("errors", [[], ["adc.capacitor_sigma=0.02", "adc.gain_error=0.02"]])
def test_moments_of_a_code_are_those_of_draws(sigma: float, errors: list[str]) -> None:
    converter = Converter.drawn(Config.load(None, errors), 0, 0, 40)
    lsb = np.random.default_rng(1).uniform(0, 200, (30, 40))
    mean, variance = CodeMoments(converter, 255, np.array([sigma]))(lsb, sigma)
    normal = np.random.default_rng(2).standard_normal((4000, 30, 40))
    codes = converter.quantized(lsb + sigma * normal)
    # A decision is off by up to half a step of 1/32, where the density of noise is 0.4 / sigma; draws have an error.
    assert np.abs(mean - codes.mean(0)).max() < 0.4 / sigma / 64 + 6 * max(sigma, 0.5) / np.sqrt(4000)
    assert variance.mean() == pytest.approx(codes.var(0).mean(), rel=0.05)


def test_reads_that_differ_in_noise_share_curves() -> None:
    converter = Converter.drawn(Config.load(None, ["adc.capacitor_sigma=0.02"]), 0, 0, 12)
    generator = np.random.default_rng(4)
    lsb, sigma = generator.uniform(3, 200, (50, 12)), generator.uniform(0.3, 1.0, (50, 12))
    mean, variance = CodeMoments(converter, 255, np.sqrt(np.linspace(0.3**2, 1, 8)))(lsb, sigma)
    codes = converter.quantized(lsb + sigma * generator.standard_normal((4000, 50, 12)))
    assert np.abs(mean - codes.mean(0)).max() < 0.05 + 6 / np.sqrt(4000)
    np.testing.assert_allclose(variance, codes.var(0), atol=0.1, rtol=0.1)


def noise_of(kind: str, *settings: str) -> np.ndarray:
    """What noise adds to the sums of a layer: (values, outputs)."""
    images = random_images(600)
    config = Config.load(None, ["run.fidelity=ideal", "array.open_wordlines=4", *settings])
    noisy = CircuitNetwork(make_network(), config.with_values({"run.noise": kind}))
    quiet = CircuitNetwork(make_network(), config.with_values({"adc.noise_lsb": 0.0, "variation.read_sigma_rel": 0.0}))
    array = noisy.arrays["conv2"]
    shape = array.layer.weight.shape
    activations = torch.from_numpy(np.random.default_rng(3).integers(0, 16, (len(images), shape[1], 6, 6))).float()
    apart = array(activations) - quiet.arrays["conv2"](activations)
    return apart.permute(0, 2, 3, 1).flatten(0, 2).numpy()


@pytest.mark.parametrize("settings", [["adc.noise_lsb=0.4"], ["adc.noise_lsb=0.2", "variation.read_sigma_rel=0.02"]])
def test_noise_of_sums_is_distributed_as_that_of_reads(settings: list[str]) -> None:
    reads, sums = (noise_of(kind, *settings) for kind in ("reads", "sums"))
    spread = reads.std(0)
    # The noise of few values of the position is left: 32 equally likely ones.
    np.testing.assert_allclose(sums.mean(0), reads.mean(0), atol=0.1 * spread.max())
    np.testing.assert_allclose(sums.std(0), spread, rtol=0.05)
    # Outputs share the noise of their reference column.
    alike = np.corrcoef(reads.T)
    assert alike[0, 1] > 0.2
    np.testing.assert_allclose(np.corrcoef(sums.T), alike, atol=0.05)
    for share in (0.01, 0.1, 0.9, 0.99):
        quantiles = [np.quantile(each, share, axis=0) for each in (sums, reads)]
        np.testing.assert_allclose(*quantiles, atol=1 + 0.08 * spread.max())  # those of reads are whole numbers


def test_an_image_has_the_same_noise_in_any_batch() -> None:
    images = random_images(6)
    config = Config.load(None, ["run.fidelity=ideal", "adc.noise_lsb=0.5", "run.noise=sums"])
    whole = CircuitNetwork(make_network(), config)(images)
    circuit = CircuitNetwork(make_network(), config)
    parts = torch.cat([circuit(images[4:]), circuit(images[:4])])
    assert torch.equal(torch.cat([parts[2:], parts[:2]]), whole)
    other = CircuitNetwork(make_network(), config.with_values({"run.seed": 1}))(images)
    assert not torch.equal(other, whole)


def test_noise_of_sums_is_for_independent_reads() -> None:
    with pytest.raises(ConfigError, match=r'run\.noise = "sums" needs bit-serial reads'):
        Config.load(None, ["run.noise=sums", "read.mode=pulse-width"])
