"""Sweeps a grid of configurations: runs the circuit at every point on the same images, and keeps each outcome."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from cosim.config import Config, check_value
from cosim.datasets import Dataset
from cosim.errors import CardError, ConfigError, NetworkError, SimulationError
from cosim.evaluate.plan import RunPlan, plan_run
from cosim.evaluate.provenance import Provenance
from cosim.experiments.bench import Bench, Outcome
from cosim.experiments.sweep_result import CHIPS, SweepResult
from cosim.files import disk_error, read_regular, write_whole
from cosim.network import Network
from cosim.progress import log, progress_bar

# The folder, in that of a sweep, of what came of its points.
POINTS = "points"
# Two bits for each image, and a dozen numbers.
_MOST_BYTES = 64 << 20
# Errors that concern one point, and not the whole sweep.
_OF_A_POINT = (ConfigError, CardError, NetworkError, SimulationError)


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
    base, axes = config or Config(), check_axes(over, seeds)
    bench, points = Bench(network, dataset, store), None if folder is None else _points(Path(folder))
    grid = list(itertools.product(*axes.values()))
    found: list[Outcome | str] = []
    software = bench.right(bench.software)
    with progress_bar("points", len(grid)) as advance:
        for values in grid:
            given = dict(zip(axes, values, strict=True))
            label = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in given.items())
            advance(0, note=label)
            try:
                found.append(_outcome(bench, base.with_values(given), points, again))
            except _OF_A_POINT as error:
                found.append(str(error))
            last = found[-1]
            log(f"{label}: {last if isinstance(last, str) else f'{100 * last.accuracy:.2f} %'}")
            advance(1)
    return _gathered(bench.provenance(base, time.perf_counter() - started), axes, software, found)


def plan_points(
    network: Network, config: Config, over: Mapping[str, Sequence[Any]], seeds: int | None, images: int
) -> list[RunPlan]:
    """Plan every point of a grid that can be run. Points whose arrays and reads are the same share one plan.

    Args:
        network: the network.
        config: the configuration that all points share.
        over: as in `sweep`.
        seeds: as in `sweep`.
        images: number of images.

    Raises:
        ConfigError, NetworkError: as `check_axes` raises them; or no point can be run, with the reason of the last.
    """
    axes = check_axes(over, seeds)
    plans, known, reason = [], dict[tuple[Any, ...], RunPlan](), None
    for values in itertools.product(*axes.values()):
        try:
            point = config.with_values(dict(zip(axes, values, strict=True)))
            decisive = (point.array, point.cell, point.read, point.trim, point.run)
            if decisive not in known:
                known[decisive] = plan_run(network, point, images)
            plans.append(known[decisive])
        except (ConfigError, NetworkError) as error:
            reason = error
    if reason is not None and not plans:
        raise reason
    return plans


def check_axes(over: Mapping[str, Sequence[Any]], seeds: int | None) -> dict[str, tuple[Any, ...]]:
    """Check the axes of a grid and their values. The axis of virtual chips comes last.

    Raises:
        ConfigError: a key is unknown, a value is out of range or given twice, or there is no axis.
    """
    axes = {key: tuple(check_value(key, value) for value in values) for key, values in over.items()}
    if seeds is not None:
        if CHIPS in axes:
            raise ConfigError(f"{CHIPS} is an axis already: give either its values or a number of seeds")
        if seeds < 1:
            raise ConfigError(f"expected at least one seed, found {seeds}")
        axes[CHIPS] = tuple(range(seeds))
    if not axes:
        raise ConfigError("a sweep needs an axis: name a key and its values, as corner.temperature_c=-40,27,85")
    for key, values in axes.items():
        if not values:
            raise ConfigError(f"axis {key} has no values: give some, separated by commas")
        if len(set(map(repr, values))) < len(values):
            raise ConfigError(f"axis {key} has a value twice: {', '.join(map(str, values))}; give each once")
    return axes


def _points(folder: Path) -> Path:
    points = folder / POINTS
    try:
        points.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, points) from error
    return points


def _outcome(bench: Bench, config: Config, points: Path | None, again: bool) -> Outcome:
    """The outcome of one point: the one that was kept, or else a new one, which is then kept."""
    if points is None:
        return bench.measure(config)
    path = points / f"{bench.identity(config)}.json"
    if not again:
        try:
            return Outcome.from_json(read_regular(path, _MOST_BYTES).decode(), len(bench.dataset))
        except (FileNotFoundError, ValueError):
            pass  # a damaged file is replaced by a new measurement
    outcome = bench.measure(config)
    write_whole(path, outcome.to_json())
    return outcome


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
