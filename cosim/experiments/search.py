"""Searches a grid of designs for the one that conditions and virtual chips harm least, by successive halving.

Every design is judged on the first chip. The better half is judged on the second one too, the better half of those on
two more, and so on. Most of the work thus goes to designs that are hard to tell apart. All designs see the same images,
conditions and chips, so that these do not decide between them (common random numbers).

A design's score is the share of the images that the circuit decides otherwise than the integer network. It varies less
with the choice of images than the accuracy lost, in which images that become right by chance make up for others.

Sources: Z. Karnin, T. Koren, O. Somekh, "Almost Optimal Exploration in Multi-Armed Bandits", ICML 2013; K. Jamieson,
A. Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from cosim.config import Config
from cosim.datasets import Dataset
from cosim.errors import ConfigError, DatasetError, NetworkError
from cosim.evaluate.comparison import Accuracy
from cosim.evaluate.plan import RunPlan
from cosim.evaluate.provenance import Provenance
from cosim.experiments.bench import Bench, Outcome
from cosim.experiments.points import CHIPS, Points, check_axes, combinations, plan_points
from cosim.network import Network
from cosim.progress import log, progress_bar

By = Literal["mean", "worst"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A design, and how it was judged.

    Attributes:
        design: configuration key -> value.
        outcomes: for each chip, in order from 0, the outcome at each condition.
        reason: why the design failed at a point, "" if it did not.
    """

    design: Mapping[str, Any]
    outcomes: tuple[tuple[Outcome, ...], ...] = ()
    reason: str = ""

    @property
    def chips(self) -> int:
        """Number of chips on which it was judged at every condition."""
        return len(self.outcomes)

    @property
    def accuracy(self) -> np.ndarray:
        """(chips, conditions) share of images classified correctly."""
        return np.array([[outcome.accuracy for outcome in row] for row in self.outcomes])

    @property
    def disagreement(self) -> np.ndarray:
        """(chips, conditions) share of images decided otherwise than in software."""
        return np.array([[(~outcome.agreeing).mean() for outcome in row] for row in self.outcomes])

    def score(self, by: By) -> float:
        """What it is ranked by: the mean over chips of the disagreement, as a mean over conditions or at the worst."""
        at_conditions = self.disagreement.mean(axis=0)
        return float(at_conditions.mean() if by == "mean" else at_conditions.max())


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Designs in the order of their rank.

    Attributes:
        provenance: network, data set, versions, and the configuration that all points share.
        designs: configuration key -> its values, whose combinations are the designs.
        conditions: configuration key -> its values, whose combinations are the conditions; empty for that configured.
        seeds: number of virtual chips, variation.chip = 0..seeds-1.
        by: what designs are ranked by.
        software: accuracy of the integer network.
        candidates: every design. Those that were judged on more chips come first, of these those with the lower score,
            and those that failed come last.
    """

    provenance: Provenance
    designs: Mapping[str, tuple[Any, ...]]
    conditions: Mapping[str, tuple[Any, ...]]
    seeds: int
    by: By
    software: Accuracy
    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate | None:
        """The first design, or None if all of them failed."""
        first = self.candidates[0]
        return None if first.reason else first

    @property
    def failed(self) -> int:
        return sum(candidate.reason != "" for candidate in self.candidates)

    def lost(self, candidate: Candidate) -> np.ndarray:
        """(chips, conditions) share of images by which the circuit is right less often than the integer network."""
        return self.software.share - candidate.accuracy

    def worst_condition(self, candidate: Candidate) -> dict[str, Any]:
        """The condition at which a design that did not fail loses most accuracy, as key -> value."""
        return combinations(self.conditions)[int(self.lost(candidate).mean(axis=0).argmax())]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values, for JSON. Of decisions on single images, it has only their numbers."""
        return {
            **self.provenance.to_json(),
            "designs": {key: list(values) for key, values in self.designs.items()},
            "conditions": {key: list(values) for key, values in self.conditions.items()},
            "seeds": self.seeds,
            "by": self.by,
            "accuracy_software": self.software.share,
            "candidates": [self._in_json(candidate) for candidate in self.candidates],
        }

    def _in_json(self, candidate: Candidate) -> dict[str, Any]:
        judged: dict[str, Any] = {"failed": candidate.reason or None}
        if not candidate.reason:
            lost = self.lost(candidate)
            judged |= {
                "score": candidate.score(self.by),
                "lost_mean": float(lost.mean()),
                "lost_worst_condition": float(lost.mean(axis=0).max()),
                "worst_condition": self.worst_condition(candidate),
                "lost_worst_chip": float(lost.max()),
            }
        points = [
            {
                **condition,
                CHIPS: chip,
                "accuracy": outcome.accuracy,
                "disagreements": outcome.disagreements,
                **outcome.figures(),
            }
            for chip, row in enumerate(candidate.outcomes)
            for condition, outcome in zip(combinations(self.conditions), row, strict=True)
        ]
        return {"design": dict(candidate.design), "chips": candidate.chips, **judged, "points": points}


