"""Summarizes a layer's reads: figures of each group, and densities of currents and errors for plots.

The reads of a large network take hundreds of megabytes, their summary a few kilobytes for each layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from cosim.readout import GroupReads

# Largest number of bins on an axis of currents, and number of bins on an axis of errors.
_CURRENT_BINS = 128
_ERROR_BINS = 61


@dataclass(frozen=True, eq=False)
class GroupFigures:
    """Figures of each group of a layer, (groups,) each, in the plan's order. They count every read.

    Attributes:
        reads: reads that the images need.
        patterns: distinct reads.
        conversions: codes of the reads, one for each output line.
        differing_codes: codes that differ from those of an ideal array behind converters without errors.
        clipped_codes: codes lost at an end of the converter's range.
        error_mean_lsb: mean of the error, which is the circuit's position less the ideal one [LSB].
        error_rms_lsb: root mean square of the error [LSB].
        error_max_lsb: largest absolute value of the error [LSB].
    """

    reads: np.ndarray
    patterns: np.ndarray
    conversions: np.ndarray
    differing_codes: np.ndarray
    clipped_codes: np.ndarray
    error_mean_lsb: np.ndarray
    error_rms_lsb: np.ndarray
    error_max_lsb: np.ndarray


@dataclass(frozen=True, eq=False)
class Densities:
    """Two-dimensional histograms of a layer's conversions. The bins of an axis are equally wide.

    Attributes:
        current_edges_lsb: (n + 1,) edges of the bins of ideal currents and of the circuit's currents [LSB].
        error_edges_lsb: (m + 1,) edges of the bins of errors, with zero in the middle of a bin [LSB].
        circuit: (n, n) number of conversions by ideal current and by the circuit's current.
        error: (n, m) number of conversions by ideal current and by error.
    """

    current_edges_lsb: np.ndarray
    error_edges_lsb: np.ndarray
    circuit: np.ndarray
    error: np.ndarray


@dataclass(frozen=True, eq=False)
class ReadSummary:
    """The summary of a layer's reads.

    Attributes:
        groups: figures of each group.
        densities: histograms for plots.
        correlation: correlation of circuit and ideal currents (Pearson), or None if one of them does not vary.
    """

    groups: GroupFigures
    densities: Densities
    correlation: float | None


def summarize(reads: Callable[[int], GroupReads], groups: int, highest: int | None) -> ReadSummary:
    """Summarize the reads of a layer.

    Each group's reads are asked for twice, so that only one group's reads are in memory at a time.

    Args:
        reads: a function that returns the reads of a group, given its number 0..groups-1 in the plan.
        groups: number of groups.
        highest: the converters' largest code, or None for no limit.
    """
    rows = []
    moments = np.zeros(6)
    ends = np.array([[np.inf, -np.inf]] * 3)  # lowest and highest ideal current, circuit's current, and error
    for index in range(groups):
        group = reads(index)
        uses = group.uses
        circuit, ideal = group.lsb.astype(np.float64), group.ideal.astype(np.float64)
        error = circuit - ideal
        products = (np.ones_like(error), circuit, ideal, circuit**2, ideal**2, circuit * ideal)
        moments += [uses @ product.sum(axis=1) for product in products]
        for bounds, values in zip(ends, (ideal, circuit, error), strict=True):
            bounds[:] = values.min(initial=bounds[0]), values.max(initial=bounds[1])
        conversions = int(uses.sum()) * circuit.shape[1]
        rows.append(
            (
                int(uses.sum()),
                len(group.patterns),
                conversions,
                int(uses @ (group.codes != group.ideal_codes).sum(axis=1)),
                int(uses @ group.clipped(group.lsb, highest).sum(axis=1)),
                float(uses @ error.sum(axis=1)) / max(conversions, 1),
                float(np.sqrt(uses @ (error**2).sum(axis=1) / max(conversions, 1))),
                float(np.abs(error).max(initial=0)),
            )
        )
    columns = (np.array(column) for column in zip(*rows, strict=True))
    figures = GroupFigures(**dict(zip((field.name for field in fields(GroupFigures)), columns, strict=True)))
    return ReadSummary(figures, _densities(reads, groups, ends), _correlation(moments, ends))


def _correlation(moments: np.ndarray, ends: np.ndarray) -> float | None:
    """Pearson's correlation from sums of 1, of circuit and ideal currents, of their squares and of their product."""
    mean_circuit, mean_ideal, square_circuit, square_ideal, product = moments[1:] / max(moments[0], 1)
    spread = np.sqrt(max(square_circuit - mean_circuit**2, 0) * max(square_ideal - mean_ideal**2, 0))
    if not (ends[:2, 0] < ends[:2, 1]).all() or spread <= 0:
        return None
    return float((product - mean_circuit * mean_ideal) / spread)


def _densities(reads: Callable[[int], GroupReads], groups: int, ends: np.ndarray) -> Densities:
    currents, errors = _current_edges(*ends[:2]), _error_edges(ends[2])
    n, m = len(currents) - 1, len(errors) - 1
    circuit_counts, error_counts = np.zeros(n * n), np.zeros(n * m)
    for index in range(groups):
        group = reads(index)
        ideal, uses = _bins(group.ideal, currents), np.repeat(group.uses, group.lsb.shape[1])
        circuit, error = _bins(group.lsb, currents), _bins(group.lsb - group.ideal, errors)
        circuit_counts += np.bincount((ideal * n + circuit).ravel(), uses, n * n)
        error_counts += np.bincount((ideal * m + error).ravel(), uses, n * m)
    counted = (circuit_counts.reshape(n, n).astype(np.int64), error_counts.reshape(n, m).astype(np.int64))
    return Densities(currents, errors, *counted)


def _bins(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The number of the bin that each value is in; all bins are equally wide."""
    places = np.floor((values - edges[0]) / (edges[1] - edges[0]))
    bins: np.ndarray = places.clip(0, len(edges) - 2).astype(np.int64)
    return bins


def _current_edges(ideal: np.ndarray, circuit: np.ndarray) -> np.ndarray:
    """Edges of bins for currents in LSB, halfway between whole numbers, since most ideal currents are whole."""
    low = np.floor(min(0.0, ideal[0], circuit[0]))
    high = np.ceil(max(1.0, ideal[1], circuit[1]))
    step = max(1.0, np.ceil((high - low + 1) / _CURRENT_BINS))
    edges: np.ndarray = low - 0.5 + step * np.arange(np.ceil((high - low + 1) / step) + 1)
    return edges


def _error_edges(error: np.ndarray) -> np.ndarray:
    """Edges of bins in LSB from the lowest error to the highest, zero in the middle of a bin."""
    low, high = min(0.0, error[0]), max(0.0, error[1])
    step = (high - low) / _ERROR_BINS or 1 / _ERROR_BINS
    edges: np.ndarray = step * (np.arange(np.floor(low / step + 0.5), np.floor(high / step + 0.5) + 2) - 0.5)
    return edges
