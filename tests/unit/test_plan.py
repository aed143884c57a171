"""Plans: what they count is what runs count, and what does not fit is refused with what would."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cosim
from cosim.cli import app
from cosim.errors import ConfigError, MachineError
from cosim.evaluate.plan import free_memory, plan_run, size_in_words
from cosim.experiments.points import combinations, plan_points
from cosim.network import Network, SoftwareStep, save_network
from cosim.report.plan_table import plan_estimates
from tests.conftest import make_layer, make_network, random_images


def wide_network(outputs: int = 64) -> Network:
    layer = make_layer(name="wide", outputs=outputs, inputs=1, kernel=(3, 3), padding=(1, 1))
    return Network("wide", (1, 4, 4), [layer, SoftwareStep("flatten")])


def deep_network() -> Network:
    first = make_layer(name="first", outputs=8, inputs=3, padding=(1, 1))
    second = make_layer(name="second", outputs=16, inputs=8, seed=1)
    return Network("deep", (3, 6, 6), [first, SoftwareStep("relu"), second, SoftwareStep("flatten")])


@pytest.mark.parametrize(
    "settings", [["run.layers=all"], ["read.mode=pulse-width"], ["array.encoding=differential", "array.wordlines=18"]]
)
def test_a_plan_counts_what_a_run_counts(settings: list[str]) -> None:
    network, images = make_network(), random_images(6)
    config = cosim.Config.load(None, ["run.fidelity=ideal", "array.bitlines=6", *settings])
    plan, circuit = plan_run(network, config, len(images)), cosim.CircuitNetwork(network, config)
    circuit(images)
    assert [layer.name for layer in plan.layers] == list(circuit.arrays)
    for layer, array in zip(plan.layers, circuit.arrays.values(), strict=True):
        assert layer.reads_an_image * len(images) == array.reads
        assert (layer.tiles, layer.groups) == (array.plan.tiles, len(array.plan.groups))
        assert 0 < layer.cells_used <= layer.cells_there
        known = sum(int((array.table.reads(index).uses > 0).sum()) for index in range(layer.groups))
        assert known <= layer.patterns
        assert not layer.grows


def test_decks_are_as_many_as_planned(shared_store: Path, tmp_path: Path) -> None:
    network, config = make_network(), cosim.Config.load(None, ["array.open_wordlines=4", "run.patterns_per_deck=8"])
    circuit = cosim.CircuitNetwork(network, config, store=shared_store)
    decks = json.loads(circuit.write_netlists(tmp_path / "decks").read_text())["decks"]
    assert sum(layer.decks for layer in plan_run(network, config, 100).layers) == len(decks)


def test_estimates_rise_with_fidelity_images_and_fall_with_cores() -> None:
    network, config = make_network(), cosim.Config.load(None, ["run.certificate_reads=0"])
    plan = plan_run(network, config, 10, cores=1)
    seconds = [plan.estimate(fidelity).seconds for fidelity in ("ideal", "solved", "dc", "tran")]
    assert seconds == sorted(seconds)
    assert plan_run(network, config, 10_000, cores=1).estimate("ideal").seconds > seconds[0]
    assert plan_run(network, config, 10, cores=4).estimate("tran").seconds < seconds[3]
    certified = plan_run(network, cosim.Config(), 10, cores=1)
    assert certified.estimate("solved").seconds > seconds[1]
    assert plan.estimate("solved").disk_bytes == 0 < plan.estimate("dc").disk_bytes


def test_a_tile_wasted_on_one_output_is_told() -> None:
    (hint,) = plan_run(wide_network(), cosim.Config(), 1).hints
    assert "Outputs of wide lie on one more tile" in hint
    assert "array.bitlines=65 (of 64 bitlines one is the reference column)" in hint
    wider = plan_run(wide_network(), cosim.Config.load(None, ["array.bitlines=65"]), 1)
    assert (wider.hints, wider.layers[0].tiles) == ((), 1)
    assert plan_run(wide_network(63), cosim.Config(), 1).hints == ()
    assert plan_run(wide_network(100), cosim.Config(), 1).hints == ()  # 101 bitlines are another tile


def test_long_runs_are_told_of_what_is_quicker() -> None:
    plan = plan_run(wide_network(), cosim.Config.load(None, ["array.bitlines=65"]), 1)
    slow = replace(plan, layers=(replace(plan.layers[0], cell_reads=10**9),))
    assert "With run.fidelity=solved it takes about 1/" in slow.hints[0]


def test_what_does_not_fit_the_memory_is_refused_with_what_would() -> None:
    config = cosim.Config.load(None, ["array.open_wordlines=12"])
    network = deep_network()
    plan = plan_run(network, config, 10)
    plan.check_memory(plan.memory_bytes)
    plan.check_memory()
    with pytest.raises(MachineError) as refused:
        plan.check_memory(plan.memory_bytes - 1)
    message = str(refused.value)
    assert f"would take {size_in_words(plan.memory_bytes)} of memory" in message
    fewer = int(message.split("set array.open_wordlines=")[1].split(" ")[0])
    plan_run(network, config.with_values({"array.open_wordlines": fewer}), 10).check_memory(plan.memory_bytes - 1)
    layers = message.split("set run.layers=")[1]
    plan_run(network, config.with_values({"run.layers": layers}), 10).check_memory(plan.memory_bytes - 1)
    with pytest.raises(MachineError, match="take a machine with more memory"):
        plan.check_memory(1)


def test_tables_that_grow_with_images_are_told_and_not_counted() -> None:
    network = deep_network()
    plan = plan_run(network, cosim.Config.load(None, ["array.open_wordlines=27"]), 10**6)
    assert [layer.grows for layer in plan.layers] == [True] * len(plan.layers)
    assert "have more than 12 inputs" in plan.hints[0]
    plan.check_memory(plan.memory_bytes // 2)


def test_some_memory_is_free() -> None:
    assert 1 << 20 < free_memory() < 1 << 50


def test_points_of_a_sweep_on_like_arrays_share_a_plan() -> None:
    over = {"adc.bits": [4, 5], "array.open_wordlines": [4, 9, 300], "variation.chip": [0, 1, 2]}
    plans = plan_points(make_network(), cosim.Config(), combinations(over), 10)
    assert (len(plans), len({id(plan) for plan in plans})) == (12, 2)  # none with 300 of 256 wordlines
    with pytest.raises(ConfigError, match=r"does not fit array\.wordlines"):
        plan_points(make_network(), cosim.Config(), [{"array.open_wordlines": 300}], 10)
    assert "12 runs" in str(plan_estimates(plans).title)


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    return done.output


def test_info_needs_no_data_set_and_no_simulator(tmp_path: Path) -> None:
    save_network(wide_network(), tmp_path / "wide.safetensors")
    shown = run(
        "info", tmp_path / "wide.safetensors", "--images", 7, "--set", "run.ngspice=none", "--json", tmp_path / "p.json"
    )
    assert "wide on 7 images" in shown
    assert "tran (chosen)" in shown
    assert "hint  Outputs of wide" in shown
    figures = json.loads((tmp_path / "p.json").read_text())
    assert (figures["network"], figures["images"], figures["fidelity"]) == ("wide", 7, "tran")
    assert figures["layers"][0]["tiles"] == 2
    assert set(figures["estimates"]) == {"ideal", "solved", "dc", "tran"}
    page = (Path(__file__).parents[2] / "docs" / "howto" / "plan.md").read_text()
    assert all(f"`{key}`" in page for key in [*figures, *figures["layers"][0], *figures["estimates"]["dc"]])


def test_dry_runs_do_nothing_else(tmp_path: Path) -> None:
    common = ("digits-w4a4", "--images", 20, "--store", tmp_path / "store", "--dry-run")
    shown = run("infer", *common, "--out", tmp_path / "run.h5", "--json", tmp_path / "plan.json")
    assert "digits-w4a4 on 20 images" in shown
    assert json.loads((tmp_path / "plan.json").read_text())["images"] == 20
    shown = run("sweep", *common, "--over", "adc.bits=4,5", "--seeds", 5, "--out", tmp_path / "swept")
    assert "about what 10 runs with an empty store take" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_commands_refuse_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosim.evaluate.plan.free_memory", lambda: 1 << 20)
    common = ("digits-w4a4", "--images", "5", "--store", str(tmp_path / "store"))
    for command in (
        ["infer", *common],
        ["sweep", *common, "--over", "adc.bits=4", "--out", str(tmp_path / "swept")],
        ["attribute", *common],
    ):
        done = CliRunner().invoke(app, command)
        assert isinstance(done.exception, MachineError)
        assert "expected at most the 1 MiB that are free" in str(done.exception)
    assert not list(tmp_path.iterdir())
