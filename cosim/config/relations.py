"""Checks the keys of a configuration against each other, since values that are in range may contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosim.errors import ConfigError

if TYPE_CHECKING:
    from cosim.config.configuration import Config
    from cosim.config.sections import Array, Cell, Read, Sense, Variation

# 40 times the capacitance of a wire as long as a cell.
_MOST_FARAD = 2e-14
# The voltages at which both the keeper's drain and the amplifier's pair work.
_CLAMPED_V = (0.05, 0.3)
# The largest number of cells in a deck that holds a whole tile.
_MOST_CELLS = 1 << 17


def check_relations(config: Config) -> None:
    """Refuse a configuration that no array can have.

    Raises:
        ConfigError: keys contradict each other, or the array that they describe cannot work.
    """
    array, read, adc = config.array, config.read, config.adc
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
            "since cells work in their linear region: lower the first or raise the second"
        )
    _check_wires(array, config.cell, read)
    _check_sense(config.sense, config.cell, read)
    if read.rise_s >= read.pulse_s / 2:
        raise ConfigError(
            f"read.rise_s = {read.rise_s:g} must be below half of read.pulse_s = {read.pulse_s:g}, "
            "so that reads settle: shorten the rise or lengthen the pulse"
        )
    if isinstance(adc.bits, int) and not 1 <= adc.bits <= 16:
        raise ConfigError(f'adc.bits must be 1 to 16 or "lossless", found {adc.bits}')
    if adc.range != "cover" and (adc.full_scale_units is not None or adc.bits == "lossless"):
        given = "adc.full_scale_units" if adc.full_scale_units is not None else 'adc.bits = "lossless"'
        raise ConfigError(
            f'adc.range = "{adc.range}" calibrates a range that {given} fixes already: set only one of them'
        )
    if adc.capacitor_sigma > 0 and adc.bits == "lossless":
        raise ConfigError(
            'adc.capacitor_sigma needs a converter with capacitors, found adc.bits = "lossless": set adc.bits to 1..16'
        )
    if read.mode == "amplitude":
        _check_amplitude(array, config.sense)
    _check_trim(config)
    if config.run.noise == "sums" and (read.mode != "bit-serial" or config.variation.telegraph_traps > 0):
        raise ConfigError(
            'run.noise = "sums" needs bit-serial reads whose noise is independent, found read.mode = '
            f'"{read.mode}" and variation.telegraph_traps = {config.variation.telegraph_traps:g}: set run.noise to '
            '"reads"'
        )
    variation = config.variation
    if variation.sense_mismatch:
        _check_sense_mismatch(config)
    if config.programming.method == "pulses":
        _check_pulses(variation)
    if config.run.fidelity == "ideal" and (config.threshold_error or variation.telegraph_traps > 0):
        raise ConfigError(
            "programming.method, variation.program_sigma_v, program_sigma_rel, gain_factor_sigma, coupling_sigma, "
            "tempco_sigma_v_per_k, retention_s and telegraph_traps move the thresholds of cells, but run.fidelity = "
            '"ideal" has no thresholds: choose "solved", "dc" or "tran", or leave these keys at their defaults'
        )
    defects = config.defects
    if config.run.fidelity == "ideal" and defects.stuck:
        raise ConfigError(
            'defects.off_share and on_share change the thresholds of cells, but run.fidelity = "ideal" has no '
            'thresholds: choose "solved", "dc" or "tran", or set them to 0'
        )
    if defects.off_share + defects.on_share > 1:
        raise ConfigError(
            f"defects.off_share = {defects.off_share:g} and defects.on_share = {defects.on_share:g} are shares of the "
            "same cells, expected a sum of at most 1: lower one of them"
        )
    if variation.telegraph_fastest_s > variation.telegraph_slowest_s:
        raise ConfigError(
            f"variation.telegraph_fastest_s = {variation.telegraph_fastest_s:g} must be at most telegraph_slowest_s = "
            f"{variation.telegraph_slowest_s:g}: exchange them"
        )


def _check_trim(config: Config) -> None:
    trim, retention_s = config.trim, config.variation.retention_s
    if trim.method == "reference" and config.array.encoding == "differential":
        raise ConfigError(
            'trim.method = "reference" needs a reference column, but array.encoding = "differential" has none: '
            'set trim.method to "calibration" or "none"'
        )
    if trim.age_s is not None and trim.age_s > retention_s:
        raise ConfigError(
            f"trim.age_s = {trim.age_s:g} s lies after the time at which images are read, expected at most "
            f"variation.retention_s = {retention_s:g}: lower it, or leave it out to calibrate just before images are "
            "read"
        )
    if trim.interval_s is not None and trim.age_s is None:
        raise ConfigError(
            f"trim.interval_s = {trim.interval_s:g} s counts from the first calibration, found no trim.age_s: set "
            "trim.age_s, or leave both out to calibrate just before images are read"
        )
    if trim.method == "reference":
        for key in ("patterns", "through", "registers"):
            found, default = getattr(trim, key), type(trim).model_fields[key].default
            if found != default:
                raise ConfigError(
                    f'trim.{key} = "{found}" needs trim.method = "calibration", found "reference": change '
                    f"trim.method, or leave trim.{key} out"
                )
    lines = "wordlines" if config.read.mode == "amplitude" else "bitlines"
    if config.adc.reference == "replica" and 2 * config.adc.replica_columns > getattr(config.array, lines):
        raise ConfigError(
            f"adc.replica_columns = {config.adc.replica_columns} pairs do not fit array.{lines} = "
            f"{getattr(config.array, lines)}: lower the first or raise the second"
        )
    if config.adc.bits == "lossless" and trim.registers in ("digital", "both"):
        raise ConfigError(
            f'trim.registers = "{trim.registers}" corrects codes, which adc.bits = "lossless" does not limit: set '
            'adc.bits to 1..16, or trim.registers to "exact" or "analog"'
        )


def _check_wires(array: Array, cell: Cell, read: Read) -> None:
    """Refuse unrealistic wires, which are most likely a mistake of units and would make a run slow and wrong."""
    for key in ("bitline_res_ohm", "wordline_res_ohm", "source_res_ohm"):
        if 0 < getattr(array, key) < 1e-6:
            raise ConfigError(
                f"array.{key} = {getattr(array, key):g} must be 0 or at least 1e-6: "
                "rounding hides a smaller resistance; set 0 for none"
            )
    for key in ("bitline_cap_f", "coupling_cap_f", "wordline_cap_f", "source_cap_f"):
        if getattr(array, key) > _MOST_FARAD:
            raise ConfigError(
                f"array.{key} = {getattr(array, key):g} F per cell, expected at most {_MOST_FARAD:g}: usual wires have "
                "0.05e-15 to 0.5e-15 F per cell; check the unit"
            )
    strap = array.source_strap_cells
    # The worst cell is at the far end of a bitline, half-way between two straps or farthest from the only strap.
    source_cells = strap / 4 if strap <= array.bitlines else array.bitlines
    for key, cells, usual in (
        ("bitline_res_ohm", array.wordlines, "0.3 to 5"),
        ("source_res_ohm", source_cells, "1 to 50"),
    ):
        drop = getattr(array, key) * cells * cell.full_scale_a
        if drop > read.bitline_v:
            raise ConfigError(
                f"array.{key} = {getattr(array, key):g} ohm per cell: the current of one full-scale cell would drop "
                f"{drop:.3g} V on its line, expected less than read.bitline_v = {read.bitline_v:g} V: usual values are "
                f"{usual} ohm per cell; check the unit, or make the line shorter"
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
            f'array.closed_wordlines = "cells" puts all {array.wordlines} x {array.bitlines} cells of a tile into one '
            f'deck, expected at most {_MOST_CELLS} cells: make tiles smaller, or choose "lumped"'
        )


def _check_sense(sense: Sense, cell: Cell, read: Read) -> None:
    drop = sense.clamp_ohm * cell.full_scale_a
    if sense.stage == "resistive" and drop > read.bitline_v:
        raise ConfigError(
            f"sense.clamp_ohm = {sense.clamp_ohm:g}: the current of one full-scale cell would drop {drop:.3g} V on it, "
            f"expected less than read.bitline_v = {read.bitline_v:g} V: usual values are 10 to 1000 ohm; check the unit"
        )
    if sense.stage == "transistor" and not _CLAMPED_V[0] <= read.bitline_v <= _CLAMPED_V[1]:
        raise ConfigError(
            f'sense.stage = "transistor" can hold bitlines at {_CLAMPED_V[0]:g} to {_CLAMPED_V[1]:g} V, found '
            f"read.bitline_v = {read.bitline_v:g}: change the voltage, or choose another stage"
        )


def _check_sense_mismatch(config: Config) -> None:
    stage, fidelity = config.sense.stage, config.run.fidelity
    if stage != "transistor" or fidelity == "ideal":
        found = f'sense.stage = "{stage}"' if stage != "transistor" else f'run.fidelity = "{fidelity}"'
        raise ConfigError(
            "variation.sense_avt_v_m and sense_abeta_m are mismatch of the sense stage's transistors, but "
            f'{found} has none: set sense.stage to "transistor" and run.fidelity to another value than "ideal", or use '
            "variation.sense_gain_sigma and sense_offset_sigma_a"
        )


def _check_pulses(variation: Variation) -> None:
    for key in ("program_sigma_v", "program_sigma_rel", "verify_band_v"):
        if getattr(variation, key):
            raise ConfigError(
                f'programming.method = "pulses" computes the error of programmed cells, found variation.{key} = '
                f"{getattr(variation, key):g}, which prescribes it: leave out variation.{key}, or set "
                'programming.method to "normal"'
            )


def _check_amplitude(array: Array, sense: Sense) -> None:
    if array.source_line_wordlines != 1:
        raise ConfigError(
            'read.mode = "amplitude" senses the source line of every wordline, expected one for each wordline, found '
            f"array.source_line_wordlines = {array.source_line_wordlines}: set it to 1"
        )
    if sense.stage == "transistor":
        raise ConfigError(
            'sense.stage = "transistor" cannot hold a line at 0 V, as read.mode = "amplitude" needs: choose "clamp" or '
            '"resistive"'
        )
