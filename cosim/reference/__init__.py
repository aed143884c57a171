"""Oracles for tests and audits, written apart from what they check."""

from cosim.reference.mvm import exact_mvm
from cosim.reference.nodal import CellCurve, solve_group

__all__ = ["CellCurve", "exact_mvm", "solve_group"]
