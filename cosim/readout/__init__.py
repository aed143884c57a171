"""Readout: turns bitline currents into converter codes, codes into partial sums, and those into a layer's output."""

from cosim.readout.adc import Converter
from cosim.readout.calibration import calibrated_lsb_units
from cosim.readout.noise import ReadNoise
from cosim.readout.registers import corrected
from cosim.readout.replica import replica_group, unit_current
from cosim.readout.tables import GroupReads, LayerTable, ideal_sums
from cosim.readout.trim import KnownReads, measured_lines, random_states

__all__ = [
    "Converter",
    "GroupReads",
    "KnownReads",
    "LayerTable",
    "ReadNoise",
    "calibrated_lsb_units",
    "corrected",
    "ideal_sums",
    "measured_lines",
    "random_states",
    "replica_group",
    "unit_current",
]
