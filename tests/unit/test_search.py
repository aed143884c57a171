"""Searches among designs: halving, resuming, failures, files, and what the command says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cosim
from cosim.cli import app
from cosim.errors import ConfigError, CosimError, DatasetError, MachineError, SimulationError
from cosim.experiments.bench import Bench, Outcome
from cosim.experiments.search import SearchResult, plan_search
from cosim.report.search_tables import design_toml, search_rows, search_table, write_search
from tests.conftest import make_network

IDEAL = cosim.Config.load(None, ["run.fidelity=ideal"])
BITS = {"adc.bits": [3, 8, 6, 5]}


@pytest.fixture(scope="module")
def digits() -> tuple[cosim.Network, cosim.Dataset]:
    return cosim.load_network("digits-w4a4"), cosim.load_dataset("digits", "train").head(40)


@pytest.fixture(scope="module")
def noise() -> cosim.Dataset:
    """Twenty training images on which `make_network` is always right."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20, 1, 6, 6), dtype=np.uint8))
    labels = make_network()(images / 255).argmax(1)
    return cosim.Dataset("noise", images, 255, labels, "", split="train")


Wrong = Callable[[cosim.Config], int]


@pytest.fixture
def decided(noise: cosim.Dataset, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SearchResult]:
    """Searches where a function says how many of the twenty images each circuit decides otherwise."""

    def search(wrong: Wrong, **options: Any) -> SearchResult:
        def measure(bench: Bench, config: cosim.Config) -> Outcome:
            agreeing = np.arange(20) >= wrong(config)
            return Outcome(bench.right(bench.software) & agreeing, agreeing, 0, 0, 0, 0, 0, np.nan, 0, 0)

        monkeypatch.setattr(Bench, "measure", measure)
        return cosim.search(make_network(), noise, IDEAL, **options)

    return search


def chips_of(result: SearchResult, key: str) -> dict[Any, int]:
    return {candidate.design[key]: candidate.chips for candidate in result.candidates}


def test_the_better_design_wins(digits: tuple[cosim.Network, cosim.Dataset]) -> None:
    result = cosim.search(*digits, IDEAL, designs={"adc.bits": ["3", "8", "5"]}, seeds=2)
    assert result.best is not None
    assert result.best.design == {"adc.bits": 8}
    assert result.best.score("mean") == 0, "eight bits hold every sum"
    assert result.candidates[-1].score("mean") > 0.5
    assert (result.lost(result.best) == 0).all()


def test_better_cells_win_on_solved_arrays(digits: tuple[cosim.Network, cosim.Dataset], shared_store: Path) -> None:
    config = cosim.Config.load(None, ["run.fidelity=solved", "run.certificate_reads=0"])
    result = cosim.search(
        *digits, config, store=shared_store,
        designs={"variation.program_sigma_v": [0.3, 0.01]}, over={"corner.temperature_c": [85]}, seeds=1,
    )  # fmt: skip
    good, bad = result.candidates
    assert good.design == {"variation.program_sigma_v": 0.01}
    assert bad.score("mean") > good.score("mean") + 0.3


def test_a_point_is_a_point_of_a_sweep(noise: cosim.Dataset, tmp_path: Path, measured: list[cosim.Config]) -> None:
    bits, supply = {"adc.bits": [4, 6]}, {"corner.supply": [0.9, 1.1]}
    swept = cosim.sweep(make_network(), noise, IDEAL, over={**bits, **supply}, seeds=2, folder=tmp_path)
    assert len(measured) == 8
    result = cosim.search(make_network(), noise, IDEAL, designs=bits, over=supply, seeds=2, folder=tmp_path)
    assert len(measured) == 8, "every point was found"
    by_bits = {candidate.design["adc.bits"]: candidate for candidate in result.candidates}
    assert np.array_equal(by_bits[4].accuracy, swept.accuracy[0].T[: by_bits[4].chips])
    assert np.array_equal(by_bits[6].disagreement, swept.disagreements[1].T[: by_bits[6].chips] / 20)


