"""Sweeps over grids of configurations: points, resuming, failures, files, and what the command says."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cosim
from cosim.cli import main
from cosim.errors import ConfigError, DatasetError, InputError
from cosim.evaluate.provenance import Provenance
from cosim.experiments.bench import DECIDING, Bench, Outcome
from cosim.experiments.sweep_result import SweepResult
from cosim.files import source_digest
from cosim.report.sweep_plots import write_sweep_plots
from cosim.report.sweep_tables import sweep_rows, write_sweep_table
from tests.conftest import make_network

DC = cosim.Config.load(None, ["run.fidelity=dc", "run.workers=2", "array.open_wordlines=4"])
OVER = {"corner.temperature_c": [27, "85"], "corner.process": ["tt", "ss"]}


@pytest.fixture(scope="module")
def digits() -> tuple[cosim.Network, cosim.Dataset]:
    return cosim.load_network("digits-w4a4"), cosim.load_dataset("digits").head(12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def swept(digits: tuple[cosim.Network, cosim.Dataset], shared_store: Path, folder: Path) -> SweepResult:
    return cosim.sweep(*digits, DC, over=OVER, folder=folder, store=shared_store)


def test_a_point_is_a_run_of_its_configuration(
    swept: SweepResult, digits: tuple[cosim.Network, cosim.Dataset], shared_store: Path
) -> None:
    config = DC.with_values({"corner.temperature_c": 85.0, "corner.process": "ss"})
    record = cosim.infer(cosim.CircuitNetwork(digits[0], config, store=shared_store), digits[1])
    decided = record.logits_circuit.argmax(1)
    assert swept.axes == {"corner.temperature_c": (27.0, 85.0), "corner.process": ("tt", "ss")}
    assert np.array_equal(swept.right[1, 1], decided == record.labels)
    assert np.array_equal(swept.agreeing[1, 1], decided == record.logits_software.argmax(1))
    assert np.array_equal(swept.software_right, record.logits_software.argmax(1) == record.labels)


def test_code_errors_are_those_of_every_read(
    swept: SweepResult, digits: tuple[cosim.Network, cosim.Dataset], shared_store: Path
) -> None:
    config = DC.with_values({"corner.temperature_c": 85.0, "corner.process": "ss", "run.keep_reads": True})
    record = cosim.infer(cosim.CircuitNetwork(digits[0], config, store=shared_store), digits[1])
    groups = [group for layer in record.layers for group in layer.kept or ()]
    every = np.concatenate([np.repeat(g.codes - np.rint(g.ideal), g.uses, axis=0).ravel() for g in groups])
    assert swept.code_error_rms[1, 1] == pytest.approx(np.sqrt((every.astype(float) ** 2).mean()))
    assert swept.code_error_max[1, 1] == np.abs(every).max() > 0


def test_points_with_an_outcome_are_not_run_again(
    swept: SweepResult, digits: tuple[cosim.Network, cosim.Dataset], folder: Path, measured: list[cosim.Config]
) -> None:
    kept = sorted((folder / "points").iterdir())
    assert len(kept) == 4
    kept[0].write_text("damaged")
    kept[1].unlink()
    again = cosim.sweep(*digits, DC, over=OVER, folder=folder, store=folder / "store")
    assert len(measured) == 2
    assert np.array_equal(again.right, swept.right)
    assert np.array_equal(again.code_error_rms, swept.code_error_rms)


def test_a_point_with_a_changed_figure_is_not_believed(swept: SweepResult, folder: Path) -> None:
    text = min((folder / "points").iterdir()).read_text()
    whole = Outcome.from_json(text, 12)
    changed = text.replace(f'"code_error_rms": {whole.code_error_rms}', '"code_error_rms": 0.5')
    assert changed != text
    for damaged in (changed, text[:-9], "[" * 100_000, "[]", "5", ""):
        with pytest.raises(ValueError, match=r"."):
            Outcome.from_json(damaged, 12)


def test_points_that_cannot_be_read_end_the_sweep(
    swept: SweepResult, digits: tuple[cosim.Network, cosim.Dataset], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "points").mkdir()
    for path in (folder / "points").iterdir():
        os.mkfifo(tmp_path / "points" / path.name)
    with pytest.raises(InputError, match=r"json is a pipe, expected a regular file: remove it"):
        cosim.sweep(*digits, DC, over=OVER, folder=tmp_path, store=folder / "store")


def test_an_identity_is_of_what_changes_the_outcome(digits: tuple[cosim.Network, cosim.Dataset]) -> None:
    network, dataset = digits
    bench = Bench(network, dataset)
    assert bench.identity(DC) == bench.identity(DC.with_values({"run.workers": 1, "run.timeout_s": 5.0}))
    others = [
        bench.identity(DC.with_values({"corner.supply": 0.9})),
        bench.identity(DC.with_values({"variation.chip": 1})),
        Bench(network, dataset.head(11)).identity(DC),
        Bench(cosim.load_network("digits-w4a4"), cosim.load_dataset("digits").head(12)).identity(DC),
    ]
    assert others[-1] == bench.identity(DC)
    assert len({*others, bench.identity(DC)}) == 4


def test_a_stored_point_is_of_the_code_that_gave_it(
    digits: tuple[cosim.Network, cosim.Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change in read-out code asks for other points; one in reports does not."""
    package = Path(cosim.__file__).parent
    digests = {"as it is": source_digest(DECIDING)}
    for changed in ("readout/adc.py", "config/relations.py", "training/recipes/recipe.py", "report/page.py"):
        copy = tmp_path / changed.replace("/", "-")
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
        with (copy / changed).open("a") as file:
            file.write("# changed\n")
        digests[changed] = source_digest(DECIDING, copy)
    assert digests["training/recipes/recipe.py"] == digests["report/page.py"] == digests["as it is"]
    assert len(set(digests.values())) == 3
    bench = Bench(*digits)
    before = bench.identity(DC)
    monkeypatch.setattr("cosim.experiments.bench.source_digest", lambda parts: digests["readout/adc.py"])
    assert bench.identity(DC) != before


