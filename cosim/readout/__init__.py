"""Currents -> codes -> partial sums -> layer output."""

from cosim.readout.adc import Converter
from cosim.readout.tables import GroupReads, LayerTable, ideal_sums

__all__ = ["Converter", "GroupReads", "LayerTable", "ideal_sums"]