def search(
    network: Network,
    dataset: Dataset,
    config: Config | None = None,
    *,
    designs: Mapping[str, Sequence[Any]],
    over: Mapping[str, Sequence[Any]] | None = None,
    seeds: int,
    by: By = "mean",
    folder: str | Path | None = None,
    store: str | Path | None = None,
    again: bool = False,
) -> SearchResult:
    """Choose among the designs of a grid.

    Round r judges what is left of the designs at every condition on chips 0 .. min(seeds, 2^r) - 1, and the better half
    goes on. The search ends when one design is left, or all chips have been used. Of designs with equal scores, the one
    that comes first in the grid is taken for the better one.

    Args:
        network: the quantized network.
        dataset: images of the training set. On test images, which the design is shown on later, it would look better
            than it is.
        config: the configuration that all points share; None for the default one.
        designs: configuration keys, as section.key, each with its values, as values or as text that `--set` takes.
            Their combinations are the designs.
        over: keys and values whose combinations are the conditions; None for the configured condition only.
        seeds: number of virtual chips, variation.chip = 0..seeds-1.
        by: whether designs are ranked by the mean over conditions, or by the worst condition.
        folder: as in `sweep`, whose points are found there.
        store: directory of simulation results; None for $COSIM_STORE or the user's cache directory.
        again: whether to measure points again that have an outcome already.

    Returns:
        all designs in the order of their rank; one that failed at any point is out, with its reason.

    Raises:
        ConfigError: a key is unknown or is both of designs and of conditions, a value is out of range by itself, or
            there are not two designs, or no chip.
        DatasetError, NetworkError: images are of the test set, there is no image, or they do not fit the network.
        MachineError: ngspice is missing, or the disk is full.
    """
    started = time.perf_counter()
    base = config or Config()
    design_axes, condition_axes = _checked(dataset, designs, over or {}, seeds, by)
    conditions, bench = combinations(condition_axes), Bench(network, dataset, store)
    points = Points(bench, base, folder, again)
    software = bench.right(bench.software)
    left = [Candidate(design) for design in combinations(design_axes)]
    dropped, failed = list[Candidate](), list[Candidate]()
    coming = list(_rounds(len(left), seeds))
    with progress_bar("points", _designs_times_chips(coming) * len(conditions)) as advance:
        while coming:
            chips = coming[0][1]
            judged = [_judged(candidate, conditions, chips, points, advance) for candidate in left]
            failed += [candidate for candidate in judged if candidate.reason]
            passed = sorted((each for each in judged if not each.reason), key=lambda each: each.score(by))
            half = math.ceil(len(passed) / 2)
            left, dropped = passed[:half], passed[half:] + dropped
            log(f"after {chips.stop} of {seeds} chips: designs left {len(left)}, failed {len(failed)}")
            expected, coming = coming[1:], list(_rounds(len(left), seeds, chips.stop))
            advance((_designs_times_chips(expected) - _designs_times_chips(coming)) * len(conditions))
    return SearchResult(
        provenance=bench.provenance(base, time.perf_counter() - started),
        designs=design_axes,
        conditions=condition_axes,
        seeds=seeds,
        by=by,
        software=Accuracy(int(software.sum()), len(software)),
        candidates=(*left, *dropped, *failed),
    )


