"""Measures many circuits on the same images.

Work that is common to all circuits is done only once, and the outcome of a circuit fits into a small file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cosim.checked import STRICT, Count, Number, Text, parse
from cosim.config import Config
from cosim.datasets import Dataset
from cosim.device import chip_generator, load_card
from cosim.errors import DatasetError
from cosim.evaluate.array_layer import ArrayLayer
from cosim.evaluate.circuit import CircuitNetwork
from cosim.evaluate.inference import BATCH, prepare
from cosim.evaluate.provenance import Provenance
from cosim.evaluate.software import content_digest
from cosim.files import source_digest
from cosim.network import Network
from cosim.progress import progress_bar
from cosim.spice import engine_of

_FORMAT = "cosim-point-3"
# Keys of the section run that change what is looked at, but not the outcome.
_NOT_DECIDING = {"audit_reads", "keep_reads"}
# The packages whose code decides the outcome; the others are left out.
DECIDING = ("arithmetic", "network", "mapping", "device", "netlist", "spice", "solver", "currents", "readout",
            "evaluate", "config", "experiments/bench.py")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of one circuit on the images.

    Attributes:
        right: (images,) bool, whether each image is classified correctly.
        agreeing: (images,) bool, whether each image is decided as in software.
        code_error_rms: root mean square of the code error over all reads, noise included [unit currents]. The code
            error is the corrected code times its width, less the sum of an ideal array.
        code_error_max: largest absolute value of the code error [unit currents].
        clipped_share: share of the codes that are lost because the current is beyond the converter's range.
        unsettled_lsb: largest movement of a current in the second half of its pulse [LSB].
        certificate_reads: number of reads drawn for the certificate of a solved result, 0 without a certificate.
        certificate_max_error_lsb: largest distance of any of its reads from the transient [LSB], nan without one.
        seconds: wall time [s].
        ngspice_seconds: CPU time of the simulations whose results were not in the store yet [s].
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
        """The outcome as text, with one bit for each image in `right` and `agreeing`, and a digest of it all."""
        bits = {name: base64.b64encode(np.packbits(getattr(self, name)).tobytes()).decode() for name in _BITS}
        data = {"format": _FORMAT, "images": len(self.right), **self.figures(), **bits}
        return json.dumps({**data, "sha256": _digest(data)}) + "\n"

    def figures(self) -> dict[str, float | None]:
        """The numbers by name. Nan becomes None, since JSON has no nan."""
        numbers = {name: value for name, value in vars(self).items() if name not in _BITS}
        return {name: None if math.isnan(value) else value for name, value in numbers.items()}

    @classmethod
    def from_json(cls, text: str, images: int) -> Outcome:
        """Read an outcome that `to_json` wrote.

        Args:
            text: what it wrote.
            images: number of images.

        Raises:
            ValueError: the text is something else, was damaged, or is for another number of images.
        """
        data = asdict(parse(_Stored, text))
        if data["format"] != _FORMAT or data["images"] != images:
            raise ValueError(f"no {_FORMAT} of {images} images")
        written = json.loads(text)
        if written.pop("sha256") != _digest(written):
            raise ValueError("the digest is not that of the outcome")
        numbers = {name: math.nan if value is None else value for name, value in data.items() if name in _NUMBERS}
        packed = [np.frombuffer(base64.b64decode(data[name]), np.uint8) for name in _BITS]
        if any(len(bits) != -(-images // 8) for bits in packed):
            raise ValueError(f"not a bit for each of {images} images")
        right, agreeing = (np.unpackbits(bits, count=images).astype(bool) for bits in packed)
        return cls(right, agreeing, **numbers)


@dataclass(frozen=True)
class _Stored:
    """An outcome in its file."""

    __pydantic_config__: ClassVar = STRICT

    format: Text
    images: Count
    right: Text
    agreeing: Text
    code_error_rms: Number | None
    code_error_max: Number | None
    clipped_share: Number | None
    unsettled_lsb: Number | None
    certificate_reads: Number | None
    certificate_max_error_lsb: Number | None
    seconds: Number | None
    ngspice_seconds: Number | None
    sha256: Text


_BITS = ("right", "agreeing")
_NUMBERS = tuple(field.name for field in fields(Outcome) if field.name not in _BITS)


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


class Bench:
    """A network and images, on which circuits of any configuration can be measured.

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
        """(images,) decisions of the integer network, which do not depend on the configuration."""
        return self._decisions(self.network, "software network")

    @cached_property
    def floating(self) -> np.ndarray | None:
        """(images,) decisions of the float network, or None if its weights are not known."""
        if self.network.float_weights is None:
            return None
        return self._decisions(self.network.forward_float, "float network")

    def right(self, decisions: np.ndarray) -> np.ndarray:
        """(images,) bool, whether each decision is right."""
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
        """SHA-256 of network and images, and of training images that came with them."""
        digest, training = content_digest(self.network, self.dataset), self.dataset.training
        own = b"" if training is None else training.numpy().tobytes()
        return digest + hashlib.sha256(own).hexdigest()

    def identity(self, config: Config) -> str:
        """SHA-256 of all that can change the outcome: configuration, card, network, images, code, versions.

        Raises:
            CardError: there is no such card.
            MachineError: ngspice is missing or too old.
        """
        settings = config.to_record()
        settings["run"] = {key: value for key, value in settings["run"].items() if key not in _NOT_DECIDING}
        parts = [_FORMAT, version("cosim"), source_digest(DECIDING), self._digest, json.dumps(settings, sort_keys=True)]
        if config.run.fidelity != "ideal":
            card = load_card(config.cell.card)
            parts += [engine_of(config.run), *(section.text() for _, section in sorted(card.sections.items()))]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def provenance(self, config: Config, wall_seconds: float) -> Provenance:
        """Make the provenance of a result that took the given wall time.

        Args:
            config: what the circuits of the result have in common.
            wall_seconds: wall time [s].
        """
        engine = "ideal" if config.run.fidelity == "ideal" else engine_of(config.run)
        return Provenance.of(self.network, self.dataset, config, engine, wall_seconds=wall_seconds)

    def measure(self, config: Config) -> Outcome:
        """Classify the images on the circuit of a configuration.

        Raises:
            ConfigError, NetworkError, CardError, MachineError, SimulationError: as `CircuitNetwork` raises them;
                SimulationError also if the certificate refuses a solved result.
        """
        software, started = self.software, time.perf_counter()
        circuit = CircuitNetwork(self.network, config, store=self.store)
        prepare(circuit, self.dataset)
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
        """Add the errors of a layer. The noise of a pattern is drawn once for all its reads."""
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
            error = converter.corrected(converter.quantized(lsb)) * converter.lsb_units - ideal
            self.codes += float(reads.uses.sum()) * error.shape[1]
            self.squares += float(reads.uses @ (error**2).sum(axis=1))
            self.clipped += float(reads.uses @ reads.clipped(lsb, converter.highest).sum(axis=1))
            self.largest = max(self.largest, float(np.abs(error).max(initial=0)))
