"""One bar for a whole job: what is shown on a terminal, and what is logged where there is none."""

from __future__ import annotations

import io
import re

import pytest
import torch
from rich.console import Console

import cosim
from cosim import progress
from cosim.progress import log, progress_bar
from tests.conftest import make_network, random_images


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until it is set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> io.StringIO:
    """A terminal so wide; what it is written comes back."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=width, height=24, legacy_windows=False)
    monkeypatch.setattr(progress, "_console", console)
    return written


def screen_lines(written: io.StringIO) -> list[str]:
    """Lines without their colours and cursor movements."""
    return [
        line for line in re.split(r"[\n\r]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())) if line.strip()
    ]


def test_a_line_every_ten_seconds_without_a_terminal(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("images", 100) as advance:
        for second in range(1, 26):
            clock[0] = second
            advance(2)
    assert capsys.readouterr().err.splitlines() == [
        "images: 20/100, 2/s, 40 s left",
        "images: 40/100, 2/s, 30 s left",
    ]


def test_quick_jobs_and_those_with_lines_of_their_own_log_none(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("images", 2) as advance:
        advance(1)
    with progress_bar("epochs", 2, lines=False) as advance:
        clock[0] = 60.0
        advance(1)
    assert capsys.readouterr().err == ""


def test_a_line_of_its_own_puts_the_next_off(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("points", 10) as advance:
        clock[0] = 9.0
        log("adc.bits 4: 98 %")
        clock[0] = 12.0
        advance(1)
    assert capsys.readouterr().err == "adc.bits 4: 98 %\n"


def test_bars_inside_are_notes_and_move_the_one_around(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("images", 100) as outer:
        with progress_bar("layers", 4, covers=50) as layer:
            layer(3, note="layer 4 of 4, fc")
            with progress_bar("decks", 10) as inner:
                clock[0] = 10.0
                inner(5)
        clock[0] = 20.0
        outer(50)  # counts what was shown as within
    assert capsys.readouterr().err.splitlines() == [
        "images: 37/100, 3.75/s, 17 s left, layer 4 of 4, fc, decks 5/10 (10 s left)",
        "images: 50/100, 2.5/s, 20 s left",
    ]


def test_bars_of_generators_may_end_late(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    def answers() -> object:
        with progress_bar("answers", 2) as advance:
            advance(1)
            yield 1

    with progress_bar("images", 4) as advance:
        waiting = answers()
        next(waiting)
        advance(1)
    del waiting
    with progress_bar("others", 4) as advance:
        clock[0] = 10.0
        advance(1)
    assert capsys.readouterr().err == "others: 1/4, 0.1/s, 30 s left\n"


def test_an_error_ends_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), progress_bar("images", 4), progress_bar("layers", 2):
            raise KeyboardInterrupt
    assert progress._job is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_shows_one_line_whatever_runs_inside(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written = terminal(monkeypatch, width)
    with progress_bar("images", 10_000) as outer:
        for number in range(3):
            with progress_bar("layers", 4, covers=250) as layer:
                layer(1, note=f"layer {number} of 21, [layer3.0.conv2], 12 M reads/s")
                with progress_bar("decks", 10) as inner:
                    inner(5)
                    assert progress._job is not None
                    progress._job.shown.refresh()
            outer(250)
    lines = screen_lines(written)
    assert lines
    assert all(len(line) <= width - 4 and line.startswith("images") for line in lines)
    assert any("layer 0 of 21" in line for line in lines) or width == 60
    assert written.getvalue().rstrip().endswith("\x1b[2K")  # and leaves nothing behind


def test_a_run_is_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    written = terminal(monkeypatch, 100)
    seen: list[list[str]] = []
    refresh = progress._Job.refresh

    def watched(job: progress._Job) -> None:
        refresh(job)
        seen.append([bar.in_words() for bar in job.bars])

    monkeypatch.setattr(progress._Job, "refresh", watched)
    circuit = cosim.CircuitNetwork(make_network(), cosim.Config.load(None, ["run.fidelity=ideal", "run.layers=all"]))
    cosim.compare(circuit, random_images(6), torch.zeros(6, dtype=torch.int64))
    assert {bars[0].split(" ")[0] for bars in seen} <= {"programming", "images"}
    notes = [bars[1] for bars in seen if len(bars) > 1]
    assert any(note.startswith("layer 1 of 3, conv1") for note in notes)
    assert any(re.fullmatch(r"layer 3 of 3, linear3, [0-9.e-]+ M reads/s", note) for note in notes)
    images = [bars[0] for bars in seen if bars[0].startswith("images")]
    assert images == sorted(images), "the bar never goes back"
    assert all(line.startswith(("images", "programming")) for line in screen_lines(written))