def plan_search(
    network: Network,
    dataset: Dataset,
    config: Config,
    *,
    designs: Mapping[str, Sequence[Any]],
    over: Mapping[str, Sequence[Any]],
    seeds: int,
) -> list[RunPlan]:
    """Plan the points of a search. Of the designs that can be run, the costliest ones are taken to stay in it longest.

    Raises:
        ConfigError, DatasetError, NetworkError: as `search` raises them; or no design can be run.
    """
    design_axes, condition_axes = _checked(dataset, designs, over, seeds, "mean")
    plans, reason = list[list[RunPlan]](), None
    for design in combinations(design_axes):
        try:
            points = [{**design, **condition} for condition in combinations(condition_axes)]
            plans.append(plan_points(network, config, points, len(dataset)))
        except (ConfigError, NetworkError) as error:
            reason = error
    if reason is not None and not plans:
        raise reason
    plans.sort(key=lambda conditions: -sum(plan.estimate(plan.fidelity).seconds for plan in conditions))
    return [
        plan
        for count, chips in _rounds(len(plans), seeds)
        for conditions in plans[:count]
        for plan in conditions * len(chips)
    ]


def _checked(
    dataset: Dataset, designs: Mapping[str, Sequence[Any]], over: Mapping[str, Sequence[Any]], seeds: int, by: By
) -> tuple[dict[str, tuple[Any, ...]], dict[str, tuple[Any, ...]]]:
    """The keys and values of designs and of conditions, checked as `search` promises."""
    if dataset.split == "test":
        raise DatasetError(
            "a design that is chosen by test images looks better on them than it is: search on images of the training "
            "set, and show the chosen design on the test images (--split train, the default; Dataset.split)"
        )
    if by not in get_args(By):
        raise ConfigError(f"designs are ranked by 'mean' or 'worst', found {by!r}")
    if seeds < 1:
        raise ConfigError(f"expected at least one seed, found {seeds}")
    design_axes, condition_axes = check_axes(designs), check_axes(over)
    for key in design_axes:
        if key in condition_axes:
            raise ConfigError(f"{key} is a key of the designs and of the conditions: choose one of them")
    if CHIPS in {*design_axes, *condition_axes}:
        raise ConfigError(f"{CHIPS} is what seeds number in a search: give only how many there are")
    if math.prod(map(len, design_axes.values())) < 2:
        raise ConfigError("a search needs two designs at least: name a key and its values, as adc.bits=6,7,8")
    return design_axes, condition_axes


def _rounds(designs: int, seeds: int, judged: int = 0) -> Iterator[tuple[int, range]]:
    """The number of designs and the new chips of each round that comes if no design fails.

    Args:
        designs: number of designs that are left.
        seeds: number of chips.
        judged: number of chips on which these designs have been judged.
    """
    while designs and judged < seeds and (designs > 1 or not judged):
        chips = range(judged, min(seeds, max(1, 2 * judged)))
        yield designs, chips
        designs, judged = math.ceil(designs / 2), chips.stop


def _designs_times_chips(rounds: Sequence[tuple[int, range]]) -> int:
    return sum(designs * len(chips) for designs, chips in rounds)


def _judged(
    candidate: Candidate,
    conditions: Sequence[Mapping[str, Any]],
    chips: range,
    points: Points,
    advance: Callable[..., None],
) -> Candidate:
    """The candidate with its outcomes on some more chips. It fails with its first point that does."""
    rows = list[tuple[Outcome, ...]]()
    for chip in chips:
        row = list[Outcome]()
        for condition in conditions:
            found = points.outcome({**candidate.design, **condition, CHIPS: chip}, advance)
            if isinstance(found, str):
                advance((len(chips) - len(rows)) * len(conditions) - len(row) - 1)  # those not measured any more
                return replace(candidate, outcomes=(*candidate.outcomes, *rows), reason=found)
            row.append(found)
        rows.append(tuple(row))
    return replace(candidate, outcomes=(*candidate.outcomes, *rows))
