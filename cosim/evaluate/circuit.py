"""A network whose array layers run on simulated circuits."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cosim.arithmetic.partial_sums import check_digitized
from cosim.config import Config
from cosim.currents import CurrentSource, IdealSource, SpiceSource, calibrating_source, make_source
from cosim.errors import ConfigError, nearest
from cosim.evaluate.array_layer import ArrayLayer, Chip
from cosim.evaluate.audit import audit_circuit
from cosim.evaluate.certificate import Certificate, certify_circuit
from cosim.evaluate.distance import Distance
from cosim.evaluate.netlists import write_netlists
from cosim.evaluate.stopwatch import Stopwatch
from cosim.network import FixedPoint, LayerSpec, Network, Rescaling, integer_mvm
from cosim.progress import progress_bar
from cosim.spice import Usage


class CircuitNetwork(nn.Module):
    """A torch module that computes a network's array layers on simulated NOR-Flash arrays.

    A pattern is simulated when an image causes it for the first time; after that, its result is looked up.

    Args:
        network: the quantized network.
        config: the configuration; None for the default one.
        store: directory of simulation results; None for $COSIM_STORE or the user's cache directory.
        source: the source of currents; None for the source of `run.fidelity`.
        calibrating: their source at calibration; None for the same chip in the configured conditions.

    Attributes:
        rescaling: by name, the rescaling of the layers on arrays: in fixed point, or the layers themselves.
        calibrated: whether the circuit has the training images that its configuration needs.

    Raises:
        ConfigError: run.layers names a layer that the network does not have, or layers are trained for other arrays.
        NetworkError: a layer does not fit the cells, or its activation scale does not fit fixed point.
        CardError: the card does not describe a cell, or the cell cannot reach the requested currents.
        MachineError: ngspice is missing or too old.
        SimulationError: ngspice failed.
    """

    def __init__(
        self,
        network: Network,
        config: Config | None = None,
        *,
        store: str | Path | None = None,
        source: CurrentSource | None = None,
        calibrating: CurrentSource | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.config = config or Config()
        self.stopwatch = Stopwatch()
        layers = chosen_layers(network, self.config.run.layers)
        chosen = {layer.name for layer in layers}
        if any(layer.partial_sums is not None for layer in layers):
            check_digitized(self.config)
        with self.stopwatch("programming"), progress_bar("programming cells", 1):
            self.source = source or make_source(self.config, store)
            calibrating = calibrating or calibrating_source(self.source, self.config)
        chip = Chip(self.config, self.source, calibrating, network.name, self.stopwatch)
        self.arrays = {
            layer.name: ArrayLayer(layer, number, chip)
            for number, layer in enumerate(network.layers)
            if layer.name in chosen
        }
        self.rescaling = {layer.name: _rescaling(layer, self.config) for layer in layers}
        self.calibrated = self.config.adc.range == "cover" and self.config.trim.patterns == "random"

    def calibrate(self, images: Tensor) -> None:
        """Prepare everything that the configuration takes from training images.

        With adc.range = "calibrated-layer" or "calibrated-column", that is the range of the converters, from the sums
        that images cause in the integer network. With trim.patterns = "images", it is the calibration reads.

        Args:
            images: (n, channels, height, width) with values in 0..1, of the training set.
        """

        def mvm(layer: LayerSpec, activations: Tensor) -> Tensor:
            if layer.name in self.arrays:
                self.arrays[layer.name].calibrate(activations)
            return integer_mvm(layer, activations)

        with torch.no_grad(), self.stopwatch("training images"):
            self._run(images, mvm)
        self.calibrated = True

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, channels, height, width) with values in 0..1.

        Raises:
            ConfigError: the configuration needs training images, and `calibrate` was not called.
        """
        if not self.calibrated:
            raise ConfigError(
                f'adc.range = "{self.config.adc.range}" and trim.patterns = "{self.config.trim.patterns}" need '
                "training images, found none: call calibrate(images) first, with images of the training set"
            )
        numbers = {name: number for number, name in enumerate(self.arrays, 1)}
        with progress_bar("layers", len(numbers), covers=len(images)) as advance, torch.no_grad():
            started, before = time.perf_counter(), self._reads()

            def mvm(layer: LayerSpec, activations: Tensor) -> Tensor:
                if layer.name not in numbers:
                    with self.stopwatch("software layers"):
                        return integer_mvm(layer, activations)
                reads, seconds = self._reads() - before, time.perf_counter() - started
                rate = f", {reads / seconds / 1e6:.2g} M reads/s" if reads else ""
                advance(0, note=f"layer {numbers[layer.name]} of {len(numbers)}, {layer.name}{rate}")
                sums: Tensor = self.arrays[layer.name](activations)
                advance(1)
                return sums

            return self._run(images, mvm)

    def _run(self, images: Tensor, mvm: Callable[[LayerSpec, Tensor], Tensor]) -> Tensor:
        """Logits of the network with the circuit's rescaling, if `mvm` computes the sums of its layers."""
        logits: Tensor = self.network(images, mvm, self.rescaling)
        return logits

    def _reads(self) -> int:
        return sum(array.reads for array in self.arrays.values())

    def audit(self, images: Tensor) -> list[Distance]:
        """Repeat reads in the order in which images cause them, and compare them with the tables.

        Args:
            images: images that `forward` has seen, (n, channels, height, width).

        Returns:
            the distances; none for ideal arrays.
        """
        if isinstance(self.source, IdealSource):
            return []
        with self.stopwatch("audit"):
            return audit_circuit(self, images, self.config.run.seed)

    def certify(self) -> Certificate | None:
        """Simulate a sample of the reads so far as transients, and compare with the tables.

        Returns:
            how far they are off, or None if there is nothing to certify: the arrays are ideal, there was no read so
            far, or `run.certificate_reads` is 0.

        Raises:
            SimulationError: a read is farther off than `run.certificate_lsb`; its deck is kept in the store.
        """
        if isinstance(self.source, IdealSource):
            return None
        with self.stopwatch("certificate"):
            return certify_circuit(list(self.arrays.values()))

    def activations(self, images: Tensor, name: str) -> Tensor:
        """Padded integer activations (n, inputs, height, width) of a layer, for images that `forward` has seen.

        The reads of these images are not counted a second time.
        """
        caught: list[Tensor] = []

        def mvm(layer: LayerSpec, activations: Tensor) -> Tensor:
            if layer.name == name:
                caught.append(activations)
            array = self.arrays.get(layer.name)
            return integer_mvm(layer, activations) if array is None else array.recall(activations)

        with torch.no_grad():
            self._run(images, mvm)
        return caught[0]

    def chip_facts(self) -> dict[str, Any]:
        """A few numbers for the record about the errors drawn for this chip; empty if its cells have none."""
        cell = self.source.cell
        if cell is None or cell.variation is None:
            return {}
        drawn = cell.variation
        return {
            "program_sigma_v": float(drawn.programming.sigma_v.max()),
            "charge_loss": drawn.loss,
            "smallest_separation_sigmas": float(drawn.separation.min()) if self.config.program_error else None,
            "overlapping_levels": drawn.overlapping,
        }

    def take_usage(self) -> tuple[Usage, dict[str, float]]:
        """What was simulated, and wall seconds by stage, since the last call or since the circuit was made."""
        usage, seconds = self.source.usage.take(), dict(self.stopwatch.seconds)
        self.stopwatch.seconds.clear()
        return usage, seconds

    def write_netlists(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write every deck of the network, its cards beside it, and manifest.json (docs/formats/manifest.md).

        Each deck runs by hand: `ngspice -b DECK` in the folder writes its currents to a raw file of the same name.

        Args:
            folder: where the files go.
            force: whether to replace all files that cosim wrote there earlier; anything else there is refused.

        Returns:
            the path of the manifest.

        Raises:
            OutputError: the folder is not empty and `force` is not given.
            ConfigError: the arrays are ideal or solved and have no decks, or there are too many patterns to write.
        """
        if not isinstance(self.source, SpiceSource):
            raise ConfigError(f'run.fidelity = "{self.config.run.fidelity}" has no decks: choose "tran" or "dc"')
        return write_netlists(list(self.arrays.values()), self.source, self.network.name, Path(folder), force)


def _rescaling(layer: LayerSpec, config: Config) -> Rescaling:
    """The rescaling of a layer on arrays."""
    if config.run.rescale == "float":
        return layer
    return FixedPoint.of(layer, config.run.rescale_bits)


def chosen_layers(network: Network, asked: str) -> list[LayerSpec]:
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
