"""A short form of fuzzing (the long form is `python -m tests.fuzz KIND`), and tests of the frame itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cosim.errors import InputError
from tests.fuzz.frame import RIGHT, WRONG, fuzz
from tests.fuzz.kind import Finding, Kind, Place, command

ROOT = Path(__file__).parents[2]
HANGS = 14


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """Run Python in the project's folder. The frame forks, and a process with threads, such as this one, should not."""
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("answers", 40),
        ("cards", 100),
        ("configurations", 50),
        ("networks", 50),
        ("onnx_files", 50),
        ("records", 80),
        ("stores", 100),
    ],
)
def test_mutated_inputs_end_in_a_result_or_a_message(kind: str, inputs: int, tmp_path: Path) -> None:
    done = run("-m", "tests.fuzz", kind, "--inputs", inputs, "--scratch", tmp_path, "--limit", 60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kind}, {inputs} inputs" in done.stdout


class Misbehaving(Kind):
    """Behaves in one of the ways that the frame must distinguish."""

    def __init__(self, way: int) -> None:
        self.way = way

    def prepare(self, originals: Path) -> None:
        (originals / "valid").write_text("valid")

    def mutate(self, place: Place, rng: np.random.Generator) -> str:
        return f"way {self.way}"

    def run(self, place: Place) -> None:
        def refuse() -> None:
            raise InputError("wrong")

        def refuse_in_silence() -> None:
            raise InputError(" ")

        def find() -> None:
            raise Finding("smuggled")

        def fail() -> None:
            raise ValueError("bug")

        def write_and_refuse() -> None:
            (place.work / "users.txt").write_text("gone")
            refuse()

        def link_and_fail() -> None:
            Path("/nonexistent/link").symlink_to("users.txt")

        ways = (
            lambda: (place.outputs / "out").write_text("fine"),
            refuse,
            lambda: command("store", "--store", place.outputs / "none"),
            lambda: command("compare", "none.h5"),
            refuse_in_silence,
            find,
            fail,
            lambda: command("compare"),
            write_and_refuse,
            lambda: (place.originals / "valid").unlink(),
            lambda: (place.inputs / "more").touch(),
            lambda: subprocess.run([place.canary], stdout=subprocess.DEVNULL),
            link_and_fail,
            lambda: os.kill(os.getpid(), signal.SIGSEGV),
            lambda: time.sleep(60),
            lambda: bytearray(8 << 30),
        )
        ways[self.way]()


def misbehave(scratch: Path) -> None:
    """Print the verdict of the frame on each way."""
    import cosim.evaluate  # which would start programs if it were imported in a worker

    assert cosim.evaluate
    for way in range(16):
        print(
            *fuzz(Misbehaving(way), [0], seed=0, scratch=scratch / str(way), limit_s=1 if way == HANGS else 60).counts
        )


def test_the_frame_notices_what_goes_wrong(tmp_path: Path) -> None:
    done = run("-c", f"from tests.fuzz.test_fuzz import misbehave, Path; misbehave(Path({str(tmp_path)!r}))")
    assert done.returncode == 0, done.stderr
    ways = done.stdout.split()
    assert ways[:8] == [*["accepted", "refused"] * 2, "finding", "finding", "traceback", "refused"]
    assert ways[8:] == [*["changed"] * 5, "crash", "hang", "traceback"]
    assert set(ways) == {*RIGHT, *WRONG}
