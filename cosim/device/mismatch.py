"""Mismatch: how cells differ that were verified to the same current.

Program-verify makes cells alike in one current at one condition (`Config.at_verify`). Cells with other gain
factors, coupling ratios or temperature coefficients then hold other charges, and conduct differently at another
condition. Whatever a cell does there, some threshold shift makes the card's own cell do the same at the voltage of the
clamp. That shift goes into decks and solver, which need not know of the mismatch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.config import Config
from cosim.device.curve import CellCurve
from cosim.device.draws import cell_normals
from cosim.mapping import Group

_VERIFY_C = 27.0


@dataclass(frozen=True, eq=False)
class CellMismatch:
    """What verify does not see of some cells. Arrays have one shape.

    Attributes:
        gain: gain factor of each cell relative to the card's cell.
        threshold_v: how much higher the threshold of each cell is than the card's says, at the condition of the read
            [V]. It is 0 where cells are verified.
    """

    gain: np.ndarray
    threshold_v: np.ndarray

    @classmethod
    def drawn(cls, config: Config, layer: int, group: Group) -> CellMismatch:
        """The mismatch of the cells of a group of layer number `layer`, as read at the configured corner.

        Gain factors are log-normal, and thresholds normal:

            V = sigma_T z (T - 27 C) - sigma_c z' (V_read - V_verify)

        since a coupling ratio that is larger by the share c lifts the floating gate as if the wordline were higher by c
        times its voltage, and verify takes out what it does at the voltage of verify.

        Source: the coupling ratio acts as in Larcher, Pavan et al., "A new compact DC model of floating gate memory
        cells without capacitive coupling coefficients", IEEE TED 2002.
        """
        variation, corner = config.variation, config.corner

        def normals(effect: str, sigma: float) -> np.ndarray:
            return sigma * cell_normals(config, effect, layer, group) if sigma else np.zeros(group.units.shape)

        raised_v = config.read_at_corner.wordline_v - config.read.wordline_v
        heated = normals("temperature coefficient", variation.tempco_sigma_v_per_k)
        coupled = normals("coupling ratio", variation.coupling_sigma)
        gain = np.exp(normals("gain factor", variation.gain_factor_sigma))
        return cls(gain, heated * (corner.temperature_c - _VERIFY_C) - coupled * raised_v)

    def stored(self, verified: np.ndarray, curve: CellCurve) -> np.ndarray:
        """The shifts that the charges of cells make [V].

        Args:
            verified: shift at which the card's own cell conducts what each cell was verified to conduct [V].
            curve: current of the card's cell at the condition of verify.
        """
        return curve.scaled(verified, 1 / self.gain)

    def seen(self, stored: np.ndarray, curve: CellCurve) -> np.ndarray:
        """The shifts at which the card's own cell conducts what these cells conduct at a read [V].

        Args:
            stored: shifts that their charges make [V].
            curve: current of the card's cell at the condition of the read.
        """
        return curve.scaled(stored + self.threshold_v, self.gain)
