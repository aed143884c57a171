"""Fuzzing of stores and of answers of the simulator, in short; the long form is `python -m tests.fuzz KIND`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("kind", "inputs"), [("stores", 100), ("answers", 40)])
def test_mutated_inputs_end_in_a_result_or_a_message(kind: str, inputs: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", kind, "--inputs", str(inputs), "--scratch", str(tmp_path)]
    done = subprocess.run([*command, "--limit", "60"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kind}, {inputs} inputs" in done.stdout