def test_halves_are_dropped_and_chips_doubled(
    decided: Callable[..., SearchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, float, int]] = []

    def wrong(config: cosim.Config) -> int:
        seen.append((config.adc.bits, config.corner.supply, config.variation.chip))
        return {3: 9, 4: 5, 5: 3, 6: 2, 8: 1}[config.adc.bits]

    result = decided(wrong, designs={"adc.bits": [3, 4, 5, 6, 8]}, over={"corner.supply": [0.9, 1.1]}, seeds=3)
    assert chips_of(result, "adc.bits") == {8: 3, 6: 3, 5: 2, 4: 1, 3: 1}
    assert list(chips_of(result, "adc.bits")) == [8, 6, 5, 4, 3]
    assert len(seen) == len(set(seen)) == 2 * (5 * 1 + 3 * 1 + 2 * 1)
    assert all(chip == 0 for bits, _, chip in seen if bits in (3, 4))
    for chip in range(3):
        assert len({supply for _, supply, number in seen if number == chip}) == 2


def test_it_ends_with_one_design_or_without_chips(decided: Callable[..., SearchResult]) -> None:
    def wrong(config: cosim.Config) -> int:
        return abs(config.adc.bits - 6)

    assert chips_of(decided(wrong, designs={"adc.bits": [5, 6]}, seeds=50), "adc.bits") == {6: 1, 5: 1}
    assert chips_of(decided(wrong, designs=BITS, seeds=1), "adc.bits") == {6: 1, 5: 1, 8: 1, 3: 1}
    assert chips_of(decided(wrong, designs=BITS, seeds=50), "adc.bits") == {6: 2, 5: 2, 8: 1, 3: 1}


def test_later_chips_can_change_the_order(decided: Callable[..., SearchResult]) -> None:
    def wrong(config: cosim.Config) -> int:
        return {8: [1, 9], 6: [2, 3]}.get(config.adc.bits, [10, 0])[config.variation.chip]

    assert list(chips_of(decided(wrong, designs=BITS, seeds=2), "adc.bits"))[:2] == [6, 8]


def test_the_mean_and_the_worst_condition_decide_differently(decided: Callable[..., SearchResult]) -> None:
    def wrong(config: cosim.Config) -> int:
        return {5: {0.9: 0, 1.1: 6}, 6: {0.9: 4, 1.1: 4}}[config.adc.bits][config.corner.supply]

    both = {"designs": {"adc.bits": [5, 6]}, "over": {"corner.supply": [0.9, 1.1]}, "seeds": 1}
    by_mean, by_worst = decided(wrong, **both), decided(wrong, **both, by="worst")
    assert list(chips_of(by_mean, "adc.bits")) == [5, 6]
    assert list(chips_of(by_worst, "adc.bits")) == [6, 5]
    best = by_mean.best
    assert best is not None
    assert (best.score("mean"), best.score("worst")) == (pytest.approx(0.15), pytest.approx(0.3))
    assert by_mean.lost(best) == pytest.approx(np.array([[0, 0.3]]))
    assert by_mean.worst_condition(best) == {"corner.supply": 1.1}


def test_of_equals_the_first_is_ahead(decided: Callable[..., SearchResult]) -> None:
    assert list(chips_of(decided(lambda config: 4, designs=BITS, seeds=4), "adc.bits"))[:2] == [3, 8]


def test_a_design_that_fails_anywhere_is_out(decided: Callable[..., SearchResult]) -> None:
    def wrong(config: cosim.Config) -> int:
        if config.adc.bits == 8 and config.variation.chip == 1:
            raise SimulationError("no convergence\nlog")
        if config.adc.bits == 3 and config.corner.supply == 1.1:
            raise ConfigError("too few bits")
        return 8 - config.adc.bits

    result = decided(wrong, designs=BITS, over={"corner.supply": [0.9, 1.1]}, seeds=4)
    reasons = {candidate.design["adc.bits"]: candidate.reason for candidate in result.candidates}
    assert list(reasons.values()) == ["", "", "too few bits", "no convergence\nlog"]
    assert chips_of(result, "adc.bits") == {6: 2, 5: 1, 3: 0, 8: 1}
    assert result.failed == 2
    shown = search_rows(result)
    assert shown[0][-1] == "failed"
    assert [row[-1] for row in shown[1:]] == ["", "", "too few bits", "no convergence"]
    assert "1 design failed: too few bits" in str(search_table(result).caption)


