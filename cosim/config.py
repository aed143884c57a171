"""The configuration: frozen sections read from TOML, overridden a key at a time, stored with every result."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cosim.errors import ConfigError, nearest

Fidelity = Literal["ideal", "dc", "tran"]
Process = Literal["tt", "ff", "ss", "fs", "sf"]

# 40 times what a wire of a cell's length has.
_MOST_FARAD = 2e-14
# Between the keeper's drain and the amplifier's pair.
_CLAMPED_V = (0.05, 0.3)
# Of a deck that holds a whole tile.
_MOST_CELLS = 1 << 17


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Array(_Section):
    """One tile: its size, how many wordlines a read opens, and its wires."""

    wordlines: int = Field(256, ge=1, le=65536)
    """Rows of a tile."""
    bitlines: int = Field(64, ge=2, le=4096)
    """Columns of a tile; with encoding "offset" the last one used is the reference column."""
    encoding: Literal["offset", "differential"] = "offset"
    """Signed weights: offset, a cell holds weight + zero point and a reference column is subtracted; differential, a
    pair of bitlines holds positive and negative weights (docs/reading.md)."""
    open_wordlines: int = Field(9, ge=1, le=48)
    """Inputs of one read, at most: wordlines opened together, or bitlines with amplitude reads."""
    bitline_res_ohm: float = Field(0.4, ge=0, le=1e6)
    """Wire resistance of a bitline a cell [ohm]."""
    bitline_cap_f: float = Field(0.2e-15, ge=0, le=1e-9)
    """Wire capacitance of a bitline to ground a cell [F]."""
    coupling_cap_f: float = Field(0.0, ge=0, le=1e-9)
    """Capacitance between neighbouring bitlines a cell [F]."""
    wordline_res_ohm: float = Field(0.0, ge=0, le=1e6)
    """Wire resistance of a wordline a cell [ohm]; it is driven from bitline 0."""
    wordline_cap_f: float = Field(0.0, ge=0, le=1e-9)
    """Wire capacitance of a wordline to ground a cell, without the gates [F]."""
    source_res_ohm: float = Field(0.0, ge=0, le=1e6)
    """Wire resistance of a source line a cell [ohm]; it runs along the wordlines that share it."""
    source_cap_f: float = Field(0.0, ge=0, le=1e-9)
    """Wire capacitance of a source line to ground a cell [F]."""
    source_line_wordlines: int = Field(2, ge=1, le=65536)
    """Neighbouring wordlines that share a source line."""
    source_strap_cells: int = Field(16, ge=1, le=65536)
    """A strap grounds the source lines before the first bitline and after every so many; with amplitude reads it
    connects each to its sense stage."""
    closed_wordlines: Literal["lumped", "cells", "omitted"] = "lumped"
    """Cells of closed wordlines: their leakage and capacitance as a few elements a bitline, cell by cell (slow), or
    left out. With amplitude reads those of closed bitlines, whose gates are open, likewise on the source lines."""


class Cell(_Section):
    """One flash cell and what its levels mean."""

    card: str = "nor65"
    """A shipped card's name, or the path of a file of .model and .subckt statements (docs/howto/own-cell.md)."""
    subcircuit: str | None = None
    """The card's subcircuit that is the cell; left out, the only one or the one named like the card."""
    shift_parameter: str | None = None
    """The subcircuit's parameter that is the threshold shift; left out, the only one besides w and l."""
    width_m: float = Field(0.1e-6, ge=1e-9, le=1e-3)
    """Drawn channel width [m]; of a subcircuit its parameter w, if it has one."""
    length_m: float = Field(0.11e-6, ge=1e-9, le=1e-3)
    """Drawn channel length [m]; of a subcircuit its parameter l, if it has one."""
    bits: int = Field(4, ge=1, le=6)
    """A cell holds levels 0..2^bits - 1."""
    full_scale_a: float = Field(9.2e-6, ge=1e-12, le=1e-2)
    """Current of the highest level, nominal read condition [A]."""
    offset_units: int = Field(8, ge=0, le=64)
    """Unit currents that level 0 conducts. Clear of the threshold, all levels follow temperature and supply alike, and
    the reference column takes out what is common; it costs current and range of the converter."""

    @property
    def levels(self) -> int:
        return 2**self.bits

    @property
    def most_units(self) -> int:
        """Unit currents that the highest level conducts."""
        return self.levels - 1 + self.offset_units

    @property
    def unit_a(self) -> float:
        """Current between neighbouring levels [A]."""
        return self.full_scale_a / self.most_units


