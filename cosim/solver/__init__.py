"""Computes settled currents of an array without a circuit simulator, from curves that ngspice gave."""

from cosim.solver.array import ArraySolver
from cosim.solver.curves import CellCurves, CurveSource, Order

__all__ = ["ArraySolver", "CellCurves", "CurveSource", "Order"]
