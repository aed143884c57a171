"""Standard deviations of currents and thresholds, as formulas."""

from __future__ import annotations

import math

import numpy as np
import scipy


def current_sigma(currents: np.ndarray, rel: float, saturation_a: float | None) -> np.ndarray:
    """Standard deviation of cell currents [A]: proportional to currents below `saturation_a`, and constant above it.

        sigma(I) = rel * I_sat * (1 - exp(-I / I_sat)), or rel * I without saturation

    Source: the form fitted to SONOS arrays by CrossSim's SONOS device model.
    """
    if saturation_a is None:
        return rel * currents
    return -rel * saturation_a * np.expm1(-currents / saturation_a)


def verified_sigma(sigma: np.ndarray, band_v: float | None) -> np.ndarray:
    """Standard deviation of thresholds after program-verify.

    Programming is repeated until the threshold is within plus or minus `band_v` of the target, so the result is that of
    a truncated normal distribution.

    Source: Johnson, Kotz, Balakrishnan, "Continuous univariate distributions", volume 1, 1994.
    """
    if band_v is None:
        return sigma
    ratio = band_v / np.maximum(sigma, 1e-12 * band_v)
    wide = np.maximum(ratio, 0.05)
    density = np.exp(-(wide**2) / 2) / math.sqrt(2 * math.pi)
    normal = sigma * np.sqrt(1 - 2 * wide * density / (2 * scipy.special.ndtr(wide) - 1))
    return np.where(ratio < 0.05, band_v / math.sqrt(3), normal)  # in such a narrow band, all values are equally likely
