"""Shows the progress of long jobs: one bar on the terminal, with rate and time left, or lines of a log without one.

The first `progress_bar` that is opened owns the terminal. Bars that are opened while it runs become a part of its note,
so that each stretch of work can report its progress without knowing about the others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

# Seconds between lines of a log if there is no terminal.
_LINE_S = 10.0
# A time shorter than this is not told in a note.
_SOON_S = 3.0
# Width of the bar by that of the terminal: what is left is for the note.
_BAR_WIDTHS = ((100, 24), (70, 12), (0, 6))
_console = Console(stderr=True)
_quiet = False


def _rate(steps: float) -> str:
    """Steps a second: 0.123/s, 12.3/s, 1,234/s."""
    return f"{steps:,.0f}/s" if steps >= 100 else f"{steps:.3g}/s"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_rate(speed) if speed else "", style="cyan")


class _Line(Progress):
    """A bar on one line, with room after it for the ^C that a terminal echoes.

    Without this room, ^C would begin another line, and the bar could not be erased.
    """

    def get_renderables(self) -> Iterator[RenderableType]:
        yield Constrain(self.make_tasks_table(self.tasks), _console.width - len("^C^C"))


@dataclass
class _Bar:
    """A part of the work: its steps, a note, and the number of steps of the enclosing bar that it stands for."""

    description: str
    total: int
    covers: float
    done: float = 0.0
    within: float = 0.0  # steps done by enclosed bars, until the bar itself advances
    note: str = ""

    @property
    def completed(self) -> float:
        return min(self.done + self.within, self.total)

    def __post_init__(self) -> None:
        self.started = time.monotonic()

    def in_words(self) -> str:
        """The bar as a note: its own note, or its progress and, if it can be estimated, the time left."""
        seconds = time.monotonic() - self.started
        left = seconds * (self.total / self.completed - 1) if self.completed else 0.0
        wait = f" ({left:,.0f} s left)" if min(seconds, left) >= _SOON_S else ""
        return self.note or f"{self.description} {int(self.completed):,}/{self.total:,}{wait}"


@dataclass
class _Job:
    """The open bars, the outermost first, and where they are shown."""

    bars: list[_Bar]
    shown: Progress
    lines: bool

    def __post_init__(self) -> None:
        self.told = time.monotonic()

    def refresh(self) -> None:
        for outer, inner in reversed(list(zip(self.bars, self.bars[1:], strict=False))):
            if inner.covers and inner.total:
                outer.within = inner.covers * inner.completed / inner.total
        outermost = self.bars[0]
        notes = [outermost.note, *(bar.in_words() for bar in self.bars[1:])]
        note = ", ".join(filter(None, notes))
        for task in self.shown.task_ids:
            self.shown.update(task, completed=outermost.completed, note=escape(note))
        now = time.monotonic()
        if self.lines and now - self.told >= _LINE_S:
            log(_line(outermost, now - outermost.started, note))

    def close(self, bar: _Bar) -> None:
        """Bars may end in any order: those of generators end when nobody asks them any more."""
        if bar in self.bars[1:]:
            self.bars.remove(bar)
            self.refresh()


_job: _Job | None = None


def quiet() -> None:
    """Show nothing from here on. This is for worker processes, whose parent shows the progress of the whole job."""
    global _quiet
    _quiet = True


def log(line: str) -> None:
    """Print a line of a log to standard error, unless a bar is shown."""
    if not _console.is_terminal and not _quiet:
        print(line, file=sys.stderr, flush=True)
        if _job is not None:
            _job.told = time.monotonic()


@contextmanager
def progress_bar(
    description: str, total: int, *, covers: float = 0.0, lines: bool = True
) -> Iterator[Callable[..., None]]:
    """Show how a block goes on while it runs; call the yielded function as `advance(n, note=...)`.

    Args:
        description, total: what is done, and how many steps of it.
        covers: steps of the bar around this one that its block is worth: that bar moves on with it, until its own
            `advance` counts them.
        lines: whether lines are logged where there is no terminal; for what logs its own.
    """
    global _job
    bar, outer = _Bar(description, total, covers), _job
    if outer is not None:
        outer.bars.append(bar)
        try:
            yield _advancing(outer, bar)
        finally:
            outer.close(bar)
        return
    with _display() as shown:
        shown.add_task(escape(description), total=total, note="")
        _job = _Job([bar], shown, lines)
        try:
            yield _advancing(_job, bar)
        finally:
            _job = None


def _advancing(job: _Job, bar: _Bar) -> Callable[..., None]:
    def advance(steps: int = 1, *, note: str | None = None) -> None:
        if steps:
            bar.done, bar.within = bar.done + steps, 0.0
        if note is not None:
            bar.note = note
        job.refresh()

    return advance


def _display() -> Progress:
    width = next(bar for least, bar in _BAR_WIDTHS if _console.width >= least)
    return _Line(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=width, table_column=Column(no_wrap=True)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        _Rate(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        console=_console,
        expand=True,
        transient=True,
        disable=not _console.is_terminal or _quiet,
    )


def _line(bar: _Bar, seconds: float, note: str) -> str:
    """A bar as a line of a log: "images: 2,500/10,000, 125/s, 60 s left, layer 2 of 2, conv2"."""
    rate = bar.completed / seconds
    parts = [f"{bar.description}: {int(bar.completed):,}/{bar.total:,}"]
    if rate:
        parts += [_rate(rate), f"{(bar.total - bar.completed) / rate:,.0f} s left"]
    return ", ".join([*parts, note] if note else parts)
