"""How a run came about, for its page: settings, stages, versions, and the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from cosim.config import Config
from cosim.report import wording

_SHOWN_ELSEWHERE = ("config", "seconds", "usage", "wall_seconds")


def stages(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Seconds by stage, longest first, with what no stage accounts for."""
    seconds = dict(facts.get("seconds", {}))
    rest = facts.get("wall_seconds", 0.0) - sum(seconds.values())
    rows = sorted(seconds.items(), key=lambda item: -item[1])
    if rest > 0:
        rows.append(("everything else", rest))
    longest = max((value for _, value in rows), default=0.0) or 1.0
    return [{"name": name, "seconds": wording.seconds(value), "width": 100 * value / longest} for name, value in rows]


def settings(facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of the configuration table; keys this version does not know are shown all the same."""
    defaults = Config().model_dump()
    for section, values in facts.get("config", {}).items():
        kind = Config.model_fields[section].annotation if section in Config.model_fields else None
        known = getattr(kind, "model_fields", {})
        for key, value in values.items():
            yield {
                "key": f"{section}.{key}",
                "value": wording.quantity(key, value),
                "changed": key in known and value != defaults[section][key],
                "default": wording.quantity(key, defaults[section][key]) if key in known else "",
                "meaning": (known[key].description or "").replace("\n", " ") if key in known else "",
            }


def other_facts(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the page shows nowhere else, as (dotted key, text)."""
    return _flat({key: value for key, value in facts.items() if key not in _SHOWN_ELSEWHERE})


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as (dotted key, text)."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key.replace("_", " "), str(value)


def changed(facts: Mapping[str, Any]) -> list[str]:
    """Every setting that is not the default, as section.key=value."""
    defaults = Config().model_dump()
    return [
        f"{section}.{key}={value}"
        for section, values in facts.get("config", {}).items()
        for key, value in values.items()
        if value is not None and value != defaults.get(section, {}).get(key)
    ]


def command(facts: Mapping[str, Any]) -> str:
    """The command that repeats the run, naming every setting that is not the default."""
    words = ["cosim", "infer", str(facts.get("network_source")), "--dataset", str(facts.get("dataset"))]
    words += ["--images", str(facts.get("images"))]
    for setting in changed(facts):
        words += ["--set", setting]
    return shlex.join([*words, "--out", "run.h5"])
