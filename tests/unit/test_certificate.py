"""Certificates: a right solver passes, wrong ones are refused, and what a certificate says is said everywhere."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import cosim
from cosim.currents import GroupCurrents, ProgrammedCell, ReadRequest, SolvedSource, make_source
from cosim.errors import SimulationError
from cosim.evaluate import RunRecord, compare_record
from cosim.evaluate.certificate import largest_share
from cosim.report import find_cautions, summary_table
from cosim.report.page import render_page
from cosim.spice import Simulator
from tests.conftest import make_network, random_images

SOLVED = ["run.fidelity=solved", "run.certificate_reads=60", "array.open_wordlines=4", "array.bitline_res_ohm=5",
          "trim.method=none"]  # fmt: skip


@pytest.fixture(scope="module")
def dataset() -> cosim.Dataset:
    return cosim.Dataset("noise", random_images(12), 1, torch.zeros(12, dtype=torch.int64), digest="none")


def run(dataset: cosim.Dataset, store: Path, *settings: str) -> RunRecord:
    circuit = cosim.CircuitNetwork(make_network(), cosim.Config.load(None, [*SOLVED, *settings]), store=store)
    return cosim.infer(circuit, dataset)


@pytest.fixture(scope="module")
def record(dataset: cosim.Dataset, shared_store: Path) -> RunRecord:
    return run(dataset, shared_store)


def test_a_right_solver_is_certified(record: RunRecord) -> None:
    found = record.certificate
    assert found is not None
    assert found.reads == 60
    assert found.rms_error_lsb <= found.max_error_lsb < 0.01
    assert found.adverse_reads >= 2 * 6, "two layers"
    assert found.adverse_max_error_lsb < 0.01
    assert found.layer in ("conv1", "conv2")
    assert re.fullmatch("[01]{1,4}", found.read)
    assert record.audit is None


def test_the_certificate_is_drawn_by_the_seed(record: RunRecord, dataset: cosim.Dataset, shared_store: Path) -> None:
    again = run(dataset, shared_store)
    assert again.certificate == record.certificate
    assert again.provenance.usage is not None
    assert again.provenance.usage.patterns_simulated == 0
    other = run(dataset, shared_store, "run.seed=1").certificate
    assert other is not None
    assert other.rms_error_lsb != record.certificate.rms_error_lsb  # type: ignore[union-attr]


class Doubled(SolvedSource):
    """A solver whose bitlines have twice the resistance."""

    def __init__(self, config: cosim.Config, cell: ProgrammedCell, simulator: Simulator) -> None:
        super().__init__(
            config.with_values({"array.bitline_res_ohm": 2 * config.array.bitline_res_ohm}), cell, simulator
        )
        self.config = config


class Reversed(SolvedSource):
    """A solver that takes the first input for the last."""

    def currents(self, requests: Sequence[ReadRequest], title: str) -> Iterator[GroupCurrents]:
        turned = [replace(request, drive=request.drive[:, ::-1].copy()) for request in requests]
        return super().currents(turned, title)


@pytest.mark.parametrize("wrong", [Doubled, Reversed])
def test_a_wrong_solver_is_refused(
    wrong: Callable[..., SolvedSource], dataset: cosim.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_wrong(config: cosim.Config, store: Path) -> SolvedSource:
        right = make_source(config, store)
        assert isinstance(right, SolvedSource)
        assert right.cell is not None
        return wrong(config, right.cell, right.simulator)

    monkeypatch.setattr("cosim.evaluate.circuit.make_source", make_wrong)
    place = r"layer conv\d, group \d, read [01]+ is off by [\d.]+ LSB .* run.certificate_lsb = 0.05"
    with pytest.raises(SimulationError, match=place) as refused:
        run(dataset, tmp_path / "store")
    (folder,) = (tmp_path / "store" / "failures").iterdir()
    assert f"cd {folder} && ngspice -n -b deck.cir" in str(refused.value)
    assert (folder / "deck.cir").is_file()
    assert "source [LSB]" in (folder / "log.txt").read_text()


def test_the_share_is_what_so_many_draws_cannot_rule_out() -> None:
    assert largest_share(3000) == pytest.approx(0.0023, abs=1e-5)
    for reads in (1, 10, 1000):
        assert (1 - largest_share(reads)) ** reads == pytest.approx(0.001)


@pytest.mark.parametrize("mode", ["pulse-width", "amplitude"])
def test_the_reads_that_conversions_are_made_of_are_certified(
    mode: str, dataset: cosim.Dataset, shared_store: Path
) -> None:
    settings = [f"read.mode={mode}", "run.layers=conv1", "array.source_line_wordlines=1"]
    found = run(dataset, shared_store, *settings).certificate
    assert found is not None
    assert found.reads == 60
    assert max(found.max_error_lsb, found.adverse_max_error_lsb) < 0.05


def test_a_certificate_that_is_switched_off_is_told(dataset: cosim.Dataset, shared_store: Path) -> None:
    found = run(dataset, shared_store, "run.certificate_reads=0")
    assert found.certificate is None
    (caution,) = find_cautions(compare_record(found))
    assert "not certified" in caution
    assert "not certified" in render_page(found)


def test_what_is_certified_is_said_everywhere(record: RunRecord, tmp_path: Path) -> None:
    record.save(tmp_path / "run.h5")
    again = RunRecord.load(tmp_path / "run.h5")
    assert again.certificate == record.certificate
    comparison, found = compare_record(again), record.certificate
    assert found is not None
    figures = comparison.to_json()
    assert figures["certificate_reads"] == 60
    assert figures["certificate_max_error_lsb"] == found.max_error_lsb
    assert figures["certificate_codes_differing"] == found.codes_differing
    assert figures["certificate_share"] == found.share
    assert figures["audit_max_error_lsb"] is None
    assert find_cautions(comparison) == []
    console = Console(file=io.StringIO(), width=120)
    console.print(summary_table(comparison))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "certificate, largest error" in text
    assert "at most 10.87 % of reads" in text
    assert "60 reads drawn" in render_page(again)


def test_simulated_results_have_no_certificate(dataset: cosim.Dataset, shared_store: Path) -> None:
    comparison = compare_record(run(dataset, shared_store, "run.fidelity=dc"))
    assert comparison.certificate is None
    assert comparison.to_json()["certificate_share"] is None
    assert comparison.audit_max_error_lsb is not None


def test_ideal_circuits_and_unread_ones_have_none(dataset: cosim.Dataset, shared_store: Path) -> None:
    assert cosim.CircuitNetwork(make_network(), cosim.Config.load(None, ["run.fidelity=ideal"])).certify() is None
    circuit = cosim.CircuitNetwork(make_network(), cosim.Config.load(None, SOLVED), store=shared_store)
    assert circuit.certify() is None


def test_points_of_a_sweep_are_certified(dataset: cosim.Dataset, shared_store: Path, tmp_path: Path) -> None:
    base = cosim.Config.load(None, SOLVED)
    swept = cosim.sweep(
        make_network(), dataset, base, over={"run.certificate_lsb": [0.05, 1e-9]}, folder=tmp_path, store=shared_store
    )
    assert swept.certificate_reads[0] == 60
    assert 0 < swept.certificate_max_error_lsb[0] < 0.01
    assert "certificate refuses" in swept.reasons[1]
    assert np.isnan(swept.certificate_max_error_lsb[1])
