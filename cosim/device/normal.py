"""Programming as the outcome of it is often given: thresholds about their targets by a normal distribution."""

from __future__ import annotations

import numpy as np
import scipy

from cosim.config import Config
from cosim.device.curve import CellCurve
from cosim.device.draws import cell_normals
from cosim.device.sigmas import current_sigma, verified_sigma
from cosim.mapping import Group


class NormalProgramming:
    """Draws the thresholds of cells about those of their levels.

    Args:
        config: the configuration, for its variation, cell, seed and chip.
        shifts: (units,) threshold shift for each number of unit currents, falling [V].
        curve: current of a cell over its shift where cells are verified; needed with variation.program_sigma_rel.

    Attributes:
        centre_v: (levels,) mean shift of programmed cells [V].
        sigma_v: (levels,) standard deviation of their shifts [V].
    """

    def __init__(self, config: Config, shifts: np.ndarray, curve: CellCurve | None = None) -> None:
        variation, cell = config.variation, config.cell
        self._config = config
        self._drawn_v = np.full(len(shifts), variation.program_sigma_v)
        if variation.program_sigma_rel > 0:
            assert curve is not None
            currents = np.maximum(np.arange(cell.most_units + 1), 1e-4) * cell.unit_a
            relative = current_sigma(currents, variation.program_sigma_rel, variation.program_saturation_a) / currents
            self._drawn_v = np.hypot(self._drawn_v, relative / np.abs(curve.log_slopes(shifts)))
        self._shifts = shifts
        self.centre_v = shifts[cell.offset_units :]
        self.sigma_v = verified_sigma(self._drawn_v, variation.verify_band_v)[cell.offset_units :]

    def verified(self, layer: int, group: Group) -> np.ndarray:
        """Threshold shifts of the cells of a group of layer number `layer`, (wordlines, bitlines) [V]."""
        variation = self._config.variation
        shifts = self._shifts[group.units]
        if not variation.program_error:
            return shifts
        sigma = self._drawn_v[group.units]
        normal = cell_normals(self._config, "program error", layer, group)
        if variation.verify_band_v is not None:  # cells err to the same side as without verify
            inside = scipy.special.ndtr(variation.verify_band_v / np.maximum(sigma, 1e-300))
            normal = scipy.special.ndtri(1 - inside + scipy.special.ndtr(normal) * (2 * inside - 1))
        return shifts + sigma * normal