def test_a_failed_point_is_a_result_and_the_others_go_on(
    digits: tuple[cosim.Network, cosim.Dataset], tmp_path: Path
) -> None:
    ideal = cosim.Config.load(None, ["run.fidelity=ideal"])
    over = {"array.wordlines": [8, 256], "variation.chip": [0, 1]}
    result = cosim.sweep(*digits, ideal, over=over, folder=tmp_path)
    assert result.failed == 2
    assert "does not fit array.wordlines = 8" in result.reasons[0, 0]
    assert np.isnan(result.accuracy[0]).all()
    assert (result.accuracy[1] == result.software.share).all()
    assert len(list((tmp_path / "points").iterdir())) == 2, "a failure is tried again"
    result.save(tmp_path / "sweep.h5")
    loaded = SweepResult.load(tmp_path / "sweep.h5")
    assert loaded.reasons.tolist() == result.reasons.tolist()
    assert sweep_rows(loaded) == sweep_rows(result)
    assert "2 of 4 points failed" in write_sweep_table(result, tmp_path / "table.md").read_text()


def made(right: np.ndarray, axes: dict[str, tuple[object, ...]]) -> SweepResult:
    """A result with these decisions and nothing else to it."""
    shape = right.shape[:-1]
    numbers = {name: np.zeros(shape) for name in ("code_error_rms", "code_error_max", "clipped_share",
                                                  "unsettled_lsb", "certificate_reads", "certificate_max_error_lsb",
                                                  "seconds", "ngspice_seconds")}  # fmt: skip
    images = cosim.Dataset("none", torch.zeros(0), 1, torch.zeros(0), digest="")
    return SweepResult(
        provenance=Provenance.of(make_network(name="made"), images, cosim.Config(), "ideal"), axes=axes,
        software_right=np.ones(right.shape[-1], bool), right=right, agreeing=right,
        reasons=np.full(shape, "", object), **numbers,
    )  # fmt: skip


