"""The pipeline flows one way: a package imports only what stands above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "cosim"
SHARED = ["errors", "files", "progress", "config", "datasets"]
PIPELINE = ["network", "mapping", "device", "netlist", "spice", "readout", "evaluate", "report", "studies", "cli"]
ABOVE = {name: {*SHARED, *PIPELINE[:place]} for place, name in enumerate(PIPELINE)}
ABOVE |= {name: set(SHARED[:place]) for place, name in enumerate(SHARED)}
ABOVE["reference"] = {*SHARED, "network", "mapping", "device"}


@pytest.mark.parametrize("room", ABOVE)
def test_a_room_imports_only_what_stands_above_it(room: str) -> None:
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else sorted((PACKAGE / room).glob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cosim."):
                imported = node.module.split(".")[1]
                assert imported == room or imported in ABOVE[room], f"{file.name} imports {node.module}"


def test_pyspice_is_imported_by_netlist_alone() -> None:
    users = {file.parent.name for file in PACKAGE.rglob("*.py") if "PySpice" in file.read_text().replace("# ", "")
             and any("PySpice" in line and "import" in line for line in file.read_text().splitlines())}  # fmt: skip
    assert users == {"netlist"}