@pytest.mark.parametrize("failing", [{}, {3: 0}, {3: 0, 5: 1}, {3: 0, 5: 0, 6: 0, 8: 0}, {8: 3}])
def test_the_bar_ends_with_the_search_whatever_fails(
    failing: dict[int, int], decided: Callable[..., SearchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, totals = list[int](), list[int]()

    @contextmanager
    def bar(title: str, total: int) -> Iterator[Callable[..., None]]:
        totals.append(total)
        yield lambda count, note="": steps.append(count)

    def wrong(config: cosim.Config) -> int:
        if failing.get(config.adc.bits) == config.variation.chip and config.corner.supply == 1:
            raise ConfigError("no such circuit")
        return 8 - config.adc.bits

    monkeypatch.setattr("cosim.experiments.search.progress_bar", bar)
    decided(wrong, designs={"adc.bits": [3, 5, 6, 7, 8]}, over={"corner.supply": [0.9, 1, 1.1]}, seeds=8)
    assert totals == [3 * (5 * 1 + 3 * 1 + 2 * 2)]
    assert sum(steps) == totals[0]
    assert min(steps) >= 0


def test_nothing_is_measured_twice(noise: cosim.Dataset, tmp_path: Path, measured: list[cosim.Config]) -> None:
    def search(seeds: int, again: bool = False) -> SearchResult:
        over = {"corner.supply": [0.9, 1.1]}
        return cosim.search(
            make_network(), noise, IDEAL, designs=BITS, over=over, seeds=seeds, folder=tmp_path, again=again
        )

    first = search(seeds=1)
    assert len(measured) == 4 * 2
    assert search_rows(search(seeds=1)) == search_rows(first)
    assert len(measured) == 4 * 2
    (tmp_path / "points" / f"{Bench(make_network(), noise).identity(measured[0])}.json").write_text("damaged")
    search(seeds=1)
    assert measured[8:] == measured[:1]
    search(seeds=2)
    assert [config.variation.chip for config in measured[9:]] == [1] * 4, "two designs at two conditions"
    search(seeds=1, again=True)
    assert measured[13:] == measured[:8]


def test_the_files_of_a_search(decided: Callable[..., SearchResult], tmp_path: Path) -> None:
    def wrong(config: cosim.Config) -> int:
        return {3: 20, 5: 8, 6: 4, 8: 2}[config.adc.bits] if config.corner.supply == 1.1 else 0

    result = decided(wrong, designs={**BITS, "trim.method": ["none"]}, over={"corner.supply": [0.9, 1.1]}, seeds=2)
    assert [path.name for path in write_search(result, tmp_path)] == ["table.md", "search.json", "best.toml"]
    best = cosim.Config.load(tmp_path / "best.toml")
    assert best == cosim.Config().with_values({"adc.bits": 8, "trim.method": "none"})
    head, *rows = search_rows(result)
    assert head[:3] == ["rank", "adc.bits", "chips"], "keys with one value are left out"
    assert [row[:3] for row in rows] == [["1", "8", "2"], ["2", "6", "2"], ["3", "5", "1"], ["4", "3", "1"]]
    assert [row[3] for row in rows] == ["5.00", "10.00", "20.00", "50.00"]
    assert "| 1 | 8 | 2 | 5.00 |" in (tmp_path / "table.md").read_text()
    found = json.loads((tmp_path / "search.json").read_text())
    assert (found["dataset"], found["images"], found["seeds"], found["by"]) == ("noise, training set", 20, 2, "mean")
    assert found["conditions"] == {"corner.supply": [0.9, 1.1]}
    first = found["candidates"][0]
    assert (first["design"], first["chips"], first["failed"]) == ({"adc.bits": 8, "trim.method": "none"}, 2, None)
    assert first["score"] == pytest.approx(0.05)
    assert [point["disagreements"] for point in first["points"]] == [0, 2, 0, 2]
    assert [point["variation.chip"] for point in first["points"]] == [0, 0, 1, 1]


def test_a_design_as_toml_is_that_design(tmp_path: Path) -> None:
    design = {"cell.full_scale_a": 9.2e-6, "trim.method": "none", "adc.bits": 7, "cell.card": 'a "b" \\ ü',
              "run.keep_reads": True}  # fmt: skip
    (tmp_path / "best.toml").write_text(design_toml(design))
    assert cosim.Config.load(tmp_path / "best.toml") == cosim.Config().with_values(design)
    left_out = design_toml({"trim.supply": None, "trim.method": "none"})
    assert "# supply is left out (--set trim.supply=none)" in left_out
    (tmp_path / "best.toml").write_text(left_out)
    assert cosim.Config.load(tmp_path / "best.toml").trim.supply is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"designs": {"adc.bit": [4, 5]}}, r"unknown key adc\.bit: did you mean 'bits'"),
        ({"designs": {"corner.supply": [1, 2]}}, r"corner\.supply: .*less than or equal to 1\.2.*found 2"),
        ({"designs": {"adc.bits": [4]}}, "a search needs two designs at least"),
        ({"designs": {}}, "a search needs two designs at least"),
        ({"designs": {"adc.bits": [4, 4]}}, r"adc\.bits has a value twice"),
        ({"over": {"corner.supply": []}}, r"corner\.supply has no values"),
        ({"over": {"adc.bits": [8]}}, r"adc\.bits is a key of the designs and of the conditions"),
        ({"over": {"variation.chip": [1, 2]}}, r"variation\.chip is what seeds number in a search"),
        ({"designs": {"variation.chip": [1, 2]}}, r"variation\.chip is what seeds number in a search"),
        ({"seeds": 0}, "at least one seed, found 0"),
        ({"by": "best"}, "ranked by 'mean' or 'worst', found 'best'"),
    ],
)
def test_wrong_designs_and_conditions(
    options: dict[str, Any], message: str, digits: tuple[cosim.Network, cosim.Dataset], measured: list[cosim.Config]
) -> None:
    with pytest.raises(ConfigError, match=message):
        cosim.search(*digits, IDEAL, **{"designs": BITS, "seeds": 1, **options})
    assert not measured


