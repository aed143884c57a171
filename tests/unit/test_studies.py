"""Studies: their trials, what is kept of them, and what is made of the results."""

from __future__ import annotations

import json
import multiprocessing
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from cosim.arithmetic.codes import code_units
from cosim.errors import InputError
from cosim.studies import STUDIES, Study, run_study, study_for
from cosim.studies import trial as trials
from cosim.studies.study import Rows, mean_and_spread
from cosim.studies.trial import Trial


def small(seed: int, **changes: object) -> Trial:
    options = {"weight_bits": 2, "activation_bits": 2}
    how: dict[str, Any] = {"float_epochs": 1, "epochs": 1, "shown": {"kind": 1}, **changes}
    return Trial(f"small-{seed}", "digits", options, seed=seed, **how)


def toy_study(**changes: object) -> Study:
    def table(rows: Rows) -> list[list[str]]:
        return [["accuracy"], [mean_and_spread([row["accuracy_software"] for row in rows])]]

    def planned(seeds: int) -> list[Trial]:
        return [small(seed, **changes) for seed in range(seeds)]

    return Study("toy", "Does it run?", planned, 2, table, lambda rows: Figure())


def test_a_study_keeps_its_trials_and_does_not_repeat_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run_study(toy_study(), tmp_path, workers=2)
    assert [row["seed"] for row in rows] == [0, 1]
    assert all(0 < row["accuracy_software"] < 1 for row in rows)
    assert rows[0]["schedule"] == "1 + 1 epochs"  # the trial's, not the recipe's
    assert (tmp_path / "table.md").read_text().startswith("| accuracy |\n| --- |\n| ")
    assert (tmp_path / "plot.png").stat().st_size > 0
    assert (tmp_path / "networks" / "small-0.safetensors").is_file()
    monkeypatch.setattr(trials.training, "fit_quantized", None)  # nothing may be trained again
    assert run_study(toy_study(), tmp_path, workers=1) == rows


def test_a_study_goes_on_behind_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trials.run_trial

    def failing(trial: Trial, *others: object) -> object:
        if trial.seed == 1:
            raise KeyboardInterrupt
        return whole(trial, *others)

    monkeypatch.setattr("cosim.studies.study.run_trial", failing)
    with pytest.raises(KeyboardInterrupt):
        run_study(toy_study(), tmp_path, workers=1)
    kept = (tmp_path / "trials" / "small-0.json").read_text()
    monkeypatch.undo()
    assert len(run_study(toy_study(), tmp_path, workers=1)) == 2
    assert (tmp_path / "trials" / "small-0.json").read_text() == kept


def test_an_interrupted_study_does_not_wait_for_its_trials(tmp_path: Path) -> None:
    def interrupt() -> None:
        while not list(tmp_path.glob("float/*.checkpoint")):
            time.sleep(0.1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_study(toy_study(float_epochs=100_000), tmp_path, workers=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not multiprocessing.active_children()


def test_another_trial_of_the_same_name_is_run_again(tmp_path: Path) -> None:
    run_study(toy_study(), tmp_path, seeds=1, workers=1)
    changed = toy_study(arrays=("cell.bits=2", "adc.bits=3"), noise_lsb=0.3)
    (row,) = run_study(changed, tmp_path, seeds=1, workers=1)
    assert row["accuracy_noisy"] <= 1
    assert json.loads((tmp_path / "results.json").read_text()) == [row]


def test_a_result_of_a_recipe_that_has_changed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_study(toy_study(), tmp_path, seeds=1, workers=1)
    recipe = trials.recipe_for("digits")
    assert small(0).result(tmp_path) is not None
    for changed in (
        replace(recipe, quantized_schedule=replace(recipe.quantized_schedule, rate=1e-4)),
        replace(recipe, weight_decay=0.1),
    ):
        monkeypatch.setattr(trials, "recipe_for", lambda _, changed=changed: changed)
        assert small(0).result(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_damaged_result_is_told(content: str, tmp_path: Path) -> None:
    path = tmp_path / "trials" / f"{small(0).label}.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(InputError, match=f"{path} is damaged, expected the result of a trial: remove it"):
        small(0).result(tmp_path)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_trials_of_their_own_names_and_makes_tables_and_plots(name: str, tmp_path: Path) -> None:
    study = study_for(name)
    planned = study.trials(2)
    assert len({trial.label for trial in planned}) == len(planned) > 0
    rows = [
        {
            **trial.shown, "seed": trial.seed, "accuracy_float": 0.99, "accuracy_software": 0.98,
            "accuracy_noisy": 0.97,
            "differing_logits": 0, "schedule": "1 + 1 epochs", "training_digest": "md5:0",
        }
        for trial in planned
    ]  # fmt: skip
    head, *body = study.table(rows)
    assert body
    assert all(len(line) == len(head) for line in body)
    study.draw(rows).savefig(tmp_path / "plot.png")
    for trial in planned:
        trial.quantization()


def test_partial_sums_are_studied_where_codes_lose_something() -> None:
    planned = STUDIES["partial-sums"].trials(1)
    found = {(trial.shown["bits"], trial.shown["code_bits"]) for trial in planned}
    assert found == {(2, 3), (2, 4), (2, "lossless"), *((4, bits) for bits in (3, 4, 5, 6, 7)), (4, "lossless")}
    ranges = {trial.shown["range"] for trial in planned if trial.shown["bits"] == 2 and trial.shown["code_bits"] == 4}
    assert ranges == {"cover", "15 units"}
    concrete = {
        (trial.shown["bits"], trial.shown["code_bits"]) for trial in planned if trial.shown["method"] == "concrete"
    }
    assert concrete == {(2, 3), (2, 4), *((4, bits) for bits in (3, 4, 5, 6))}
    for trial in planned:
        assert "cell.offset_units=0" in trial.arrays
        width, _ = code_units(trial.quantization().arrays)
        # Elsewhere a Concrete sample has no gradient.
        assert trial.shown["method"] == "straight-through" or width > 1


def test_four_bits_on_cifar10_come_in_four_kinds() -> None:
    planned = STUDIES["cifar10"].trials(1)
    assert len(planned) == 12
    first = planned[0]
    assert (first.label, first.recipe) == ("resnet20-w4a4-symmetric-channel-s0", "resnet20")
    assert first.options == {"weight_quantizer": "step", "per_channel": True}
    assert first.shown == {"network": "resnet20", "weights": "symmetric", "range": "channel"}
    assert len({trial.float_stem(Path()) for trial in planned}) == 3  # kinds of one network begin alike


def test_an_unknown_study_is_named() -> None:
    with pytest.raises(InputError, match="did you mean 'bits'"):
        study_for("bit")
