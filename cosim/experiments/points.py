"""Points: configurations that share a base and differ in some keys, each with an outcome that is kept in a file."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cosim.config import Config, check_value
from cosim.errors import CardError, ConfigError, NetworkError, SimulationError
from cosim.evaluate.plan import RunPlan, plan_run
from cosim.experiments.bench import Bench, Outcome
from cosim.files import disk_error, read_regular, write_whole
from cosim.network import Network
from cosim.progress import log

# The key that numbers virtual chips.
CHIPS = "variation.chip"
# The folder, in that of an experiment, of what came of its points.
POINTS = "points"
# Two bits for each image, and a dozen numbers.
_MOST_BYTES = 64 << 20
# Errors that concern one point, and not the whole experiment.
_OF_A_POINT = (ConfigError, CardError, NetworkError, SimulationError)


class Points:
    """Points on a bench. Their outcomes are kept, so that an interrupted or extended experiment continues.

    Args:
        bench: network and images.
        base: the configuration that all points share.
        folder: where the outcome of each point is kept, as points/IDENTITY.json; None to keep nothing.
        again: whether to measure points again that have an outcome already.

    Raises:
        MachineError, OutputError: the folder cannot be made.
    """

    def __init__(self, bench: Bench, base: Config, folder: str | Path | None, again: bool) -> None:
        self._bench, self._base, self._again = bench, base, again
        self._folder = None if folder is None else Path(folder) / POINTS
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise disk_error(error, self._folder) from error

    def outcome(self, values: Mapping[str, Any], advance: Callable[..., None]) -> Outcome | str:
        """The outcome of a point, or the reason why it failed. A failed point is tried again by the next experiment.

        Args:
            values: configuration key, as section.key -> its value at the point.
            advance: moves a progress bar that counts points.

        Raises:
            InputError, MachineError: the kept outcome cannot be read; ngspice is missing, or the disk is full.
        """
        label = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in values.items())
        advance(0, note=label)
        found: Outcome | str
        try:
            found = self._measured(self._base.with_values(values))
        except _OF_A_POINT as error:
            found = str(error)
        log(f"{label}: {found if isinstance(found, str) else f'{100 * found.accuracy:.2f} %'}")
        advance(1)
        return found

    def _measured(self, config: Config) -> Outcome:
        """The outcome that was kept, or else a new one, which is then kept."""
        if self._folder is None:
            return self._bench.measure(config)
        path = self._folder / f"{self._bench.identity(config)}.json"
        if not self._again:
            try:
                return Outcome.from_json(read_regular(path, _MOST_BYTES).decode(), len(self._bench.dataset))
            except (FileNotFoundError, ValueError):
                pass  # a damaged file is replaced by a new measurement
        outcome = self._bench.measure(config)
        write_whole(path, outcome.to_json())
        return outcome


def check_axes(axes: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    """Check configuration keys, as section.key, and each of their values: values, or text as `--set` takes it.

    Raises:
        ConfigError: a key is unknown or has no values, or a value is out of range by itself or given twice.
    """
    checked = {key: tuple(check_value(key, value) for value in values) for key, values in axes.items()}
    for key, values in checked.items():
        if not values:
            raise ConfigError(f"axis {key} has no values: give some, separated by commas")
        if len(set(map(repr, values))) < len(values):
            raise ConfigError(f"axis {key} has a value twice: {', '.join(map(str, values))}; give each once")
    return checked


def combinations(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values of the axes, as key -> value; that of the last axis changes fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def plan_points(network: Network, base: Config, points: Iterable[Mapping[str, Any]], images: int) -> list[RunPlan]:
    """Plan every point that can be run. Points whose arrays and reads are the same share one plan.

    Args:
        network: the network.
        base: the configuration that all points share.
        points: the values of each point, as `Points.outcome` takes them.
        images: number of images.

    Raises:
        ConfigError, NetworkError: no point can be run; the reason is that of the last.
    """
    plans, known, reason = [], dict[tuple[Any, ...], RunPlan](), None
    for values in points:
        try:
            point = base.with_values(values)
            decisive = (point.array, point.cell, point.read, point.trim, point.run)
            if decisive not in known:
                known[decisive] = plan_run(network, point, images)
            plans.append(known[decisive])
        except (ConfigError, NetworkError) as error:
            reason = error
    if reason is not None and not plans:
        raise reason
    return plans