class Read(_Section):
    """How activations are applied to the lines of a tile, and a pattern is read (docs/reading.md)."""

    mode: Literal["bit-serial", "pulse-width", "amplitude"] = "bit-serial"
    """bit-serial: a bit plane a read, each converted; pulse-width: an activation a opens its wordline for a pulses, and
    the charge of 2^bits - 1 pulses is converted once; amplitude: an activation a puts a / (2^bits - 1) of `bitline_v`
    on a bitline, and the current of each wordline's source line, held at 0 V, is converted once."""
    wordline_v: float = Field(4.0, ge=1e-3, le=20)
    """Control-gate voltage of an open wordline whose input bit is 1, or of all with amplitude reads [V]."""
    bitline_v: float = Field(0.1, ge=1e-4, le=5)
    """Voltage at which the sense clamp holds a bitline, or of the highest amplitude [V]."""
    pulse_s: float = Field(20e-9, ge=1e-12, le=1e-3)
    """Time a pattern is held: a bit plane's, or a unit pulse; the current is sampled at its end [s]."""
    rise_s: float = Field(1e-9, ge=1e-13, le=1e-3)
    """Rise and fall time of a wordline, or of a bitline with amplitude reads [s]."""


class Sense(_Section):
    """What holds a bitline at its read voltage and measures its current (docs/reading.md). Cells are programmed against
    an ideal source, whatever the stage."""

    stage: Literal["clamp", "resistive", "transistor"] = "clamp"
    """An ideal source; the same behind `clamp_ohm`; or a regulated cascode and a current mirror of the transistors of
    card periph65, at the corner's process."""
    clamp_ohm: float = Field(100.0, ge=1e-6, le=1e6)
    """Resistance of the stage "resistive" [ohm]."""


class Corner(_Section):
    """Where the arrays are read. Levels are programmed at tt, 27 C and nominal supply, whatever the corner."""

    process: Process = "tt"
    """The card's section: the cell and its periphery typical (tt), both fast (ff) or slow (ss), or typical with skewed
    periphery (fs, sf: n-channel first)."""
    temperature_c: float = Field(27.0, ge=-40, le=125)
    """Temperature of the circuit [C]."""
    supply: float = Field(1.0, ge=0.8, le=1.2)
    """What the read voltages of wordlines and bitlines are multiplied by."""


class Adc(_Section):
    """The converter behind every bitline, and what is wrong with it (docs/variation.md)."""

    bits: int | Literal["lossless"] = Field(8)
    """1 to 16, or "lossless": one code a unit current, unbounded."""
    range: Literal["cover", "calibrated-layer", "calibrated-column"] = "cover"
    """What the codes cover: the largest possible column sum, or the largest sum that sample images cause in a layer or
    in each column of its tiles. A code is a whole number of unit currents, at least one: for "cover" the number that
    comes closest, else the smallest that reaches the sum."""
    full_scale_units: float | None = Field(None, ge=1e-3, le=1e9)
    """Current of the highest code in unit currents, instead of a range that is worked out; with read.mode "pulse-width"
    its charge is that current for all pulses."""
    calibration_images: int = Field(64, ge=1, le=65536)
    """Sample images of a calibrated range: the first that the circuit is given."""
    offset_lsb: float = Field(0.0, ge=0, le=100)
    """Sigma of a converter's offset [LSB]."""
    gain_error: float = Field(0.0, ge=0, le=0.2)
    """Sigma of a converter's gain, relative."""
    capacitor_sigma: float = Field(0.0, ge=0, le=0.2)
    """Relative sigma of a unit capacitor of the successive-approximation converter; makes INL and DNL."""
    noise_lsb: float = Field(0.0, ge=0, le=100)
    """Sigma of the noise at a converter's input, drawn for every read [LSB]."""


