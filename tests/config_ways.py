"""Every way in which a configuration can be made, from the same keys."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cosim.config import Config

Keys = dict[str, dict[str, Any]]


def config_ways(keys: Keys, folder: Path) -> dict[str, Callable[[], Config]]:
    """The ways, each with its name.

    Args:
        keys: the value of each key by section.
        folder: where a file is written.
    """
    kinds = {section: type(getattr(Config(), section)) for section in keys}

    def from_file() -> Config:
        path = folder / "config.toml"
        path.write_text(toml_of(keys), encoding="utf-8")
        return Config.load(path)

    return {
        "a dictionary": lambda: Config.from_dict(keys),
        "a file": from_file,
        "a file's content": lambda: Config.from_dict(tomllib.loads(toml_of(keys))),
        "overrides": lambda: Config.load(None, overrides_of(keys)),
        "sections": lambda: Config(**{section: kinds[section](**values) for section, values in keys.items()}),
        "a copy": lambda: Config().model_copy(
            update={section: kinds[section](**values) for section, values in keys.items()}
        ),
        "changed values": lambda: Config().with_values(
            {f"{section}.{key}": value for section, values in keys.items() for key, value in values.items()}
        ),
        "JSON": lambda: Config.from_dict(json.loads(json.dumps(keys, allow_nan=False))),
    }


def overrides_of(keys: Keys) -> list[str]:
    """The keys as arguments of `--set`."""
    return [
        f"{section}.{key}={'none' if value is None else toml_value(value)}"
        for section, values in keys.items()
        for key, value in values.items()
    ]


def toml_of(keys: dict[str, Any]) -> str:
    """The keys as TOML, without those that are None, since TOML has no such value."""
    lines = []
    for section, values in keys.items():
        lines.append(f"[{toml_value(section)}]")
        lines += [f"{toml_value(key)} = {toml_value(value)}" for key, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """A value as TOML."""
    match value:
        case float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(map(toml_value, value))}]"
        case dict():
            return f"{{{', '.join(f'{toml_value(str(key))} = {toml_value(each)}' for key, each in value.items())}}}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
