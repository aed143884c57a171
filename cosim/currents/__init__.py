"""Sources of currents: ideal arrays, solved arrays, or arrays in the circuit simulator."""

from cosim.currents.factory import calibrating_source, make_source, transients_of
from cosim.currents.ideal import IdealSource
from cosim.currents.programming import ProgrammedCell
from cosim.currents.request import CurrentSource, GroupCurrents, ReadRequest
from cosim.currents.sense import SenseMismatch
from cosim.currents.simulated import SpiceSource
from cosim.currents.solved import SolvedSource

__all__ = [
    "CurrentSource",
    "GroupCurrents",
    "IdealSource",
    "ProgrammedCell",
    "ReadRequest",
    "SenseMismatch",
    "SolvedSource",
    "SpiceSource",
    "calibrating_source",
    "make_source",
    "transients_of",
]
