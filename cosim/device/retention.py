"""Retention: the charge that cells lose after programming.

A cell loses a share of its charge, so that its threshold moves towards that of a cell without charge. Most cells lose
nearly the same share. A few, whose oxide has a path of traps, lose more: they are the tail of the distribution.
"""

from __future__ import annotations

import math

import numpy as np
import scipy

from cosim.config import Config, Variation
from cosim.device.draws import cell_normals
from cosim.mapping import Group

_BOLTZMANN_EV = 8.617333262e-5  # [eV/K]
_KELVIN = 273.15
_REFERENCE_C = 25.0


def charge_loss(variation: Variation) -> float:
    """Share of its charge that a cell has lost on average, 0..1.

        loss = rate * log10(1 + a t / t0),   a = exp(Ea / k * (1 / 298.15 K - 1 / T))

    Source: logarithmic detrapping accelerated by Arrhenius' law, as in Mielke et al., "Recovery effects in the
    distributed cycling of flash memories", IRPS 2006.
    """
    hot = variation.retention_temperature_c + _KELVIN
    exponent = variation.retention_activation_ev / _BOLTZMANN_EV * (1 / (_REFERENCE_C + _KELVIN) - 1 / hot)
    # Computed from logarithms, since the acceleration itself may be too large for a float.
    if variation.retention_s == 0:
        return 0.0
    log_time = math.log(variation.retention_s / variation.retention_onset_s) + exponent
    return float(variation.retention_loss_decade * np.logaddexp(0, log_time) / math.log(10))


def lost_shares(config: Config, layer: int, group: Group) -> np.ndarray:
    """Share of its charge that each cell of a group of layer number `layer` has lost, (wordlines, bitlines), 0..1.

        lost = loss * (1 + spread * z + tail * e)

    The mean loss is that of `charge_loss`, z is standard normal, and e is exponential with a mean of 1 for cells of the
    tail, and 0 for all others. The tail is thus a straight line if cells are counted on a logarithmic scale.

    Source: a small population of cells loses charge through paths of traps, Degraeve et al., "Analytical percolation
    model for predicting anomalous charge loss in flash memories", IEEE TED 2004.
    """
    variation = config.variation
    relative = np.ones(group.units.shape)
    if variation.retention_spread > 0:
        relative += variation.retention_spread * cell_normals(config, "loss of charge", layer, group)
    if variation.retention_tail_share > 0:
        place = cell_normals(config, "tail of the loss", layer, group)
        share = variation.retention_tail_share
        # For the cells below this quantile, -ln(probability / share) is exponentially distributed.
        exponential = np.where(place < scipy.special.ndtri(share), math.log(share) - scipy.special.log_ndtr(place), 0)
        relative += variation.retention_tail * exponential
    return np.clip(charge_loss(variation) * relative, 0, 1)
