"""Mismatch: differences between cells that were verified to the same current.

Program-verify gives cells the same current in one condition (`Config.at_verify`). If their gain factors, coupling
ratios or temperature coefficients differ, they then hold different charges, and their currents differ in other
conditions. For each such current there is a threshold shift that makes the card's own cell conduct it at the voltage of
the clamp. This equivalent shift goes into decks and solver, which therefore need not know of the mismatch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.config import Config
from cosim.device.curve import CellCurve
from cosim.device.draws import cell_normals
from cosim.mapping import Group


@dataclass(frozen=True, eq=False)
class CellMismatch:
    """The mismatch of some cells, which verify does not remove. All arrays have the same shape.

    Attributes:
        gain: gain factor of each cell relative to the card's cell.
        threshold_v: difference of the threshold of each cell from the card's, in the conditions of the read [V]. It is
            0 in the conditions of verify.
    """

    gain: np.ndarray
    threshold_v: np.ndarray

    @classmethod
    def drawn(cls, config: Config, layer: int, group: Group) -> CellMismatch:
        """The mismatch of the cells of a group of layer number `layer`, as read at the configured corner.

        Gain factors are log-normal, and thresholds normal:

            V = sigma_T z (T - T_verify) - sigma_c z' (V_read - V_verify)

        A coupling ratio that is larger by the share c acts as if the wordline's voltage were larger by the same share.
        Verify removes this effect at its own voltage.

        Source: the coupling ratio acts as in Larcher, Pavan et al., "A new compact DC model of floating gate memory
        cells without capacitive coupling coefficients", IEEE TED 2002.
        """
        variation, verify = config.variation, config.at_verify
        warmer_k = config.corner.temperature_c - verify.corner.temperature_c
        raised_v = config.read_at_corner.wordline_v - verify.read_at_corner.wordline_v

        def normals(effect: str, sigma: float) -> np.ndarray:
            return sigma * cell_normals(config, effect, layer, group) if sigma else np.zeros(group.units.shape)

        heated = normals("temperature coefficient", variation.tempco_sigma_v_per_k)
        coupled = normals("coupling ratio", variation.coupling_sigma)
        gain = np.exp(normals("gain factor", variation.gain_factor_sigma))
        return cls(gain, heated * warmer_k - coupled * raised_v)

    def stored(self, verified: np.ndarray, curve: CellCurve) -> np.ndarray:
        """The threshold shifts that the charges of cells cause [V].

        Args:
            verified: shift at which the card's own cell conducts the current to which each cell was verified [V].
            curve: current of the card's cell in the conditions of verify.
        """
        return curve.scaled(verified, 1 / self.gain)

    def seen(self, stored: np.ndarray, curve: CellCurve) -> np.ndarray:
        """The equivalent shifts, at which the card's own cell conducts the currents of these cells in a read [V].

        Args:
            stored: shifts that the charges of the cells cause [V].
            curve: current of the card's cell in the conditions of the read.
        """
        return curve.scaled(stored + self.threshold_v, self.gain)