class Trim(_Section):
    """How gain and offset of the converters are set on the finished chip."""

    method: Literal["none", "reference", "calibration"] = "calibration"
    """none; reference: a tile's LSB follows the current of its reference column with every wordline of a group open;
    calibration: gain and offset from known reads like those of images, by least squares."""
    per: Literal["layer", "bitline"] = "bitline"
    """What has a gain and an offset of its own in a calibration."""
    reads: int = Field(32, ge=4, le=4096)
    """Calibration reads of a group, at most."""


class Variation(_Section):
    """What makes one chip differ from another, and a cell from what was programmed (docs/variation.md)."""

    chip: int = Field(0, ge=0, lt=2**32)
    """Number of the virtual chip: with run.seed, decides everything that is drawn."""
    program_sigma_v: float = Field(0.0, ge=0, le=5)
    """Sigma of a cell's threshold about its level's as programmed [V]."""
    program_sigma_rel: float = Field(0.0, ge=0, le=1)
    """Sigma of a cell's current as programmed, relative to the current."""
    program_saturation_a: float | None = Field(None, ge=1e-12, le=1)
    """Current at which the sigma of `program_sigma_rel` stops growing with the current [A]; left out, never."""
    verify_band_v: float | None = Field(None, ge=1e-6, le=5)
    """Programming is repeated until the threshold lies within plus or minus this of its level's [V]; left out, it is
    not repeated and the sigmas are those of the finished cell."""
    retention_s: float = Field(0.0, ge=0, le=1e10)
    """Time since programming [s]."""
    retention_temperature_c: float = Field(25.0, ge=-55, le=250)
    """Temperature of that time [degree C]."""
    retention_loss_decade: float = Field(0.005, ge=0, le=0.5)
    """Share of a cell's charge lost for each tenfold time at 25 degrees C."""
    retention_onset_s: float = Field(1800.0, ge=1e-3, le=1e9)
    """Time at 25 degrees C before which next to nothing is lost [s]."""
    retention_activation_ev: float = Field(1.1, ge=0, le=3)
    """Activation energy by which temperature shortens time [eV]."""
    retention_spread: float = Field(0.0, ge=0, le=1)
    """Sigma of a cell's loss of charge, relative to the mean loss."""
    neutral_shift_v: float = Field(0.0, ge=-20, le=20)
    """Threshold shift of a cell without charge [V]."""
    read_sigma_rel: float = Field(0.0, ge=0, le=1)
    """Sigma of a cell's current from read to read, relative to the current."""
    read_saturation_a: float | None = Field(None, ge=1e-12, le=1)
    """Current at which the sigma of `read_sigma_rel` stops growing with the current [A]; left out, never."""
    telegraph_share: float = Field(0.0, ge=0, le=1)
    """Share of the cells with an active trap (random telegraph noise)."""
    telegraph_rel: float = Field(0.01, ge=0, le=1)
    """Difference between a trap's two states, relative to the cell's current."""
    sense_gain_sigma: float = Field(0.0, ge=0, le=0.2)
    """Sigma of a sense stage's gain, relative."""
    sense_offset_sigma_a: float = Field(0.0, ge=0, le=1e-3)
    """Sigma of a sense stage's offset current [A]."""

    @property
    def program_error(self) -> bool:
        """Whether cells differ from their levels as programmed."""
        return self.program_sigma_v > 0 or self.program_sigma_rel > 0

    @property
    def threshold_error(self) -> bool:
        """Whether cells hold other thresholds than their levels'."""
        return self.program_error or self.retention_s > 0


