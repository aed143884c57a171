"""The configuration: frozen sections that are read from TOML. Single keys can be overridden.

The whole configuration is stored with every result.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import ValidationError, model_validator

from cosim.checked import Text
from cosim.config.relations import check_relations
from cosim.config.sections import (
    OF_MACHINE,
    Adc,
    Array,
    Cell,
    Corner,
    Defects,
    Programming,
    Read,
    Run,
    Section,
    Sense,
    Trim,
    Variation,
)
from cosim.errors import ConfigError, nearest
from cosim.files import shipped

_LARGEST_BYTES = 1 << 18
_LONGEST_LINE = 1 << 11


class Config(Section):
    """Everything that can be set, by section.

    Raises:
        ConfigError: keys contradict each other, however the configuration is made.
    """

    array: Array = Array()
    cell: Cell = Cell()
    read: Read = Read()
    sense: Sense = Sense()
    corner: Corner = Corner()
    adc: Adc = Adc()
    trim: Trim = Trim()
    variation: Variation = Variation()
    programming: Programming = Programming()
    defects: Defects = Defects()
    run: Run = Run()

    @model_validator(mode="after")
    def _check_relations(self) -> Self:
        check_relations(self)
        return self

    @property
    def read_at_corner(self) -> Read:
        """The section `read` with the voltages at the corner's supply and temperature."""
        read, supply = self.read, self.corner.supply
        factor = supply if read.supply_share == 1 else 1 + read.supply_share * (supply - 1)
        warmed_v = read.wordline_tempco_v_per_k * (self.corner.temperature_c - Corner().temperature_c)
        volts = {"wordline_v": factor * read.wordline_v + warmed_v, "bitline_v": factor * read.bitline_v}
        return Read.model_construct(**{**dict(read), **volts})  # not checked, since ranges are for the nominal supply

    @property
    def at_verify(self) -> Config:
        """The same configuration in the conditions of verify: 27 C and nominal supply."""
        return self.at_corner(Corner(process=self.corner.process) if self.programming.process == "own" else Corner())

    @property
    def at_calibration(self) -> Config:
        """The same configuration in the conditions of the last calibration; this object if they are those of reads."""
        trim, corner, retention_s = self.trim, self.corner, self.variation.retention_s
        calibrated = Corner(
            process=corner.process,
            temperature_c=corner.temperature_c if trim.temperature_c is None else trim.temperature_c,
            supply=corner.supply if trim.supply is None else trim.supply,
        )
        age_s = retention_s if trim.age_s is None else trim.age_s
        if trim.interval_s is not None:
            age_s += (retention_s - age_s) // trim.interval_s * trim.interval_s
        if calibrated == corner and age_s == retention_s:
            return self
        variation = self.variation.model_copy(update={"retention_s": age_s})
        return self.model_copy(update={"corner": calibrated, "variation": variation})

    @property
    def program_error(self) -> bool:
        """Whether the programmed thresholds of cells differ from those of their levels."""
        return self.programming.method == "pulses" or self.variation.program_error

    @property
    def threshold_error(self) -> bool:
        """Whether the thresholds of cells, when they are read, differ from those of their levels."""
        return self.program_error or self.variation.mismatch or self.variation.retention_s > 0

    def at_corner(self, corner: Corner) -> Config:
        """The same configuration at another corner."""
        return self.model_copy(update={"corner": corner})

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Iterable[str] = (), profile: str | None = None) -> Config:
        """Take a profile, put the keys of a TOML file on top, then overrides in order.

        Args:
            path: the file; None for none.
            overrides: texts of the form `section.key=value`.
            profile: name of a profile, as `Config.profile` takes it; None for the defaults.

        Raises:
            ConfigError: there is no such file or profile, it is not TOML, a key is unknown, a value is out of range, or
                keys contradict each other.
        """
        data: dict[str, Any] = {} if profile is None else _profile(profile)
        source = "configuration" if profile is None else f"profile {profile}"
        if path is not None:
            given = _read_toml(Path(path))
            _check_keys(given, str(path))
            for section, values in given.items():
                data.setdefault(section, {}).update(values)
            source = str(path) if profile is None else f"{path} on profile {profile}"
        for override in overrides:
            _apply(data, override)
        return cls.from_dict(data, source)

    @classmethod
    def profile(cls, name: str) -> Config:
        """A named profile: "nominal", "optimistic", "realistic" or "harsh" (docs/profiles.md).

        Raises:
            ConfigError: there is no such profile.
        """
        return cls.from_dict(_profile(name), f"profile {name}")

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str = "configuration") -> Config:
        """Make a configuration from nested dictionaries, and check it."""
        _check_keys(data, source)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _config_error(error, source) from error

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """The same configuration with other values of some keys, named as section.key. The result is checked."""
        data = self.model_dump()
        for key, value in values.items():
            section, _, name = key.partition(".")
            data[section][name] = value
        return Config.from_dict(data)

    def value(self, key: str) -> Any:
        """The value of a key, named as section.key."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)

    @property
    def machine(self) -> dict[str, Any]:
        """The keys that decide how a machine computes, named as section.key, with their values."""
        return {key: self.value(key) for key in MACHINE_KEYS}

    def on_machine(self, machine: Config) -> Config:
        """The same circuit, computed on the machine that another configuration describes."""
        return self.with_values(machine.machine)

    def to_record(self) -> dict[str, Any]:
        """Everything but the keys of the machine, as nested dictionaries. This is what files store."""
        data = self.model_dump()
        for key in MACHINE_KEYS:
            section, _, name = key.partition(".")
            del data[section][name]
        return data

    @classmethod
    def from_record(cls, data: Any) -> Config:
        """Make a configuration from the result of `to_record`. The keys of the machine have their defaults.

        Raises:
            ConfigError: as `from_dict`; or there is a key of the machine, which is never taken from a file, since files
                may come from a stranger.
        """
        if not isinstance(data, dict):
            raise ConfigError(f"a configuration must be sections of keys, found {data!r:.80}")
        config = cls.from_dict(data)
        for key in MACHINE_KEYS:
            section, _, name = key.partition(".")
            if name in data.get(section, {}):
                raise ConfigError(f"{key} decides how a machine computes, and is not taken from a record: use --set")
        return config


def _profile(name: str) -> dict[str, Any]:
    """The keys of a shipped profile, by section."""
    known = sorted(path.stem for path in shipped("profiles").glob("*.toml"))
    if name not in known:
        raise ConfigError(f"unknown profile {name!r}: {nearest(name, known)}")
    return _read_toml(shipped("profiles", f"{name}.toml"))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"cannot read the configuration {path}: it is not a file; check the path")
        if path.stat().st_size > _LARGEST_BYTES:
            raise ConfigError(
                f"{path} is larger than {_LARGEST_BYTES >> 10} KiB, which no configuration is: check the path"
            )
        return _parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML without long lines, since a key of many parts takes a time that grows with the square of its length.

    Raises:
        ValueError: the text is not TOML, or a line is too long.
        RecursionError: values are nested too deeply.
    """
    if any(len(line) > _LONGEST_LINE for line in text.splitlines()):
        raise ValueError(f"expected lines of at most {_LONGEST_LINE} characters")
    return tomllib.loads(text)