def test_intervals_are_across_chips_where_there_are_several() -> None:
    right = np.zeros((2, 3, 100), bool)
    for chip, count in enumerate((90, 92, 97)):
        right[:, chip, :count] = True
    right[1, 0] = False
    result = made(right, {"adc.bits": (8, 6), "variation.chip": (0, 1, 2)})
    first, second = result.along(0)
    assert first is not None
    assert second is not None
    half = 4.302653 * np.std([0.90, 0.92, 0.97], ddof=1) / np.sqrt(3)  # Student's t of 2 degrees of freedom
    assert (first.mean, first.worst) == (pytest.approx(0.93), 0.90)
    assert first.low == pytest.approx(0.93 - half, abs=1e-6)
    assert first.high == pytest.approx(min(1, 0.93 + half), abs=1e-6)
    assert second.worst == 0
    assert result.worst == (1, 0)
    images = made(right[:1, 0], {"adc.bits": (8,)}).along(0)[0]
    assert images is not None
    assert (images.low, images.high) == pytest.approx((0.8256, 0.9448), abs=1e-4), "Wilson, 90 of 100"


def test_plots_are_one_an_axis_and_the_chips(tmp_path: Path) -> None:
    right = np.random.default_rng(0).random((3, 2, 4, 50)) < 0.9
    axes = {"corner.supply": (0.9, 1.0, 1.1), "corner.process": ("tt", "ff"), "variation.chip": (0, 1, 2, 3)}
    paths = write_sweep_plots(made(right, axes), tmp_path)
    assert [path.name for path in paths] == ["corner.supply.png", "corner.process.png", "chips.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


@pytest.mark.parametrize(
    ("over", "seeds", "message"),
    [
        ({"corner.temperatur_c": [27]}, None, r"unknown key corner\.temperatur_c: did you mean 'temperature_c'"),
        ({"cornr.supply": [1]}, None, r"unknown section 'cornr': did you mean 'corner'"),
        ({"supply": [1]}, None, r"expected section\.key, found 'supply'"),
        ({"corner.process": ["tt", "fast"]}, None, r"corner\.process: Input should be 'tt', .* found 'fast'"),
        ({"corner.supply": [2]}, None, r"corner\.supply: .*less than or equal to 1\.2.*found 2"),
        ({"corner.supply": [1, 1.0]}, None, r"corner\.supply has a value twice"),
        ({"corner.supply": []}, None, r"corner\.supply has no values"),
        ({}, None, "a sweep needs an axis"),
        ({"variation.chip": [1]}, 3, r"variation\.chip is an axis already"),
        ({}, 0, "at least one seed, found 0"),
    ],
)
def test_wrong_axes(
    over: dict[str, list[object]], seeds: int | None, message: str, digits: tuple[cosim.Network, cosim.Dataset]
) -> None:
    with pytest.raises(ConfigError, match=message):
        cosim.sweep(*digits, over=over, seeds=seeds)


def test_no_images(digits: tuple[cosim.Network, cosim.Dataset]) -> None:
    network, dataset = digits
    nothing = cosim.Dataset("none", dataset.images[:0], 16, torch.zeros(0, dtype=torch.int64), "")
    with pytest.raises(DatasetError, match="at least one image, found none"):
        cosim.sweep(network, nothing, over={"corner.supply": [1]})


def test_files_that_are_no_sweeps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sweep at"):
        SweepResult.load(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(InputError, match="no sweep as cosim wrote it"):
        SweepResult.load(tmp_path / "text.h5")


def run(arguments: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """The command's exit status."""
    monkeypatch.setattr(sys, "argv", ["cosim", *arguments.split()])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_the_command_writes_a_folder_and_counts_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = "sweep digits-w4a4 --images 10 --set run.fidelity=ideal --over array.wordlines=8,256 --over adc.bits=4,lossless --out swept"  # noqa: E501
    assert run(arguments, monkeypatch) == 3
    assert "2 of 4 points failed" in capsys.readouterr().err
    assert {"points", "sweep.h5", "table.md", "adc.bits.png"} <= {path.name for path in (tmp_path / "swept").iterdir()}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "swept" / "points").iterdir()}
    assert run(arguments, monkeypatch) == 3
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "swept" / "points").iterdir()} == before
    assert run(f"{arguments} --force", monkeypatch) == 3
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "swept" / "points").iterdir()} != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--over corner.process", "expected section.key=value,value,... after --over"),
        ("--over corner.supply=1 --over corner.supply=0.9", "axis corner.supply is given twice"),
        ("--over corner.supply=1,x", "corner.supply: Input should be a valid number"),
        ("--over adc.bit=4", "unknown key adc.bit: did you mean 'bits'?"),
        ("--seeds 2 --images 0", "ask for 1 to 449, not 0"),
    ],
)
def test_wrong_input_writes_nothing(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"sweep digits-w4a4 {arguments} --out {tmp_path}/swept", monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "swept").exists()


