"""Progress bars with rate and time left on the terminal; where there is none, a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_console = Console(stderr=True)
_quiet = False


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.3g}/s" if speed else "", style="cyan")


def quiet() -> None:
    """Show nothing from here on: for worker processes, whose parent shows how the whole goes on."""
    global _quiet
    _quiet = True


def log(line: str) -> None:
    """Say something for a log: printed to standard error where no bar is shown."""
    if not _console.is_terminal and not _quiet:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[..., None]]:
    """Show a bar while the block runs; call the yielded function as `advance(n, note=...)`."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=_console,
        transient=True,
        disable=not _console.is_terminal or _quiet,
    )
    with bar:
        task = bar.add_task(description, total=total, note="")

        def advance(steps: int = 1, *, note: str | None = None) -> None:
            bar.update(task, advance=steps)
            if note is not None:
                bar.update(task, note=note)

        yield advance
