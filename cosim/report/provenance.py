"""Shows on a run's page how the run came about: settings, stages, versions, and the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from cosim.config import MACHINE_KEYS, Config
from cosim.evaluate.provenance import Provenance
from cosim.report import wording

_SHOWN_ELSEWHERE = ("config", "seconds", "usage", "wall_seconds")


def stages(came: Provenance) -> list[dict[str, Any]]:
    """Seconds by stage, the longest first, and the rest that belongs to no stage."""
    rest = came.wall_seconds - sum(came.seconds.values())
    rows = sorted(came.seconds.items(), key=lambda item: -item[1])
    if rest > 0:
        rows.append(("everything else", rest))
    longest = max((value for _, value in rows), default=0.0) or 1.0
    return [{"name": name, "seconds": wording.seconds(value), "width": 100 * value / longest} for name, value in rows]


def settings(config: Config) -> Iterator[dict[str, Any]]:
    """Rows of the configuration table, without the keys of the machine, which are no part of a record."""
    for (section, values), (_, defaults) in zip(config, Config(), strict=True):
        for key, field in type(values).model_fields.items():
            if f"{section}.{key}" in MACHINE_KEYS:
                continue
            value, default = getattr(values, key), getattr(defaults, key)
            yield {
                "key": f"{section}.{key}",
                "value": wording.quantity(key, value),
                "changed": value != default,
                "default": wording.quantity(key, default),
                "meaning": (field.description or "").replace("\n", " "),
            }


def other_facts(came: Provenance) -> Iterator[tuple[str, str]]:
    """Facts that the page shows nowhere else, as (dotted key, text)."""
    return _flat({key: value for key, value in came.to_json().items() if key not in _SHOWN_ELSEWHERE})


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as (dotted key, text)."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key.replace("_", " "), str(value)


def changed(config: Config) -> list[str]:
    """Every setting that is not the default, as section.key=value, without those of the machine."""
    defaults = Config().to_record()
    return [
        f"{section}.{key}={str(value).lower() if isinstance(value, bool) else value}"
        for section, values in config.to_record().items()
        for key, value in values.items()
        if value is not None and value != defaults[section][key]
    ]


def command(came: Provenance) -> str:
    """The command that repeats the run, naming every setting that is not the default."""
    words = ["cosim", "infer", came.network_source, "--dataset", came.dataset]
    words += ["--images", str(came.images)]
    for setting in changed(came.config):
        words += ["--set", setting]
    return shlex.join([*words, "--out", "run.h5"])