def test_test_images_are_refused(digits: tuple[cosim.Network, cosim.Dataset], measured: list[cosim.Config]) -> None:
    network, train = digits
    test = replace(train, split="test")
    with pytest.raises(DatasetError, match="chosen by test images looks better on them than it is"):
        cosim.search(network, test, IDEAL, designs=BITS, seeds=1)
    with pytest.raises(DatasetError, match="chosen by test images looks better on them than it is"):
        plan_search(network, test, IDEAL, designs=BITS, over={}, seeds=1)
    assert not measured


def test_a_plan_has_as_many_points_as_the_search(noise: cosim.Dataset) -> None:
    designs = {"array.open_wordlines": [4, 9, 300], "adc.bits": [4, 5]}
    plans = plan_search(make_network(), noise, IDEAL, designs=designs, over={"corner.supply": [0.9, 1.1]}, seeds=4)
    assert len(plans) == 2 * (4 * 1 + 2 * 1), "no design with 300 of 256 wordlines"
    costly = [plan.config.array.open_wordlines for plan in plans[-4:]]
    assert len(set(costly)) == 1, "the costlier ones stay"
    with pytest.raises(ConfigError, match=r"does not fit array\.wordlines"):
        plan_search(make_network(), noise, IDEAL, designs={"array.wordlines": [7, 8]}, over={}, seeds=4)


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["search", "digits-w4a4", *map(str, arguments)])


COMMON = ("--fidelity", "ideal", "--design", "adc.bits=3,8", "--over", "corner.supply=0.9,1.1", "--seeds", 2)


