"""Random telegraph noise: traps with the statistics asked for, followed exactly in the order and time of reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from cosim.config import Config
from cosim.device import Traps, draw_traps
from cosim.errors import ConfigError
from cosim.evaluate import CircuitNetwork
from cosim.mapping import Group
from cosim.netlist import curve_deck
from cosim.network import Network
from cosim.readout.telegraph import TrapStates
from cosim.spice import Simulator
from tests.conftest import LEVEL_0_OFF, make_layer, make_network, random_images
from tests.physics.test_converter import columns
from tests.scripted import ScriptedSource, ideal_units

# Currents without wires, and converters that round by a few hundredths of what a trap does.
FINE = [*LEVEL_0_OFF, "run.fidelity=solved", "array.bitline_res_ohm=0", "adc.bits=16", "adc.full_scale_units=60"]
READ_S = 20e-9
FROZEN = ["variation.telegraph_fastest_s=1e3", "variation.telegraph_slowest_s=1e4"]


def traps(count: float, time_s: float | None = None, shift_v: float = 0.05) -> list[str]:
    """Settings of traps, all with the same time constant if one is given."""
    settings = [f"variation.telegraph_traps={count}", f"variation.telegraph_shift_v={shift_v}"]
    if time_s is not None:
        settings += [f"variation.telegraph_{end}_s={time_s}" for end in ("fastest", "slowest")]
    return settings


def circuit_of(levels: list[list[int]], store: Path, *settings: str) -> CircuitNetwork:
    """One layer whose sums are column sums, of one bit plane, each place of which is one read later than the last."""
    network = Network("one", (1, 1, 1), [columns(levels)])
    return CircuitNetwork(network, Config.load(None, [*FINE, *settings]), store=store)


def sums(circuit: CircuitNetwork, activations: torch.Tensor) -> np.ndarray:
    """(images, outputs, places) sums of activations (images, inputs, places)."""
    return circuit.arrays["conv1"](activations[:, :, None].float())[:, :, 0].numpy()


def numbered(images: int, places: int = 14) -> torch.Tensor:
    """(images, 2, places) activations: input 0 is open everywhere; input 1 makes every image another one."""
    bits = (torch.arange(images)[:, None] >> torch.arange(places)) & 1
    return torch.stack([torch.ones_like(bits), bits], 1)


def drawn(*settings: str, wordlines: int = 40, bitlines: int = 60, tile: int = 0) -> Traps:
    group = Group(tile, 0, 0, (0, wordlines), (0, bitlines - 1), np.full((wordlines, bitlines), 8, np.uint8))
    return draw_traps(Config.load(None, ["variation.telegraph_traps=2", *settings]), 0, group)


def test_traps_have_the_distributions_asked_for() -> None:
    found = drawn("variation.telegraph_shift_v=0.01")
    counts = np.bincount(found.bitlines * 40 + found.wordlines, minlength=2400)
    assert counts.mean() == pytest.approx(2, abs=0.1)
    assert counts.var() == pytest.approx(2, rel=0.1), "Poisson's distribution"
    assert kstest(found.shift_v / 0.01, "expon").pvalue > 1e-3
    assert kstest((np.log10(found.time_s) + 6) / 8, "uniform").pvalue > 1e-3
    energy = np.log(found.occupancy / (1 - found.occupancy))
    assert kstest((energy + 3) / 6, "uniform").pvalue > 1e-3


def test_traps_belong_to_their_cell() -> None:
    whole, part = drawn(), drawn(wordlines=30, bitlines=20)
    mine = (whole.wordlines < 30) & (whole.bitlines < 20)
    for name in ("wordlines", "bitlines", "shift_v", "time_s", "occupancy"):
        assert np.array_equal(getattr(whole, name)[mine], getattr(part, name))
    assert not np.array_equal(drawn(tile=1, wordlines=30, bitlines=20).shift_v[:9], part.shift_v[:9])
    assert not np.array_equal(drawn("variation.chip=1").shift_v[:9], whole.shift_v[:9])


def test_a_trap_takes_the_current_that_its_threshold_shift_takes(shared_store: Path, simulator: Simulator) -> None:
    """Of cells with a single trap, the two currents differ by what the simulated cell loses, at the corner."""
    settings = [*traps(0.3, 1e-12), "corner.temperature_c=85", "variation.telegraph_shift_v=0.02"]
    circuit = circuit_of([[5 + column % 10] for column in range(60)], shared_store, *settings)
    found = sums(circuit, torch.ones(1, 1, 400))[0]
    (group,), cell = circuit.arrays["conv1"].plan.groups, circuit.source.cell
    assert cell is not None
    held = draw_traps(circuit.config, 0, group)
    single = [line for line in range(60) if (held.bitlines == line).sum() == 1]
    assert len(single) > 8
    which = np.flatnonzero(np.isin(held.bitlines, single))
    empty = cell.shifts[group.units[0, single]]
    both = np.concatenate([empty, empty + held.shift_v[which]])
    deck = curve_deck(cell.card, both, np.full(len(both), 0.1), circuit.config)
    currents = simulator.simulate([deck])[0].currents[0].reshape(2, -1) / circuit.config.cell.unit_a
    np.testing.assert_allclose(np.ptp(found[single], axis=1), currents[0] - currents[1], rtol=0.03, atol=2e-3)
    np.testing.assert_allclose(
        (found[single] == found[single].min(1)[:, None]).mean(1), held.occupancy[which], atol=0.1
    )


@pytest.mark.parametrize("reads", [3, 40])
def test_a_trap_forgets_its_state_exponentially_in_time(reads: int, shared_store: Path) -> None:
    """Autocorrelation exp(-dt / tau) with the variance of all states, for time constants of a few and of many reads."""
    circuit = circuit_of([[10]] * 60, shared_store, *traps(3, reads * READ_S))
    found = sums(circuit, torch.ones(1, 1, 6000))[0]
    variance = (
        circuit.arrays["conv1"].table.noise_variance(0)[0] * circuit.arrays["conv1"].table.converter(0).lsb_units ** 2
    )
    mean = sums(circuit_of([[10]] * 60, shared_store), torch.ones(1, 1, 1))[0]
    assert (found.mean(1) - mean[:, 0]).mean() == pytest.approx(0, abs=0.02), "levels are means over states"
    away = found - mean
    for lag in (0, 1, reads // 2, reads, 2 * reads):
        together = (away[:, lag:] * away[:, : away.shape[1] - lag]).mean(1)
        assert together.sum() / variance[:60].sum() == pytest.approx(np.exp(-lag / reads), abs=0.05)


def test_traps_of_evenly_spread_time_constants_have_a_1_over_f_spectrum(shared_store: Path) -> None:
    """Slope -1 +- 0.1 between the bounds, white below the slowest, and the integral over Lorentzians within 15 %."""
    fastest, slowest, reads = 4e-8, 2e-5, 8192
    settings = [*traps(20), f"variation.telegraph_fastest_s={fastest}", f"variation.telegraph_slowest_s={slowest}"]
    circuit = circuit_of([[10]] * 60, shared_store, *settings)
    found = sums(circuit, torch.ones(1, 1, reads))[0]
    power = (np.abs(np.fft.rfft(found - found.mean(1)[:, None])) ** 2).sum(0) * 2 * READ_S / reads
    frequency = np.fft.rfftfreq(reads, READ_S)
    edges = np.geomspace(3 / (2 * np.pi * slowest), 1 / (2 * np.pi * fastest) / 3, 9)
    place = np.digitize(frequency, edges)
    middle, level = (np.array([values[place == band].mean() for band in range(1, 9)]) for values in (frequency, power))
    slope = np.polyfit(np.log(middle), np.log(level), 1)[0]
    assert slope == pytest.approx(-1, abs=0.1)
    table = circuit.arrays["conv1"].table
    variance = (table.noise_variance(0)[0] * table.converter(0).lsb_units ** 2)[:60].sum()
    angle = 2 * np.pi * middle
    spread = np.log(slowest / fastest)
    expected = variance * 4 / (angle * spread) * (np.arctan(angle * slowest) - np.arctan(angle * fastest))
    np.testing.assert_allclose(level, expected, rtol=0.3)
    assert np.exp(np.log(level / expected).mean()) == pytest.approx(1, abs=0.15)


def test_a_slow_trap_is_frozen_over_an_image(shared_store: Path) -> None:
    """The same offset for all reads of an image, another one in the next; over images, the variance of its states."""
    circuit = circuit_of([[10, 0]] * 60, shared_store, *traps(1), *FROZEN)
    found = sums(circuit, numbered(1500))
    assert np.ptp(found, axis=2).max() < 3e-3, "input 1 is off: only the converter rounds"
    assert np.ptp(found[:, :, 0], axis=0).max() > 0.1
    table = circuit.arrays["conv1"].table
    variance = (table.noise_variance(0)[0] * table.converter(0).lsb_units ** 2)[:60]
    assert found[:, :, 0].var(0).sum() == pytest.approx(variance.sum(), rel=0.05)
    assert table.noise_lsb() > 0


def test_fast_traps_are_drawn_for_every_read(shared_store: Path) -> None:
    circuit = circuit_of([[10]] * 60, shared_store, *traps(3, 1e-12))
    found = sums(circuit, torch.ones(1, 1, 3000))[0]
    away = found - found.mean(1)[:, None]
    correlation = (away[:, 1:] * away[:, :-1]).sum() / (away**2).sum()
    assert correlation == pytest.approx(0, abs=0.02)


def test_planes_and_groups_lie_apart_in_time_as_they_are_read(shared_store: Path) -> None:
    """Two bit planes of three groups: a plane is one read behind the plane above it, a place six behind the last."""
    tau = 6
    layer = replace(columns([[10, 10, 10]] * 60), activation_bits=2)
    settings = [*FINE, *traps(3, tau * READ_S), "array.open_wordlines=1"]
    circuit = CircuitNetwork(Network("one", (1, 1, 1), [layer]), Config.load(None, settings), store=shared_store)
    activations = torch.zeros(1, 3, 1, 5000)
    activations[:, 1] = 3
    array = circuit.arrays["conv1"]
    array(activations)
    codes = dict(array.table.codes(array.scheme.reads(array.plan, activations)))
    low, high = codes[1][0, :, 0, :, :60] - codes[1][0, :, 0, :, :60].mean(axis=(0, 1))
    for lag, one, other in ((1, high, low), (6, low[:-1], low[1:]), (5, low[:-1], high[1:]), (7, high[:-1], low[1:])):
        correlation = (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())
        assert correlation == pytest.approx(np.exp(-lag / tau), abs=0.04)


def test_states_are_followed_whatever_the_order_of_lines() -> None:
    """By hand: a trap that surely is filled once it was renewed, in the second of two images, at the third read."""
    held = Traps(np.array([0]), np.array([0]), np.array([1e-3]), np.array([1e9]), np.array([1.0]))
    states = TrapStates(held, np.array([[False], [False]]), np.array([[1.0], [1.5]]))
    generators = [np.random.default_rng(seed) for seed in (0, 1)]
    images, which, differs = states.changes(np.array([3, 4, 5, 9]), 0.4, generators)
    assert (images.tolist(), which.tolist()) == ([0, 1], [0, 0])
    assert differs.tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    images, which, differs = states.changes(np.array([3, 4, 5, 9]), 0.2, generators)
    assert (images.tolist(), differs.tolist()) == ([0], [[0, 0, 0, 1]])


def test_noise_of_an_image_does_not_depend_on_its_company(shared_store: Path) -> None:
    settings = ["run.fidelity=solved", "array.open_wordlines=4", *traps(0.5, 1e-6, 0.1), "adc.noise_lsb=0.1"]
    images = random_images(9)

    def circuit(*more: str) -> CircuitNetwork:
        return CircuitNetwork(make_network(), Config.load(None, [*settings, *more]), store=shared_store)

    whole, single = circuit(), circuit()
    expected = whole(images)
    assert torch.equal(expected, torch.cat([single(image[None]) for image in images.flip(0)]).flip(0))
    assert torch.equal(expected, whole(images)), "nothing is remembered"
    assert not torch.equal(expected, circuit("run.seed=1")(images))
    assert not torch.equal(expected, circuit("variation.chip=1")(images))


AMPLITUDES = ["read.mode=amplitude", "run.fidelity=dc", "array.source_line_wordlines=1", "array.bitlines=64"]


@pytest.mark.parametrize("mode", [["read.mode=bit-serial"], ["read.mode=pulse-width"], AMPLITUDES])
def test_a_frozen_trap_counts_as_its_input(mode: list[str], shared_store: Path) -> None:
    """An activation of a lets a cell conduct a times, and its trap takes a times as much."""
    layer = replace(columns([[10]] * 40), activation_bits=3)
    values = torch.arange(8.0).reshape(1, 1, 1, 8)

    def found(*settings: str) -> np.ndarray:
        config = Config.load(None, [*FINE, "adc.full_scale_units=200", *mode, *settings])
        circuit = CircuitNetwork(Network("one", (1, 1, 1), [layer]), config, store=shared_store)
        return circuit.arrays["conv1"](values)[0, :, 0].numpy()

    away = found(*traps(1), *FROZEN) - found()
    largest = away[:, 7]
    assert np.abs(largest).max() > 0.5
    np.testing.assert_allclose(away, largest[:, None] * np.arange(8) / 7, atol=0.03)


def test_pulses_average_what_changes_between_them(shared_store: Path) -> None:
    """Noise that is new in each of seven pulses: a seventh of the variance that it has if it lasts for all of them."""
    layer = replace(columns([[10]] * 60), activation_bits=3)
    settings = [*FINE, "adc.full_scale_units=200", "read.mode=pulse-width"]

    def variance(*more: str) -> float:
        circuit = CircuitNetwork(
            Network("one", (1, 1, 1), [layer]), Config.load(None, [*settings, *more]), store=shared_store
        )
        found = circuit.arrays["conv1"](torch.full((1, 1, 1, 3000), 7.0))[0, :, 0].numpy()
        return float(found.var(1).sum())

    single = circuit_of([[10]] * 60, shared_store, *traps(3, 1e-12))
    table = single.arrays["conv1"].table
    sums(single, torch.ones(1, 1, 1))
    each = float((table.noise_variance(0)[0] * table.converter(0).lsb_units ** 2)[:60].sum())
    assert variance(*traps(3, 1e-12)) == pytest.approx(7 * each, rel=0.05)
    assert variance("variation.read_sigma_rel=0.1") == pytest.approx(60 * 7, rel=0.05)


def test_noise_of_cells_with_amplitudes_is_that_of_their_currents(shared_store: Path) -> None:
    """Levels 10 and 6 at 3/7 and 7/7 of the voltage: sigma is a tenth of each current, in sevenths of a unit."""
    layer = replace(columns([[10, 6]] * 60), activation_bits=3)
    settings = [*FINE, "adc.full_scale_units=200", *AMPLITUDES, "run.fidelity=ideal", "variation.read_sigma_rel=0.1"]
    circuit = CircuitNetwork(Network("one", (1, 1, 1), [layer]), Config.load(None, settings), store=shared_store)
    activations = torch.tensor([3.0, 7.0])[None, :, None, None].expand(1, 2, 1, 2000).contiguous()
    found = circuit.arrays["conv1"](activations)[0, :, 0].numpy()
    assert found.mean() == pytest.approx(72, abs=0.1)
    assert found.var(1).mean() == pytest.approx(3**2 + 4.2**2, rel=0.03)


def test_traps_need_cells_with_thresholds() -> None:
    with pytest.raises(
        ConfigError, match=r"telegraph_traps move the thresholds .* has no thresholds.*choose \"solved\""
    ):
        Config.load(None, ["run.fidelity=ideal", "variation.telegraph_traps=1"])
    config = Config.load(None, ["run.fidelity=solved", "variation.telegraph_traps=1", "trim.method=none"])
    source = ScriptedSource(config, ideal_units)
    circuit = CircuitNetwork(Network("one", (1, 1, 1), [make_layer()]), config, source=source)
    with pytest.raises(ConfigError, match=r"but this source of currents has no thresholds: choose another source"):
        circuit.arrays["conv1"](torch.zeros(1, 2, 3, 3))


def test_bounds_of_time_constants_that_are_exchanged() -> None:
    with pytest.raises(ConfigError, match=r"telegraph_fastest_s = 1 must be at most telegraph_slowest_s = 0\.1"):
        Config.load(None, ["variation.telegraph_fastest_s=1.0", "variation.telegraph_slowest_s=0.1"])
