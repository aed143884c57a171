"""Settled currents of an array without a circuit simulator: chains, curves from ngspice, source lines."""

from cosim.solver.array import ArraySolver
from cosim.solver.curves import CellCurves, CurveSource, Order

__all__ = ["ArraySolver", "CellCurves", "CurveSource", "Order"]