def check_value(key: str, value: Any) -> Any:
    """Check the value of one key by itself, and return it.

    Args:
        key: the key, as section.key.
        value: a value, or text as `--set` takes it.

    Raises:
        ConfigError: there is no such key, or the value is of a wrong type or out of range.
    """
    section, dot, name = key.partition(".")
    if not dot or not name:
        raise ConfigError(f"expected section.key, found {key!r}: try array.open_wordlines")
    values = {name: _parse(section, name, value) if isinstance(value, str) else value}
    _check_keys({section: values}, "configuration")
    try:
        return getattr(_section(section).model_validate(values), name)
    except ValidationError as error:
        raise _config_error(error, "configuration", section) from error


def _of_machine() -> Iterator[str]:
    for section in Config.model_fields:
        for name, key in _section(section).model_fields.items():
            if OF_MACHINE in key.metadata:
                yield f"{section}.{name}"


def _config_error(error: ValidationError, source: str, *within: str) -> ConfigError:
    """Turn the first error that pydantic found into an error that names the key."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in (*within, *first["loc"])[:2])
    return ConfigError(f"{source}: {key}: {first['msg'].removeprefix('Value error, ')}, found {first['input']!r}")


def _section(name: str) -> type[Section]:
    kind = Config.model_fields[name].annotation
    assert isinstance(kind, type)
    assert issubclass(kind, Section)
    return kind


def _parse(section: str, name: str, text: str) -> Any:
    """Parse a key's value in TOML. A bare word is a string, and so is any value of a text key, such as layer 3.10.

    The word none stands for None if the key may be None.
    """
    if text.strip() == "none" and _may_be_left_out(section, name):
        return None
    try:
        parsed = _parse_toml(f"value = {text}")
        value = parsed["value"] if len(parsed) == 1 else text
    except (ValueError, RecursionError):
        return text.strip()
    return value if isinstance(value, str) or not _takes_text(section, name) else text.strip()


def _may_be_left_out(section: str, name: str) -> bool:
    """Whether a key's value may be None."""
    fields = _section(section).model_fields if section in Config.model_fields else {}
    return name in fields and type(None) in get_args(fields[name].annotation)


def _takes_text(section: str, name: str) -> bool:
    """Whether a key takes any text."""
    fields = _section(section).model_fields if section in Config.model_fields else {}
    return name in fields and fields[name].annotation in (str, Text | None)


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not equals or not dot or not name:
        raise ConfigError(f"expected section.key=value after --set, found {override!r}: try array.open_wordlines=9")
    if not isinstance(data.setdefault(section, {}), dict):
        raise ConfigError(f"{section} is a section, but the configuration gives it the value {data[section]!r}")
    data[section][name] = _parse(section, name, text)


def _check_keys(data: dict[str, Any], source: str) -> None:
    sections = Config.model_fields
    for section, content in data.items():
        if section not in sections:
            raise ConfigError(f"{source}: unknown section {section!r}: {nearest(section, sections)}")
        if not isinstance(content, dict):
            raise ConfigError(f"{source}: {section} must be a section of keys, found {content!r}")
        known = _section(section).model_fields
        for key in content:
            if key not in known:
                raise ConfigError(f"{source}: unknown key {section}.{key}: {nearest(key, known)}")


MACHINE_KEYS = tuple(_of_machine())
