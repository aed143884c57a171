"""Many circuits on the same images: what can be done once is done once, and what a circuit gave fits a small file."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosim.config import Config
from cosim.datasets import Dataset
from cosim.device import chip_generator, load_card
from cosim.errors import DatasetError
from cosim.evaluate.array_layer import ArrayLayer
from cosim.evaluate.circuit import CircuitNetwork
from cosim.evaluate.inference import BATCH
from cosim.evaluate.provenance import Provenance
from cosim.evaluate.software import content_digest
from cosim.files import source_digest
from cosim.network import Network
from cosim.progress import progress_bar
from cosim.spice import engine_of

_FORMAT = "cosim-point-2"
# Keys that say how a circuit is computed and not what it is.
_MEANS = {"workers", "tensor_threads", "timeout_s", "ngspice", "audit_reads", "keep_reads"}
# The packages whose code decides what becomes of images; those that are not there are left out.
DECIDING = ("arithmetic", "network", "mapping", "device", "netlist", "spice", "solver", "currents", "readout",
            "evaluate", "config", "experiments/bench.py")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one circuit made of the images.

    Attributes:
        right: (images,) bool, classified rightly; agreeing: (images,) bool, decided as software does.
        code_error_rms, code_error_max: of every code of every read, noise included, in unit currents: what the code
            counts less the sum of an ideal array.
        clipped_share: of these codes, those lost because the current is beyond the converter's range.
        unsettled_lsb: largest movement of a current in the second half of its pulse.
        certificate_reads, certificate_max_error_lsb: reads drawn for the certificate of a solved result, and the
            largest distance of any read from its transient [LSB]; 0 and nan where there is none.
        seconds: wall time; ngspice_seconds: CPU time of what was simulated for it and not found in the store.
    """

    right: np.ndarray
    agreeing: np.ndarray
    code_error_rms: float
    code_error_max: float
    clipped_share: float
    unsettled_lsb: float
    certificate_reads: float
    certificate_max_error_lsb: float
    seconds: float
    ngspice_seconds: float

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def disagreements(self) -> int:
        return int((~self.agreeing).sum())

    def to_json(self) -> str:
        """All of it as text; images are bits."""
        bits = {name: base64.b64encode(np.packbits(getattr(self, name)).tobytes()).decode() for name in _BITS}
        return json.dumps({"format": _FORMAT, "images": len(self.right), **self.figures(), **bits}) + "\n"

    def figures(self) -> dict[str, float | None]:
        """The numbers by name, None where there is none, as JSON has no nan."""
        numbers = {name: value for name, value in vars(self).items() if name not in _BITS}
        return {name: None if math.isnan(value) else value for name, value in numbers.items()}

    @classmethod
    def from_json(cls, text: str, images: int) -> Outcome:
        """The outcome for so many images that `to_json` wrote.

        Raises:
            ValueError, LookupError, TypeError: it is something else.
        """
        data = json.loads(text)
        if data["format"] != _FORMAT or data["images"] != images:
            raise ValueError(f"no {_FORMAT} of {images} images")
        numbers = (_number(data[field.name]) for field in fields(cls) if field.name not in _BITS)
        packed = [np.frombuffer(base64.b64decode(data[name]), np.uint8) for name in _BITS]
        right, agreeing = (np.unpackbits(bits, count=images).astype(bool) for bits in packed)
        return cls(right, agreeing, *numbers)


_BITS = ("right", "agreeing")


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


