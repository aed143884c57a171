"""What a reader must know before trusting a run's numbers."""

from __future__ import annotations

from cosim.evaluate import Comparison
from cosim.report import wording

# Reads that are farther than this from the tables matter [LSB]. A read on the edge between two codes may give another
# code however near it is.
_SAME_LSB = 0.05
# A current that moves more than this at the end of its pulse has not settled [LSB].
_SETTLED_LSB = 0.1


def find_cautions(comparison: Comparison) -> list[str]:
    """Sentences, each of which also says what to do; none if there is nothing to be cautious about."""
    found, config = [], comparison.provenance.config
    distance = comparison.audit_max_error_lsb
    if distance is not None and distance > _SAME_LSB:
        mixed = config.read.mode == "amplitude" and config.read.mixed == "nested"
        reason = "reads of several amplitudes are not the sum of reads of one" if mixed else "reads are not memoryless"
        found.append(
            f"The audit found reads that are off by up to {distance:.2g} LSB against the pattern tables: {reason} "
            "here, and the accuracy is approximate."
        )
    if config.run.fidelity == "solved" and comparison.certificate is None:
        found.append(
            "This result is not certified: no read of the array solver was compared with the circuit simulator. Set "
            "run.certificate_reads, 1000 by default."
        )
    for layer in comparison.layers:
        if layer.unsettled_lsb > _SETTLED_LSB:
            found.append(
                f"Currents of layer {layer.name} still move by up to {layer.unsettled_lsb:.2g} LSB at the end of "
                "their pulse: lengthen read.pulse_s."
            )
        if layer.clipped_codes:
            found.append(
                f"Of the codes of layer {layer.name}, {wording.share(layer.clipped_codes, layer.conversions)} are "
                "clipped: the current lies beyond the converter's range. Raise adc.full_scale_units or adc.bits, or "
                "lower adc.offset_lsb or trim it."
            )
        if layer.beyond_registers:
            found.append(
                f"Trimming cannot correct {layer.beyond_registers} bitlines of layer {layer.name}: no register reaches "
                "their gain or offset. Raise trim.gain_range or trim.offset_range_lsb."
            )
        if layer.dead_bitlines:
            found.append(
                f"Of the bitlines of layer {layer.name}, {layer.dead_bitlines} are dead and have no spare: they read "
                "as if their cells conducted nothing. Raise defects.spare_bitlines."
            )
    chip = comparison.provenance.chip
    overlapping, separation = chip.get("overlapping_levels"), chip.get("smallest_separation_sigmas")
    if overlapping and separation is not None:
        found.append(
            f"Of neighbouring levels, {overlapping} pairs overlap: the closest are "
            f"{separation:.2g} sigmas of the program error apart, and more than 2.3 % of the "
            "cells lie nearer to the wrong level. Lower the error or set variation.verify_band_v; with pulses, lower "
            "programming.step_v."
        )
    return found
