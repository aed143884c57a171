"""Provenance: records how a result came about, with its inputs, settings, versions and cost."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

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

    cosim: str
    engine: str
    torch: str
    python: str


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
        config: configuration of the circuit, or of a sweep, what its points have in common.
        date: when the result was finished, ISO 8601, UTC.
        versions: versions of the programs that made it.
        chip: facts about the errors drawn for the chip; empty if there are none, or many chips.
        usage: what was simulated, or None if many circuits each have their own.
        seconds: wall time by stage [s].
        wall_seconds: wall time in all [s].
    """

    network: str
    network_source: str
    network_card: Mapping[str, Any]
    dataset: str
    dataset_digest: str
    images: int
    image_full_scale: float
    config: Config
    date: str
    versions: Versions
    chip: Mapping[str, float | None] = field(default_factory=dict)
    usage: Usage | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0

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
            network_source=network.source,
            network_card=network.card,
            dataset=dataset.title,
            dataset_digest=dataset.digest,
            images=len(dataset),
            image_full_scale=dataset.full_scale,
            config=config,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=Versions(version("cosim"), engine, torch.__version__, platform.python_version()),
            **measured,
        )

    def to_json(self) -> dict[str, Any]:
        """The attributes as plain values, for JSON."""
        return {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "network_card": dict(self.network_card),
            "config": self.config.model_dump(),
            "versions": asdict(self.versions),
            "chip": dict(self.chip),
            "usage": None if self.usage is None else asdict(self.usage),
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_json(cls, data: Any) -> Provenance:
        """Read what `to_json` gave, and check it.

        Raises:
            ValueError: the data is something else.
            ConfigError: its configuration does not fit this version.
        """
        if not isinstance(data, dict) or data.keys() != _KINDS.keys():
            raise ValueError(f"the provenance must have the keys {', '.join(_KINDS)}")
        for name, kind in _KINDS.items():
            if not isinstance(data[name], kind) or isinstance(data[name], bool):
                raise ValueError(f"{name} must be {kind}, found {data[name]!r:.80}")
        for name, kind in (("chip", int | float | None), ("seconds", int | float), ("usage", int | float),
                           ("versions", str)):  # fmt: skip
            if not all(isinstance(value, kind) for value in (data[name] or {}).values()):
                raise ValueError(f"the values of {name} must be {kind}, found {data[name]!r:.80}")
        try:
            versions = Versions(**data["versions"])
            usage = None if data["usage"] is None else Usage(**data["usage"])
        except TypeError as error:
            raise ValueError(f"versions and usage have other entries than expected: {error}") from error
        return cls(**{**data, "config": Config.from_dict(data["config"]), "versions": versions, "usage": usage})


# The type of each attribute in JSON.
_KINDS: dict[str, Any] = {
    "network": str,
    "network_source": str,
    "network_card": dict,
    "dataset": str,
    "dataset_digest": str,
    "images": int,
    "image_full_scale": int | float,
    "config": dict,
    "date": str,
    "versions": dict,
    "chip": dict,
    "usage": dict | None,
    "seconds": dict,
    "wall_seconds": int | float,
}
