"""The command line: parses arguments, calls public names, and prints. Each kind of command has its own file.

Exit status: 0 done, 2 the input or the machine is wrong, 3 the simulator failed, 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from cosim.cli import cells, networks, plans, runs, sweeps
from cosim.cli.shared import app, console
from cosim.errors import CosimError

__all__ = ["app", "cells", "main", "networks", "plans", "runs", "sweeps"]

_INTERRUPTED = 130


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        console.print(*(f"{package} {version(package)}" for package in ("cosim", "torch", "PySpice")), highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions and exit.")
    ] = False,
) -> None:
    """Quantized neural networks on NOR-Flash compute-in-memory arrays, in the circuit simulator."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End on SIGTERM and SIGHUP as on Ctrl-C: simulators are stopped, and results are kept."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line, and exit with its status."""
    status: str | int | None = 0
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _interrupt)
    try:
        app()
    except CosimError as error:
        print(f"error: {error}", file=sys.stderr)
        status = error.exit_status
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except MemoryError:
        print("error: out of memory: use fewer images, or a machine with more memory", file=sys.stderr)
        status = 2
    except OSError as error:
        if error.filename is None:  # standard output is full or closed
            print(f"error: cannot write to standard output: {error.strerror}", file=sys.stderr)
        else:
            print(
                f"error: cannot use {error.filename}: {error.strerror}; check the path and its permissions",
                file=sys.stderr,
            )
        status = 2
    if status == _INTERRUPTED:
        print("interrupted: finished simulations are stored, and the next run continues from there", file=sys.stderr)
    sys.exit(status)
