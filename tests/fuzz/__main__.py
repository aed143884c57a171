"""The command: tries mutated inputs of one kind, prints the counts, and ends with status 1 if anything was wrong."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tests.fuzz import kinds
from tests.fuzz.frame import LIMIT_S, RIGHT, WRONG, Tally, Tried, fuzz

_SHOWN = 3


def main() -> int:
    """Parse the command line, and run."""
    known = sorted(module.name for module in pkgutil.iter_modules(kinds.__path__))
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kind", choices=known)
    parser.add_argument("--inputs", type=int, default=1000, help="number of inputs")
    parser.add_argument("--first", type=int, default=0, help="number of the first; with --inputs 1, repeats an input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, help="folder for all files; default: a temporary one")
    parser.add_argument("--workers", type=int, default=1, help="number of inputs tried in parallel")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds that an input may take")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that workers are ended
    scratch = Path(tempfile.mkdtemp(dir=asked.scratch, prefix=f"{asked.kind}-")).absolute()
    started = time.monotonic()
    tally = fuzz(
        importlib.import_module(f"tests.fuzz.kinds.{asked.kind}").KIND,
        range(asked.first, asked.first + asked.inputs),
        seed=asked.seed,
        scratch=scratch,
        workers=asked.workers,
        limit_s=asked.limit,
        told=_show_progress,
    )
    print(f"{asked.kind}, {asked.inputs} inputs from {asked.first}, seed {asked.seed}: ", end="")
    print(", ".join(f"{tally.counts[verdict]} {verdict}" for verdict in (*RIGHT, *WRONG)), end="; ")
    print(f"{time.monotonic() - started:.0f} s")
    _show(tally.wrong, scratch)
    return int(bool(tally.wrong))


def _show_progress(tally: Tally) -> None:
    """Print progress: on a terminal after every input, in a log after every thousand."""
    done, terminal = tally.counts.total(), sys.stderr.isatty()
    if terminal or done % 1000 == 0:
        text = f"{done} inputs, {len(tally.wrong)} wrong"
        print(f"\r{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)


def _show(wrong: list[Tried], scratch: Path) -> None:
    """Print the findings, those with the most frequent cause first."""
    causes: dict[tuple[str, str], list[Tried]] = defaultdict(list)
    for tried in wrong:
        causes[tried.verdict, tried.cause].append(tried)
    for (verdict, cause), members in sorted(causes.items(), key=lambda item: -len(item[1])):
        print(f"{len(members):6d}  {verdict}: {cause[:200]}")
        for tried in members[:_SHOWN]:
            print(f"          {tried.number}: {tried.mutation[:160]}")
    if wrong:
        print(f"the inputs are kept in {scratch / 'findings'}")


if __name__ == "__main__":
    sys.exit(main())