def test_the_command_writes_a_folder_and_continues_it(tmp_path: Path) -> None:
    out = tmp_path / "found"
    done = command(*COMMON, "--images", 20, "--out", out)
    assert done.exit_code == 0, done.output
    assert "the best one is adc.bits = 8" in done.output
    assert {path.name for path in out.iterdir()} == {"points", "table.md", "search.json", "best.toml", ".cosim-files"}
    assert cosim.Config.load(out / "best.toml").adc.bits == 8
    before = {path: path.stat().st_mtime_ns for path in (out / "points").iterdir()}
    assert len(before) == 4
    assert command(*COMMON, "--images", 20, "--out", out).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "points").iterdir()} == before
    assert command(*COMMON, "--images", 20, "--out", out, "--force").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "points").iterdir()} != before


def test_the_folder_of_a_sweep_is_not_replaced_unasked(tmp_path: Path) -> None:
    out = tmp_path / "swept"
    sweep = ["sweep", "digits-w4a4", "--fidelity", "ideal", "--split", "train", "--images", "20", "--out", str(out)]
    assert CliRunner().invoke(app, [*sweep, "--over", "adc.bits=3,8"]).exit_code == 0
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    refused = command(*COMMON, "--images", 20, "--out", out)
    assert isinstance(refused.exception, CosimError)
    assert "exists and is not empty: choose another folder, or pass --force" in str(refused.exception)
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert command(*COMMON, "--images", 20, "--out", tmp_path / "found").exit_code == 0
    refused = CliRunner().invoke(app, [*sweep[:-1], str(tmp_path / "found"), "--over", "adc.bits=3,8"])
    assert "exists and is not empty" in str(refused.exception)


def test_a_search_without_a_winner_says_why(tmp_path: Path, shared_store: Path) -> None:
    common = ("--seeds", 1, "--images", 5, "--store", shared_store)
    done = command(*common, "--design", "cell.full_scale_a=1e-4,2e-4", "--out", tmp_path / "found")
    assert isinstance(done.exception, SimulationError)
    assert "none of the 2 designs can be built and run" in str(done.exception)
    assert "the card reaches" in str(done.exception)
    assert {path.name for path in (tmp_path / "found").iterdir()} >= {"table.md", "search.json"}
    assert not (tmp_path / "found" / "best.toml").exists()
    refused = command(*common, "--design", "array.wordlines=7,8", "--out", tmp_path / "none")
    assert "does not fit array.wordlines = 8" in str(refused.exception)
    assert not (tmp_path / "none").exists()


def test_a_dry_run_only_plans(tmp_path: Path) -> None:
    done = command(*COMMON, "--images", 20, "--out", tmp_path / "found", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "about what 4 runs with an empty store take" in done.output
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_what_does_not_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosim.evaluate.plan.free_memory", lambda: 1 << 20)
    done = command(*COMMON, "--images", 20, "--out", tmp_path / "found")
    assert isinstance(done.exception, MachineError)
    assert "expected at most the 1 MiB that are free" in str(done.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--over", "corner.process"),
            r"expected section\.key=value,value,\.\.\. after --over, found 'corner\.process'",
        ),
        (("--over", "corner.process="), r"expected section\.key=value,value,\.\.\. after --over"),
        (("--design", "adc.noise_lsb"), r"expected section\.key=value,value,\.\.\. after --design"),
        (("--design", "adc.bits=5"), r"axis adc\.bits is given twice: name all its values after one --design"),
        (("--split", "test"), "chosen by test images looks better on them than it is"),
        (("--over", "adc.bits=5"), "is a key of the designs and of the conditions"),
    ],
)
def test_wrong_input_writes_nothing(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = command(*COMMON, "--images", 20, "--out", tmp_path / "found", *arguments)
    with pytest.raises(CosimError, match=message):
        raise done.exception
    assert not list(tmp_path.iterdir())


def test_seeds_and_images_are_asked_for(tmp_path: Path) -> None:
    for left_out in ("--seeds", "--images"):
        given = [text for name in ("--seeds", "--images") if name != left_out for text in (name, "5")]
        done = command("--design", "adc.bits=4,5", *given, "--out", tmp_path / "found")
        assert done.exit_code == 2
        assert left_out in done.output
