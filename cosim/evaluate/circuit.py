"""A network whose array layers run on simulated circuits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cosim.arithmetic.partial_sums import check_digitized
from cosim.config import Config
from cosim.device import CellVariation, load_card
from cosim.errors import ConfigError, nearest
from cosim.evaluate.array_layer import ArrayLayer
from cosim.evaluate.netlists import write_netlists
from cosim.evaluate.programming import close_cells, level_slopes, program_cell
from cosim.evaluate.stopwatch import Stopwatch
from cosim.netlist import ArrayDecks
from cosim.network import LayerSpec, Network, integer_mvm
from cosim.spice import Reading, Simulator, Store, Usage


@dataclass(frozen=True, eq=False)
class AuditResult:
    """One audit deck: reads in image order, against the pattern table.

    Attributes:
        layer, group: where.
        table_lsb, audit_lsb: (reads, bitlines) currents in LSB.
        distinct_patterns: among the reads.
        differing_codes: codes that are not the same.
        samples: (reads,) when the reads are sampled [s].
        reading: the transient, for its waveform.
    """

    layer: str
    group: int
    table_lsb: np.ndarray
    audit_lsb: np.ndarray
    distinct_patterns: int
    differing_codes: int
    samples: np.ndarray
    reading: Reading

    @property
    def max_error_lsb(self) -> float:
        return float(np.abs(self.table_lsb - self.audit_lsb).max())


class CircuitNetwork(nn.Module):
    """A torch module that computes a network's array layers on simulated NOR-Flash arrays.

    Patterns that have no answer yet are simulated when images first cause them; the rest is looked up.

    Args:
        network: the quantized network.
        config: the configuration.
        store: directory of simulation results; None for $COSIM_STORE or the user's cache directory.

    Raises:
        ConfigError: run.layers names a layer that the network does not have, or layers are trained for other arrays.
        NetworkError: a layer does not fit the cells.
        CardError: the card is no cell, or cannot reach the currents asked for.
        MachineError: ngspice is missing or too old.
        SimulationError: ngspice failed.
    """

    # Audit decks a layer, each on a group drawn at random.
    AUDITS = 3

    def __init__(self, network: Network, config: Config | None = None, *, store: str | Path | None = None) -> None:
        super().__init__()
        self.network = network
        self.config = config or Config()
        self.stopwatch = Stopwatch()
        self.simulator: Simulator | None = None
        self.decks: ArrayDecks | None = None
        self.cells: CellVariation | None = None
        layers = _chosen_layers(network, self.config.run.layers)
        chosen = {layer.name for layer in layers}
        if any(layer.partial_sums is not None for layer in layers):
            check_digitized(self.config)
        if self.config.run.fidelity != "ideal":
            self.simulator = Simulator(self.config.run, Store(Path(store) if store else None))
            with self.stopwatch("programming"):
                card = load_card(self.config.cell.card)
                shifts = program_cell(card, self.config, self.simulator)
                if self.config.variation.threshold_error:
                    relative = self.config.variation.program_sigma_rel > 0
                    slopes = level_slopes(card, shifts, self.config, self.simulator) if relative else None
                    self.cells = CellVariation(self.config, shifts, slopes)
                closed = close_cells(card, shifts, self.config, self.simulator)
            self.decks = ArrayDecks(card, shifts, self.config, closed)
        self.arrays = {
            layer.name: ArrayLayer(layer, number, self, network.name)
            for number, layer in enumerate(network.layers)
            if layer.name in chosen
        }
        self._calibrated = self.config.adc.range == "cover"

    def calibrate(self, images: Tensor) -> None:
        """Set the range of the converters from sample images (n, channels, height, width) with values in 0..1.

        The sums are those of the integer network. Needed with adc.range = "calibrated-layer" or "calibrated-column"
        only, and left out, the first images that `forward` is given serve.
        """

        def mvm(layer: LayerSpec, activations: Tensor) -> Tensor:
            if layer.name in self.arrays:
                self.arrays[layer.name].calibrate(activations)
            return integer_mvm(layer, activations)

        with torch.no_grad(), self.stopwatch("range"):
            self.network(images, mvm)
        self._calibrated = True

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, channels, height, width) with values in 0..1."""
        if not self._calibrated:
            self.calibrate(images[: self.config.adc.calibration_images])
        with torch.no_grad():
            return self.network(images, self._mvm)

    def _mvm(self, layer: LayerSpec, activations: Tensor) -> Tensor:
        array = self.arrays.get(layer.name)
        if array is None:
            with self.stopwatch("software layers"):
                return integer_mvm(layer, activations)
        return array(activations)

    def audit(self, images: Tensor) -> list[AuditResult]:
        """Simulate samples of reads in the order the images cause them, and compare with the tables.

        This checks the premise of pattern tables, that a settled read has no memory, on the circuit at hand.

        Args:
            images: images that `forward` has seen, (n, channels, height, width).
        """
        if self.simulator is None:
            return []
        planned, tables, places = [], [], []
        for number, (name, array) in enumerate(self.arrays.items()):
            rng = np.random.default_rng((self.config.run.seed, number))
            for _ in range(self.AUDITS):
                image = int(rng.integers(len(images)))
                plan, table = array.audit(self.activations(images[image : image + 1], name), rng)
                planned.append(plan)
                tables.append(table)
                places.append(name)
        with self.stopwatch("audit"):
            readings = self.simulator.simulate([plan.deck for plan in planned], "audit")
        results = []
        for name, plan, table, reading in zip(places, planned, tables, readings, strict=True):
            converter = self.arrays[name].table.converter(plan.group)
            lsb = converter.in_lsb(reading.currents).astype(np.float32)
            differing = int((converter.codes(lsb) != converter.codes(table)).sum())
            self.arrays[name].note_settling(plan.group, reading)
            distinct = len(np.unique(plan.drive, axis=0))
            results.append(AuditResult(name, plan.group, table, lsb, distinct, differing, plan.deck.samples, reading))
        return results

    def activations(self, images: Tensor, name: str) -> Tensor:
        """Integer activations (n, inputs, height, width), padded, of a layer for images that `forward` has seen.

        Nothing is counted twice.
        """
        caught: list[Tensor] = []

        def mvm(layer: LayerSpec, activations: Tensor) -> Tensor:
            if layer.name == name:
                caught.append(activations)
            array = self.arrays.get(layer.name)
            return integer_mvm(layer, activations) if array is None else array.recall(activations)

        with torch.no_grad():
            self.network(images, mvm)
        return caught[0]

    def chip_facts(self) -> dict[str, Any]:
        """What this chip drew, in a few numbers for the record; none where its cells are their levels."""
        if self.cells is None:
            return {}
        return {
            "program_sigma_v": float(self.cells.sigma_v.max()),
            "charge_loss": self.cells.loss,
            "smallest_separation_sigmas": float(self.cells.separation.min())
            if self.config.variation.program_error
            else None,
            "overlapping_levels": self.cells.overlapping,
        }

    def take_usage(self) -> tuple[Usage, dict[str, float]]:
        """What was simulated, and the wall seconds by stage, since this was last asked or the circuit was made."""
        usage, seconds = Usage(), dict(self.stopwatch.seconds)
        self.stopwatch.seconds.clear()
        if self.simulator is not None:
            usage, self.simulator.usage = self.simulator.usage, Usage()
        return usage, seconds

    def write_netlists(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write every deck of the network, its cards beside it, and manifest.json (docs/formats/manifest.md).

        Each runs by hand: `ngspice -b DECK` in the folder leaves DECK's currents in a raw file of the same name.

        Returns:
            the manifest's path.

        Raises:
            OutputError: the folder holds something already and `force` is not given.
            ConfigError: ideal fidelity has no decks, or the patterns are too many to write them all.
        """
        if self.simulator is None:
            raise ConfigError('run.fidelity = "ideal" has no decks: choose "tran" or "dc"')
        arrays = list(self.arrays.values())
        return write_netlists(arrays, self.network.name, self.config, self.simulator.engine, Path(folder), force)


def _chosen_layers(network: Network, asked: str) -> list[LayerSpec]:
    """The layers that run.layers puts on arrays."""
    if asked == "all":
        return network.layers
    if asked == "conv":
        convolutions = [layer for layer in network.layers if layer.kind == "conv2d"]
        if not convolutions:
            raise ConfigError(f'network {network.name!r} has no convolution to put on an array: set run.layers="all"')
        return convolutions
    known = {layer.name: layer for layer in network.layers}
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in known:
            raise ConfigError(
                f'run.layers: network {network.name!r} has no layer {name!r}: {nearest(name, known)}; or "conv", "all"'
            )
    return [layer for layer in network.layers if layer.name in names]
