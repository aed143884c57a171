"""Sweeps a grid of configurations: runs the circuit at every point on the same images, and keeps each outcome."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from cosim.config import Config
from cosim.datasets import Dataset
from cosim.errors import ConfigError
from cosim.evaluate.provenance import Provenance
from cosim.experiments.bench import Bench, Outcome
from cosim.experiments.points import CHIPS, Points, check_axes, combinations
from cosim.experiments.sweep_result import SweepResult
from cosim.network import Network
from cosim.progress import progress_bar


def sweep(
    network: Network,
    dataset: Dataset,
    config: Config | None = None,
    *,
    over: Mapping[str, Sequence[Any]],
    seeds: int | None = None,
    folder: str | Path | None = None,
    store: str | Path | None = None,
    again: bool = False,
) -> SweepResult:
    """Run the circuit at every point of a grid of configurations.

    Args:
        network: the quantized network.
        dataset: the images.
        config: the configuration that all points share; None for the default one.
        over: configuration keys, as section.key, each with its values, as values or as text that `--set` takes.
        seeds: number of virtual chips at each point, variation.chip = 0..seeds-1; None for the configured chip only.
        folder: where the outcome of each point is kept, as points/IDENTITY.json, for the next sweep to find; None to
            keep nothing.
        store: directory of simulation results; None for $COSIM_STORE or the user's cache directory.
        again: whether to run points again that have an outcome already.

    Returns:
        the grid of outcomes; a point that failed has its reason there, and does not stop the others.

    Raises:
        ConfigError: a key is unknown, a value is out of range by itself, or there is no axis.
        DatasetError, NetworkError: there is no image, or images do not fit the network.
        MachineError: ngspice is missing, or the disk is full.
    """
    started = time.perf_counter()
    base, axes = config or Config(), check_grid(over, seeds)
    bench = Bench(network, dataset, store)
    points, grid = Points(bench, base, folder, again), combinations(axes)
    software = bench.right(bench.software)
    with progress_bar("points", len(grid)) as advance:
        found = [points.outcome(values, advance) for values in grid]
    return _gathered(bench.provenance(base, time.perf_counter() - started), axes, software, found)


def check_grid(over: Mapping[str, Sequence[Any]], seeds: int | None) -> dict[str, tuple[Any, ...]]:
    """Check the axes of a grid and their values. The axis of virtual chips comes last.

    Raises:
        ConfigError: a key is unknown, a value is out of range or given twice, or there is no axis.
    """
    axes = check_axes(over)
    if seeds is not None:
        if CHIPS in axes:
            raise ConfigError(f"{CHIPS} is an axis already: give either its values or a number of seeds")
        if seeds < 1:
            raise ConfigError(f"expected at least one seed, found {seeds}")
        axes[CHIPS] = tuple(range(seeds))
    if not axes:
        raise ConfigError("a sweep needs an axis: name a key and its values, as corner.temperature_c=-40,27,85")
    return axes


def _gathered(
    provenance: Provenance, axes: dict[str, tuple[Any, ...]], software: np.ndarray, found: list[Outcome | str]
) -> SweepResult:
    """Gather the outcomes of all points in arrays of the grid's shape."""
    shape = tuple(map(len, axes.values()))
    arrays: dict[str, np.ndarray] = {}
    for field in fields(Outcome):
        missing: Any = np.zeros(len(software), bool) if field.name in ("right", "agreeing") else np.nan
        values = [missing if isinstance(each, str) else getattr(each, field.name) for each in found]
        arrays[field.name] = np.array(values).reshape(*shape, *np.shape(missing))
    reasons = np.array([each if isinstance(each, str) else "" for each in found], object).reshape(shape)
    return SweepResult(provenance=provenance, axes=axes, software_right=software, reasons=reasons, **arrays)
