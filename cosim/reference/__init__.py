"""Reference computations for tests and audits, which share no code with the parts that they check."""

from cosim.reference.mvm import exact_mvm
from cosim.reference.nodal import CellCurve, solve_group

__all__ = ["CellCurve", "exact_mvm", "solve_group"]
