"""A study, and how its trials are run: in parallel, with every result stored, and a table and a plot at the end."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosim import progress
from cosim.datasets import load_dataset
from cosim.files import write_whole
from cosim.folders import check_folder, whole_folder
from cosim.report import wording
from cosim.report.figures import write_png
from cosim.studies.trial import FOLDERS, Trial, run_trial, train_float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """A question and the trainings that answer it.

    Attributes:
        name: name of the study.
        question: the question that it answers.
        trials: function that maps the number of seeds to the trainings.
        seeds: default number of seeds.
        table: function that maps results to rows of text, with the headings first.
        draw: function that maps results to a plot.
    """

    name: str
    question: str
    trials: Callable[[int], list[Trial]]
    seeds: int
    table: Callable[[Rows], list[list[str]]]
    draw: Callable[[Rows], Figure]


def run_study(
    study: Study,
    folder: Path,
    *,
    seeds: int | None = None,
    data: Path | None = None,
    workers: int | None = None,
    device: str = "auto",
) -> Rows:
    """Run the trials that have no result yet, then write `table.md`, `results.json` and `plot.png` into `folder`.

    Args:
        seeds: number of trainings of each kind; None for that of the study.
        workers: number of parallel trainings; None for one per core.

    Returns:
        the results, in the order of the trials.

    Raises:
        OutputError: the folder cannot be made or written into.
        DatasetError: a data set that is needed was not found; then the folder is not made.
    """
    check_folder(folder, force=True, beside=FOLDERS)
    trials = study.trials(seeds or study.seeds)
    missing = [trial for trial in trials if trial.result(folder) is None]
    for name in sorted({trial.plan().dataset for trial in missing}):
        load_dataset(name, "train", data)
        load_dataset(name, "test", data)
    first = {trial.float_stem(folder): trial for trial in missing}
    workers = workers or len(os.sched_getaffinity(0))
    # Float networks are trained first, since parallel trials that share one would each train it.
    _in_parallel(f"{study.name}: float networks", train_float, list(first.values()), folder, data, device, workers)
    _in_parallel(f"{study.name}: trials", run_trial, missing, folder, data, device, workers)
    results = [found for trial in trials if (found := trial.result(folder)) is not None]
    with whole_folder(folder, force=True, beside=FOLDERS) as new:
        write_whole(new / "results.json", json.dumps(results, indent=2) + "\n")
        write_whole(new / "table.md", wording.markdown(study.table(results)))
        write_png(study.draw(results), new / "plot.png")
    return results


def _in_parallel(
    title: str,
    work: Callable[[Trial, Path, Path | None, str], Any],
    trials: Sequence[Trial],
    folder: Path,
    data: Path | None,
    device: str,
    workers: int,
) -> None:
    """Call `work` on every trial. If there are several trials, each runs in a separate process."""
    with progress.progress_bar(title, len(trials), lines=False) as advance:
        if workers == 1 or len(trials) < 2:
            for trial in trials:
                work(trial, folder, data, device)
                advance(1, note=trial.label)
                progress.log(f"{title}: {trial.label} done")
            return
        # Each process starts a new interpreter, since torch's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        others = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=progress.quiet)
        try:
            waiting = {pool.submit(work, trial, folder, data, device): trial for trial in trials}
            for done in as_completed(waiting):
                done.result()
                advance(1, note=waiting[done].label)
                progress.log(f"{title}: {waiting[done].label} done")
        except KeyboardInterrupt:
            # A trial would take minutes to end by itself. It will continue from its last epoch.
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def mean_and_spread(values: Sequence[float]) -> str:
    """The mean of accuracies in percent and, if there are several, their standard deviation."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{100 * mean:.2f}"
    spread = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return f"{100 * mean:.2f} ± {100 * spread:.2f}"


def grouped(rows: Rows, *keys: str) -> dict[tuple[Any, ...], Rows]:
    """Results, grouped by the values of some keys, in the order in which they occur."""
    groups: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def accuracies(rows: Rows, key: str = "accuracy_software") -> list[float]:
    return [row[key] for row in rows]
