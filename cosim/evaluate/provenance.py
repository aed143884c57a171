"""How a result came about: on what, with which settings, by which versions, and what it took."""

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
    """Of the programs that made a result; engine: the source of its currents, as "ngspice-39", or "ideal"."""

    cosim: str
    engine: str
    torch: str
    python: str


@dataclass(frozen=True)
class Provenance:
    """How a result came about.

    Attributes:
        network, network_source: its name, and what it was loaded from; network_card: free facts about it.
        dataset, dataset_digest: the images' name and checksum; images: how many; image_full_scale: their largest value.
        config: of the circuit, or what all circuits of a sweep share.
        date: when it was finished, ISO 8601, UTC.
        versions: of what made it.
        chip: what the chip drew, by name; empty where its cells are their levels, or there are many chips.
        usage: what was simulated, None where many circuits each have their own.
        seconds: wall time by stage; wall_seconds: in all.
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
        """The provenance of what was found just now.

        Args:
            engine: the source of currents, `CurrentSource.identity`.
            measured: chip, usage, seconds, wall_seconds, where they are known.
        """
        return cls(
            network=network.name,
            network_source=network.source,
            network_card=network.card,
            dataset=dataset.name,
            dataset_digest=dataset.digest,
            images=len(dataset),
            image_full_scale=dataset.full_scale,
            config=config,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=Versions(version("cosim"), engine, torch.__version__, platform.python_version()),
            **measured,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
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
        """What `to_json` gave, checked.

        Raises:
            ValueError: it is something else.
            ConfigError: its configuration is none of this version.
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


# What JSON makes of each attribute.
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