def test_effects_alone_and_added_up(
    digits: tuple[cosim.Network, cosim.Dataset], shared_store: Path, tmp_path: Path
) -> None:
    from cosim.experiments.attribution import EFFECTS
    from cosim.report.attribution_report import attribution_table, write_attribution

    config = DC.with_values(
        {"adc.bits": 4, "corner.temperature_c": 85.0, "adc.noise_lsb": 0.5, "sense.stage": "resistive"}
    )
    found = cosim.attribute(*digits, config, store=shared_store)
    by_name = {each.name: each for each in found.contributions}
    assert [each.name for each in found.contributions] == [effect.name for effect in EFFECTS]
    present = [name for name, each in by_name.items() if each.keys]
    assert present == ["rescaling", "cells", "wires", "sense stage", "converter", "noise", "corner", "trimming"]
    assert by_name["drift"].alone is by_name["drift"].cumulative is None
    assert found.ideal.accuracy == found.accuracy_software.share
    assert found.ideal.disagreements == 0
    assert found.ideal.code_error_max == 0
    cells, converter, full = by_name["cells"].alone, by_name["converter"].alone, by_name["trimming"].cumulative
    assert cells is not None
    assert converter is not None
    assert full is not None
    assert cells.code_error_max == 0, "programmed to current"
    assert 0 < converter.code_error_max <= 3, "15 codes for 92 units: 6 units a code"
    whole = Bench(*digits, shared_store).measure(config)
    assert np.array_equal(full.right, whole.right), "the last circuit is the configured one"
    assert full.code_error_rms == whole.code_error_rms > converter.code_error_rms
    paths = write_attribution(found, tmp_path)
    written = json.loads(paths[0].read_text())
    assert written["effects"][5]["keys"] == {"adc.bits": 4}
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    assert attribution_table(found).row_count == 3 + len(EFFECTS)


def test_every_key_that_makes_a_circuit_worse_is_of_one_effect() -> None:
    from cosim.experiments.attribution import EFFECTS

    keys = [key for effect in EFFECTS for key in effect.ideal]
    assert len(keys) == len(set(keys))
    ideal = cosim.Config().with_values({key: value for effect in EFFECTS for key, value in effect.ideal.items()})
    assert ideal.run.fidelity == "ideal"
    for name in (
        *cosim.Config().array.model_dump(),
        *cosim.Config().variation.model_dump(),
        *cosim.Config().adc.model_dump(),
    ):
        if name.endswith(("_ohm", "_f", "_sigma", "_sigma_v", "_sigma_a", "_sigma_rel", "_error", "_lsb")):
            assert any(key.endswith(f".{name}") for key in keys), f"{name} is of no effect in attribution.py"