class Run(_Section):
    """How a run is carried out. `fidelity` decides what is simulated; the rest moves currents by less than the
    simulator's tolerances, if at all."""

    fidelity: Fidelity = "tran"
    """ideal integers, ngspice .dc (settled), or ngspice .tran (the reference)."""
    layers: str = "conv"
    """Layers on arrays: "conv", "all", or names separated by commas."""
    workers: int | None = Field(None, ge=1, le=256)
    """ngspice processes at a time; left out, one a core."""
    tensor_threads: int = Field(1, ge=1, le=256)
    """Threads of the command line's tensor work; on two cores one is fastest, by far so beside other work."""
    patterns_per_deck: int = Field(256, ge=1, le=4096)
    """Reads in one deck."""
    timeout_s: float = Field(120.0, gt=0, le=1e6)
    """Longest time one ngspice run may take [s]."""
    ngspice: str = "ngspice"
    """The ngspice program: a name on the PATH, or a path."""
    audit_reads: int = Field(64, ge=1, le=1024)
    """Reads of one audit deck, simulated in the order the images cause them."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seeds everything random: chips, noise, and which reads are audited."""


class Config(_Section):
    """Everything that can be set, by section."""

    array: Array = Array()
    cell: Cell = Cell()
    read: Read = Read()
    sense: Sense = Sense()
    corner: Corner = Corner()
    adc: Adc = Adc()
    trim: Trim = Trim()
    variation: Variation = Variation()
    run: Run = Run()

    def code_units(self, pulses: int = 1) -> tuple[float, int | None]:
        """Width of a code in unit currents, and the highest code, None for no limit.

        Where a conversion adds the charge of several pulses, a unit is that of a unit current in one of them.

        Left to itself a code is a whole number of units, so that ideal sums of levels fall on codes alike in every
        column: the number, at least one, that comes closest to covering the largest possible column sum. Of nine
        wordlines of 15 units (135) 8 bits hold all at one unit a code, 7 bits the sums up to 127, 4 bits all at
        nine units a code.
        """
        if self.adc.bits == "lossless":
            return 1.0, None
        highest = 2**self.adc.bits - 1
        if self.adc.full_scale_units is not None:
            return pulses * self.adc.full_scale_units / highest, highest
        largest = pulses * self.array.open_wordlines * self.cell.most_units
        return float(max(1, round(largest / highest))), highest

    @property
    def read_at_corner(self) -> Read:
        """How a pattern is read with the corner's supply."""
        read, supply = self.read, self.corner.supply
        volts = {"wordline_v": supply * read.wordline_v, "bitline_v": supply * read.bitline_v}
        return read.model_copy(update=volts)

    def at_corner(self, corner: Corner) -> Config:
        """The same configuration at another corner."""
        return self.model_copy(update={"corner": corner})

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
        """Read a TOML file (None: defaults), then apply `section.key=value` overrides in order.

        Raises:
            ConfigError: no such file, not TOML, an unknown key, a value out of range.
        """
        data: dict[str, Any] = {}
        source = "configuration"
        if path is not None:
            source = str(path)
            try:
                if Path(path).exists() and not Path(path).is_file():
                    raise ConfigError(f"cannot read the configuration {path}: it is no file; check the path")
                data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
            except OSError as error:
                raise ConfigError(f"cannot read the configuration {path}: {error.strerror}; check the path") from error
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{path} is not TOML: {error}") from error
        for override in overrides:
            _apply(data, override)
        return cls.from_dict(data, source)

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str = "configuration") -> Config:
        """A configuration from nested dictionaries, checked."""
        config = cls._checked(data, source)
        config._check_relations()
        return config

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """The same configuration with other values of some keys, named as section.key, checked."""
        data = self.model_dump()
        for key, value in values.items():
            section, _, name = key.partition(".")
            data[section][name] = value
        return Config.from_dict(data)

    def value(self, key: str) -> Any:
        """The value of a key, named as section.key."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)

    @classmethod
    def _checked(cls, data: dict[str, Any], source: str) -> Config:
        """A configuration whose keys are known and whose values are in range, each by itself."""
        _check_keys(data, source)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"][:2])
            raise ConfigError(f"{source}: {key}: {first['msg']}, found {first['input']!r}") from error

    def _check_relations(self) -> None:
        array, read, adc = self.array, self.read, self.adc
        inputs = "bitlines" if read.mode == "amplitude" else "wordlines"
        room = getattr(array, inputs)
        if array.open_wordlines > room:
            raise ConfigError(
                f"a group of array.open_wordlines = {array.open_wordlines} does not fit array.{inputs} = {room}: open "
                f"at most {room}, or enlarge the array"
            )
        if read.bitline_v >= read.wordline_v:
            raise ConfigError(
                f"read.bitline_v = {read.bitline_v:g} must be below read.wordline_v = {read.wordline_v:g}, "
                "or no cell is in its linear region: lower the one or raise the other"
            )
        _check_wires(array, self.cell, read)
        _check_sense(self.sense, self.cell, read)
        if read.rise_s >= read.pulse_s / 2:
            raise ConfigError(
                f"read.rise_s = {read.rise_s:g} must be below half of read.pulse_s = {read.pulse_s:g}, "
                "or no read settles: shorten the rise or lengthen the pulse"
            )
        if isinstance(adc.bits, int) and not 1 <= adc.bits <= 16:
            raise ConfigError(f'adc.bits must be 1 to 16 or "lossless", found {adc.bits}')
        if adc.range != "cover" and (adc.full_scale_units is not None or adc.bits == "lossless"):
            given = "adc.full_scale_units" if adc.full_scale_units is not None else 'adc.bits = "lossless"'
            raise ConfigError(
                f'adc.range = "{adc.range}" works out a range that {given} has fixed already: give one of the two'
            )
        if adc.capacitor_sigma > 0 and adc.bits == "lossless":
            raise ConfigError(
                'adc.capacitor_sigma needs a converter with capacitors, found adc.bits = "lossless": set adc.bits to '
                "1..16"
            )
        if read.mode != "bit-serial" and (self.variation.read_sigma_rel > 0 or self.variation.telegraph_share > 0):
            raise ConfigError(
                "variation.read_sigma_rel and telegraph_share are the noise of bit-serial reads, found read.mode = "
                f'"{read.mode}": set them to 0 (adc.noise_lsb is possible), or read bit-serially'
            )
        if read.mode == "amplitude":
            _check_amplitude(array, self.sense)
        if self.trim.method == "reference" and array.encoding == "differential":
            raise ConfigError(
                'trim.method = "reference" needs a reference column, which array.encoding = "differential" has not: '
                'set trim.method to "calibration" or "none"'
            )
        if self.run.fidelity == "ideal" and self.variation.threshold_error:
            raise ConfigError(
                "variation.program_sigma_v, program_sigma_rel and retention_s move the thresholds of cells, which "
                'run.fidelity = "ideal" has none of: choose "dc" or "tran", or set them to 0'
            )


def _check_wires(array: Array, cell: Cell, read: Read) -> None:
    """Refuse wires that no array has, most likely a slip of units: such a run would only be slow and wrong."""
    for key in ("bitline_res_ohm", "wordline_res_ohm", "source_res_ohm"):
        if 0 < getattr(array, key) < 1e-6:
            raise ConfigError(
                f"array.{key} = {getattr(array, key):g} must be 0 or at least 1e-6: "
                "a smaller resistance drowns in rounding; set 0 for none"
            )
    for key in ("bitline_cap_f", "coupling_cap_f", "wordline_cap_f", "source_cap_f"):
        if getattr(array, key) > _MOST_FARAD:
            raise ConfigError(
                f"array.{key} = {getattr(array, key):g} F a cell, expected at most {_MOST_FARAD:g}: usual wires have "
                "0.05e-15 to 0.5e-15 F a cell; check the unit"
            )
    strap = array.source_strap_cells
    # The worst place is the far end of a bitline, and half-way between two straps or the far end from a single one.
    source_cells = strap / 4 if strap <= array.bitlines else array.bitlines
    for key, cells, usual in (
        ("bitline_res_ohm", array.wordlines, "0.3 to 5"),
        ("source_res_ohm", source_cells, "1 to 50"),
    ):
        drop = getattr(array, key) * cells * cell.full_scale_a
        if drop > read.bitline_v:
            raise ConfigError(
                f"array.{key} = {getattr(array, key):g} ohm a cell: a single full-scale cell would drop {drop:.3g} V "
                f"on its line, expected less than read.bitline_v = {read.bitline_v:g} V: usual are {usual} ohm a cell; "
                "check the unit, or make the line shorter"
            )
    delay = array.wordline_res_ohm * array.wordline_cap_f * array.bitlines**2 / 2
    if delay > read.pulse_s:
        raise ConfigError(
            f"array.wordline_res_ohm = {array.wordline_res_ohm:g} and array.wordline_cap_f = {array.wordline_cap_f:g} "
            f"delay the last of {array.bitlines} bitlines by {delay:.3g} s, expected less than read.pulse_s = "
            f"{read.pulse_s:g} s: check the units, make tiles narrower, or lengthen the pulse"
        )
    if array.closed_wordlines == "cells" and array.wordlines * array.bitlines > _MOST_CELLS:
        raise ConfigError(
            f'array.closed_wordlines = "cells" puts all {array.wordlines} x {array.bitlines} cells of a tile into a '
            f'deck, expected at most {_MOST_CELLS} cells: make tiles smaller, or choose "lumped"'
        )


def check_value(key: str, value: Any) -> Any:
    """One key's value, checked by itself: text as `--set` takes it, or a value.

    Args:
        key: as section.key.

    Raises:
        ConfigError: there is no such key, or the value is of a wrong type or out of range.
    """
    section, dot, name = key.partition(".")
    if not dot or not name:
        raise ConfigError(f"expected section.key, found {key!r}: try array.open_wordlines")
    data = {section: {name: _parse(value) if isinstance(value, str) else value}}
    return getattr(getattr(Config._checked(data, "configuration"), section), name)


def _parse(text: str) -> Any:
    """A value written in TOML; a bare word is a string."""
    try:
        parsed = tomllib.loads(f"value = {text}")
        return parsed["value"] if len(parsed) == 1 else text
    except (ValueError, RecursionError):
        return text.strip()


def _check_sense(sense: Sense, cell: Cell, read: Read) -> None:
    drop = sense.clamp_ohm * cell.full_scale_a
    if sense.stage == "resistive" and drop > read.bitline_v:
        raise ConfigError(
            f"sense.clamp_ohm = {sense.clamp_ohm:g}: a single full-scale cell would drop {drop:.3g} V on it, expected "
            f"less than read.bitline_v = {read.bitline_v:g} V: usual are 10 to 1000 ohm; check the unit"
        )
    if sense.stage == "transistor" and not _CLAMPED_V[0] <= read.bitline_v <= _CLAMPED_V[1]:
        raise ConfigError(
            f'sense.stage = "transistor" holds bitlines at {_CLAMPED_V[0]:g} to {_CLAMPED_V[1]:g} V, where its '
            f"transistors have room, found read.bitline_v = {read.bitline_v:g}: change it, or choose another stage"
        )


def _check_amplitude(array: Array, sense: Sense) -> None:
    if array.source_line_wordlines != 1:
        raise ConfigError(
            'read.mode = "amplitude" senses the source line of every wordline, expected one each, found '
            f"array.source_line_wordlines = {array.source_line_wordlines}: set it to 1"
        )
    if sense.stage == "transistor":
        raise ConfigError(
            'sense.stage = "transistor" cannot hold a line at 0 V, as read.mode = "amplitude" needs: choose "clamp" or '
            '"resistive"'
        )


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not equals or not dot or not name:
        raise ConfigError(f"expected section.key=value after --set, found {override!r}: try array.open_wordlines=9")
    if not isinstance(data.setdefault(section, {}), dict):
        raise ConfigError(f"{section} is a section, but the configuration gives it the value {data[section]!r}")
    data[section][name] = _parse(text)


def _check_keys(data: dict[str, Any], source: str) -> None:
    sections = Config.model_fields
    for section, content in data.items():
        if section not in sections:
            raise ConfigError(f"{source}: unknown section {section!r}: {nearest(section, sections)}")
        if not isinstance(content, dict):
            raise ConfigError(f"{source}: {section} must be a section of keys, found {content!r}")
        kind = sections[section].annotation
        assert kind is not None
        for key in content:
            if key not in kind.model_fields:
                known = kind.model_fields
                raise ConfigError(f"{source}: unknown key {section}.{key}: {nearest(key, known)}")