class Bench:
    """A network and images on which circuits of any configuration are measured.

    Args:
        network: the quantized network.
        dataset: the images.
        store: directory of simulation results; None for $COSIM_STORE or the user's cache directory.

    Raises:
        DatasetError: there is no image.
        NetworkError: the images do not fit the network.
    """

    def __init__(self, network: Network, dataset: Dataset, store: str | Path | None = None) -> None:
        if len(dataset) == 0:
            raise DatasetError("expected at least one image, found none: ask for more")
        network.check_images(dataset.real(0, 1))
        self.network = network
        self.dataset = dataset
        self.store = store

    @cached_property
    def software(self) -> np.ndarray:
        """(images,) decisions of the integer network, which no configuration changes."""
        return self._decisions(self.network, "software network")

    @cached_property
    def floating(self) -> np.ndarray | None:
        """(images,) decisions of the float network, None where its weights are not known."""
        if self.network.float_weights is None:
            return None
        return self._decisions(self.network.forward_float, "float network")

    def right(self, decisions: np.ndarray) -> np.ndarray:
        """(images,) bool: which decisions are right."""
        return decisions == self.dataset.labels.numpy()

    def _decisions(self, forward: Callable[[Tensor], Tensor], title: str, covers: float = 0.0) -> np.ndarray:
        decided, images = [], self.dataset
        with progress_bar(title, len(images), covers=covers) as advance, torch.no_grad():
            for first in range(0, len(images), BATCH):
                decided.append(forward(images.real(first, first + BATCH)).argmax(1))
                advance(len(decided[-1]))
        return torch.cat(decided).numpy()

    @cached_property
    def _digest(self) -> str:
        """SHA-256 of network and images."""
        return content_digest(self.network, self.dataset)

    def identity(self, config: Config) -> str:
        """SHA-256 of all that can change the outcome: configuration, card, network, images, code, versions.

        Raises:
            CardError: there is no such card.
            MachineError: ngspice is missing or too old.
        """
        settings = config.model_dump()
        settings["run"] = {key: value for key, value in settings["run"].items() if key not in _MEANS}
        parts = [_FORMAT, version("cosim"), source_digest(DECIDING), self._digest, json.dumps(settings, sort_keys=True)]
        if config.run.fidelity != "ideal":
            card = load_card(config.cell.card)
            parts += [engine_of(config.run), *(section.text() for _, section in sorted(card.sections.items()))]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def provenance(self, config: Config, wall_seconds: float) -> Provenance:
        """How something came about that took so long, with what its circuits have in common."""
        engine = "ideal" if config.run.fidelity == "ideal" else engine_of(config.run)
        return Provenance.of(self.network, self.dataset, config, engine, wall_seconds=wall_seconds)

    def measure(self, config: Config) -> Outcome:
        """Classify the images on the circuit of a configuration.

        Raises:
            ConfigError, NetworkError, CardError, MachineError, SimulationError: as `CircuitNetwork`; a
                solved result that its certificate refuses, too.
        """
        software, started = self.software, time.perf_counter()
        circuit = CircuitNetwork(self.network, config, store=self.store)
        decided = self._decisions(circuit, "images", covers=1.0)
        certificate = circuit.certify() if config.run.fidelity == "solved" else None
        errors = _CodeErrors()
        for array in circuit.arrays.values():
            errors.add(array)
        usage, _ = circuit.take_usage()
        distance = math.nan
        if certificate is not None:
            distance = max(certificate.max_error_lsb, certificate.adverse_max_error_lsb)
        return Outcome(
            right=self.right(decided),
            agreeing=decided == software,
            code_error_rms=float(np.sqrt(errors.squares / errors.codes)),
            code_error_max=errors.largest,
            clipped_share=errors.clipped / errors.codes,
            unsettled_lsb=max(array.largest_unsettled_lsb for array in circuit.arrays.values()),
            certificate_reads=0.0 if certificate is None else certificate.reads,
            certificate_max_error_lsb=distance,
            seconds=time.perf_counter() - started,
            ngspice_seconds=usage.ngspice_seconds,
        )


@dataclass
class _CodeErrors:
    """Errors of codes in unit currents, added up over every read of every group."""

    codes: float = 0.0
    squares: float = 0.0
    clipped: float = 0.0
    largest: float = 0.0

    def add(self, array: ArrayLayer) -> None:
        """Add a layer's; the noise of a pattern's reads is drawn once for all of them."""
        table, config = array.table, array.chip.config
        for index in range(len(array.plan.groups)):
            reads, converter = table.reads(index), table.converter(index)
            lsb = reads.lsb
            if table.noise is not None:
                variance = table.noise_variance(index)
                drawn = chip_generator(config, "code errors", array.number, index).standard_normal(lsb.shape)
                lsb = lsb + np.sqrt(variance) * drawn
            used = table.slots.used(array.plan.groups[index].stream)
            ideal = table.ideal_sums(index, used) * converter.pulses
            error = converter.codes(lsb) * converter.lsb_units - ideal
            self.codes += float(reads.uses.sum()) * error.shape[1]
            self.squares += float(reads.uses @ (error**2).sum(axis=1))
            self.clipped += float(reads.uses @ reads.clipped(lsb, converter.highest).sum(axis=1))
            self.largest = max(self.largest, float(np.abs(error).max(initial=0)))
