"""Provenance: records how a result came about, with its inputs, settings, versions and cost."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator, Field

from cosim.checked import STRICT, Amount, Count, Number, Text, parse, printable
from cosim.config import Config
from cosim.datasets import Dataset
from cosim.network import Network
from cosim.spice import Usage


@dataclass(frozen=True)
class Versions:
    """Versions of the programs that made a result.

    Attributes:
        cosim: version of cosim.
        engine: the source of currents, such as "ngspice-39" or "ideal".
        torch: version of torch.
        python: version of Python.
    """

    __pydantic_config__: ClassVar = STRICT

    cosim: Text
    engine: Text
    torch: Text
    python: Text


@dataclass(frozen=True)
class Provenance:
    """How a result came about.

    Attributes:
        network: name of the network.
        network_source: what the network was loaded from.
        network_card: any facts that its author noted about it.
        dataset: name of the data set.
        dataset_digest: checksum of the data set.
        images: number of images.
        image_full_scale: largest value that a pixel can have.
        config: configuration of the circuit, or of a sweep, what its points have in common. Keys of the machine have
            their defaults, whatever they were.
        machine: the keys of the machine as they were, to be shown and never to be used.
        date: when the result was finished, ISO 8601, UTC.
        versions: versions of the programs that made it.
        chip: facts about the errors drawn for the chip; empty if there are none, or many chips.
        usage: what was simulated, or None if many circuits each have their own.
        seconds: wall time by stage [s].
        wall_seconds: wall time in all [s].
    """

    __pydantic_config__: ClassVar = STRICT

    network: Text
    network_source: Text
    network_card: Mapping[str, Any]
    dataset: Text
    dataset_digest: Text
    images: Count
    image_full_scale: Annotated[int | float, Field(gt=0, le=1e9)]
    config: Annotated[Config, BeforeValidator(Config.from_record)]
    machine: Mapping[Text, Count | Number | Text | None]
    date: Text
    versions: Versions
    chip: Mapping[Text, Count | Number | None] = field(default_factory=dict)
    usage: Usage | None = None
    seconds: Mapping[Text, Amount] = field(default_factory=dict)
    wall_seconds: Amount = 0.0

    @classmethod
    def of(cls, network: Network, dataset: Dataset, config: Config, engine: str, **measured: Any) -> Provenance:
        """Make the provenance of a result that is finished now.

        Args:
            network: the network.
            dataset: the images.
            config: the configuration.
            engine: the source of currents, as `CurrentSource.identity` names it.
            measured: the attributes chip, usage, seconds and wall_seconds, if they are known.
        """
        return cls(
            network=network.name,
            network_source=printable(network.source),
            network_card=network.card,
            dataset=printable(dataset.title),
            dataset_digest=printable(dataset.digest),
            images=len(dataset),
            image_full_scale=dataset.full_scale,
            config=config.on_machine(Config()),
            machine=config.machine,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=Versions(version("cosim"), engine, torch.__version__, platform.python_version()),
            **measured,
        )

    def to_json(self) -> dict[str, Any]:
        """The attributes as plain values, for JSON."""
        return {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "network_card": dict(self.network_card),
            "config": self.config.to_record(),
            "machine": dict(self.machine),
            "versions": asdict(self.versions),
            "chip": dict(self.chip),
            "usage": None if self.usage is None else asdict(self.usage),
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read what `to_json` gave, as JSON text, and check it.

        Raises:
            ValueError: the text is something else.
            ConfigError: its configuration does not fit this version, or has keys of the machine.
        """
        return parse(cls, text)
