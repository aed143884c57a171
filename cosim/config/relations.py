"""Checks the keys of a configuration against each other, since keys in range can make an impossible whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosim.errors import ConfigError

if TYPE_CHECKING:
    from cosim.config.configuration import Config
    from cosim.config.sections import Array, Cell, Read, Sense, Variation

# 40 times the capacitance of a wire of a cell's length.
_MOST_FARAD = 2e-14
# The voltages at which both the keeper's drain and the amplifier's pair work.
_CLAMPED_V = (0.05, 0.3)
# The largest number of cells in a deck that holds a whole tile.
_MOST_CELLS = 1 << 17


def check_relations(config: Config) -> None:
    """Refuse a configuration that no array can have.

    Raises:
        ConfigError: keys contradict each other, or the array they describe cannot work.
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
            "or no cell is in its linear region: lower the one or raise the other"
        )
    _check_wires(array, config.cell, read)
    _check_sense(config.sense, config.cell, read)
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
            'adc.capacitor_sigma needs a converter with capacitors, found adc.bits = "lossless": set adc.bits to 1..16'
        )
    if read.mode == "amplitude":
        _check_amplitude(array, config.sense)
    _check_trim(config)
    if config.run.noise == "sums" and (read.mode != "bit-serial" or config.variation.telegraph_traps > 0):
        raise ConfigError(
            'run.noise = "sums" draws noise of bit-serial reads that are independent of each other, found read.mode = '
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
            "tempco_sigma_v_per_k, retention_s and telegraph_traps move the thresholds of cells, which run.fidelity = "
            '"ideal" has none of: choose "solved", "dc" or "tran", or leave them at their defaults'
        )
    defects = config.defects
    if config.run.fidelity == "ideal" and defects.stuck:
        raise ConfigError(
            'defects.off_share and on_share are of cells with thresholds, which run.fidelity = "ideal" has none of: '
            'choose "solved", "dc" or "tran", or set them to 0'
        )
    if defects.off_share + defects.on_share > 1:
        raise ConfigError(
            f"defects.off_share = {defects.off_share:g} and defects.on_share = {defects.on_share:g} are shares of the "
            "same cells, expected a sum of at most 1: lower one"
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
            'trim.method = "reference" needs a reference column, which array.encoding = "differential" has not: '
            'set trim.method to "calibration" or "none"'
        )
    if trim.age_s is not None and trim.age_s > retention_s:
        raise ConfigError(
            f"trim.age_s = {trim.age_s:g} s after programming is later than images are read, expected at most "
            f"variation.retention_s = {retention_s:g}: lower it, or leave it out to calibrate just before"
        )
    if trim.interval_s is not None and trim.age_s is None:
        raise ConfigError(
            f"trim.interval_s = {trim.interval_s:g} s counts from the first calibration, found no trim.age_s: set it, "
            "or leave both out to calibrate just before images are read"
        )
    if trim.method == "reference":
        for key in ("patterns", "through", "registers"):
            found, default = getattr(trim, key), type(trim).model_fields[key].default
            if found != default:
                raise ConfigError(
                    f'trim.{key} = "{found}" is of a calibration, found trim.method = "reference": set that to '
                    f'"calibration", or leave trim.{key} out'
                )
    lines = "wordlines" if config.read.mode == "amplitude" else "bitlines"
    if config.adc.reference == "replica" and 2 * config.adc.replica_columns > getattr(config.array, lines):
        raise ConfigError(
            f"adc.replica_columns = {config.adc.replica_columns} pairs do not fit array.{lines} = "
            f"{getattr(config.array, lines)}: lower the one or raise the other"
        )
    if config.adc.bits == "lossless" and trim.registers in ("digital", "both"):
        raise ConfigError(
            f'trim.registers = "{trim.registers}" corrects codes, which adc.bits = "lossless" does not limit: set '
            'adc.bits to 1..16, or trim.registers to "exact" or "analog"'
        )


def _check_wires(array: Array, cell: Cell, read: Read) -> None:
    """Refuse wires that no array has. They are most likely a mistake of units, and a run would be slow and wrong."""
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
    # The worst cell is at the far end of a bitline, and half-way between two straps or farthest from a single strap.
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


def _check_sense_mismatch(config: Config) -> None:
    stage, fidelity = config.sense.stage, config.run.fidelity
    if stage != "transistor" or fidelity == "ideal":
        found = f'sense.stage = "{stage}"' if stage != "transistor" else f'run.fidelity = "{fidelity}"'
        raise ConfigError(
            "variation.sense_avt_v_m and sense_abeta_m are mismatch of the sense stage's transistors, of which "
            f'{found} has none: set sense.stage to "transistor" and another fidelity than "ideal", or use '
            "variation.sense_gain_sigma and sense_offset_sigma_a"
        )


def _check_pulses(variation: Variation) -> None:
    for key in ("program_sigma_v", "program_sigma_rel", "verify_band_v"):
        if getattr(variation, key):
            raise ConfigError(
                f'programming.method = "pulses" finds the error of programmed cells, found variation.{key} = '
                f'{getattr(variation, key):g}, which states it: leave out the one, or set the method to "normal"'
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
