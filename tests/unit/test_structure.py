"""The pipeline flows one way: a package imports only what stands above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "cosim"
SHARED = ["errors", "checked", "files", "folders", "hdf5", "progress", "config", "datasets"]
# What becomes of a network, from its integers to its accuracy. `solver` and `currents` are being built.
PIPELINE = ["arithmetic", "network", "mapping", "device", "netlist", "spice", "solver", "currents", "readout",
            "evaluate", "experiments", "report"]  # fmt: skip
# How a network is made, beside the pipeline: nothing in the pipeline knows of it.
MAKING = ["importers", "training"]
ABOVE = {name: set(SHARED[:place]) for place, name in enumerate(SHARED)}
ABOVE |= {name: {*SHARED, *PIPELINE[:place]} for place, name in enumerate(PIPELINE)}
ABOVE["arithmetic"] = {"config", "errors"}
ABOVE["solver"] = {*SHARED, "arithmetic", "mapping", "device", "netlist", "spice"} - {"hdf5", "datasets"}
ABOVE |= {name: {*SHARED, "arithmetic", "network", *MAKING[:place]} for place, name in enumerate(MAKING)}
ABOVE["studies"] = {*SHARED, *PIPELINE, *MAKING}
ABOVE["cli"] = {*ABOVE["studies"], "studies"}
ABOVE["reference"] = {*SHARED, "network", "mapping", "device"}
ROOMS = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}


def files_of(room: str) -> list[Path]:
    """Every file of a room, those of the rooms in it too."""
    return [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else sorted((PACKAGE / room).rglob("*.py"))


def imported_rooms(file: Path) -> Iterator[str]:
    """The rooms that a file imports from, however it says it; cosim itself stands for its public names."""
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            root, _, rest = name.partition(".")
            if root == "cosim" and rest.partition(".")[0] in ROOMS:
                yield rest.partition(".")[0]


def test_every_room_has_its_place() -> None:
    assert set(ABOVE) >= ROOMS - {"__init__"}


@pytest.mark.parametrize("room", sorted(ROOMS - {"__init__"}))
def test_a_room_imports_only_what_stands_above_it(room: str) -> None:
    files = files_of(room)
    assert files
    for file in files:
        for imported in imported_rooms(file):
            assert imported == room or imported in ABOVE[room], f"{file.relative_to(PACKAGE)} imports {imported}"


def test_the_rooms_within_rooms_are_seen() -> None:
    assert PACKAGE / "training" / "recipes" / "recipe.py" in files_of("training")


def test_pyspice_is_imported_by_netlist_alone() -> None:
    users = {file.parent.name for file in PACKAGE.rglob("*.py") if "PySpice" in file.read_text().replace("# ", "")
             and any("PySpice" in line and "import" in line for line in file.read_text().splitlines())}  # fmt: skip
    assert users == {"netlist"}
