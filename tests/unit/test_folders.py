"""Folders: whole or not at all, and in place of nothing but what cosim wrote there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cosim.errors import MachineError, OutputError
from cosim.files import write_whole
from cosim.folders import check_folder, free_folder, whole_folder


def write(path: Path, *names: str, force: bool = False) -> None:
    with whole_folder(path, force=force, beside=["kept"]) as folder:
        for name in names:
            write_whole(folder / name, f"{name} of {names}")


def names_in(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()} - {".cosim-files"}


def test_a_folder_is_made_with_its_files(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b", "one.csv", "two.csv")
    assert names_in(tmp_path / "a" / "b") == {"one.csv", "two.csv"}
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "one.csv")
    assert names_in(tmp_path / "empty") == {"one.csv"}


def test_written_again_nothing_of_before_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "one.cir", "two.cir", "cell.card")
    (out / "one.raw").write_text("what ngspice answered to the earlier deck")
    (out / "kept").mkdir()
    (out / "kept" / "point.json").write_text("{}")
    with pytest.raises(OutputError, match="exists and is not empty: choose another folder, or pass --force"):
        write(out, "one.cir")
    write(out, "one.cir", "three.cir", force=True)
    assert names_in(out) == {"one.cir", "three.cir", "kept"}
    assert (out / "one.cir").read_text() == "one.cir of ('one.cir', 'three.cir')"
    assert (out / "kept" / "point.json").exists()


def a_link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.parents[1] / "thesis.tex")


def a_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


# What cosim writes, and what stays, but of another type, and what else a folder may hold.
IN_THE_WAY = [
    *((put, name) for put in (a_link, a_pipe, a_folder) for name in ("one.cir", ".cosim-files", "mine.txt")),
    *((put, "kept") for put in (a_link, a_pipe, Path.touch)),
    *((Path.touch, name) for name in ("mine.txt", ".spiceinit", "two.raw")),
]


@pytest.mark.parametrize(("put", "name"), IN_THE_WAY)
def test_what_a_user_put_there_is_in_the_way(put: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    out, thesis = tmp_path / "out", tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    write(out, "one.cir")
    put(out / name)
    before = {path: path.lstat() for path in (thesis, *out.iterdir())}
    for attempt in (lambda: check_folder(out, force=True, beside=["kept"]), lambda: write(out, "two.cir", force=True)):
        with pytest.raises(OutputError, match=r"out holds .*, which cosim did not write there: move it away"):
            attempt()
    after = {path: path.lstat() for path in (thesis, *out.iterdir())}
    assert {path: seen.st_ino for path, seen in before.items()} == {path: seen.st_ino for path, seen in after.items()}
    assert thesis.read_text() == "years of work"


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    for name in "fdbcea":
        (tmp_path / name).touch()
    with pytest.raises(OutputError, match="holds a, b, c and 3 more, which cosim did not write there"):
        check_folder(tmp_path, force=True)


def test_a_listing_reaches_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    write(tmp_path / "out", "one.cir")
    (tmp_path / "out" / ".cosim-files").write_text(f"one.cir\n../thesis.tex\n{tmp_path}/thesis.tex\n\0\n..\n.\n\n")
    write(tmp_path / "out", "two.cir", force=True)
    assert (tmp_path / "thesis.tex").exists()
    assert names_in(tmp_path / "out") == {"two.cir"}


def test_a_folder_that_fails_is_what_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def fail() -> None:
        with whole_folder(out, force=True) as folder:
            write_whole(folder / "one.cir", "new")
            raise MachineError("no room")

    with pytest.raises(MachineError):
        fail()
    assert not out.exists()
    write(out, "one.cir", "two.cir")
    with pytest.raises(MachineError):
        fail()
    assert names_in(out) == {"one.cir", "two.cir"}
    assert (out / "one.cir").read_text() != "new"


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "one.cir")
    (out / ".cosim-unfinished-abc").mkdir()
    (out / ".cosim-unfinished-abc" / "one.cir").touch()
    write(out, "one.cir", force=True)
    assert names_in(out) == {"one.cir"}


def test_the_first_free_folder(tmp_path: Path) -> None:
    assert free_folder(tmp_path / "demo") == tmp_path / "demo"
    write(tmp_path / "demo", "run.h5")
    (tmp_path / "demo-2").symlink_to("nowhere")
    (tmp_path / "demo-3").mkdir()
    assert free_folder(tmp_path / "demo") == tmp_path / "demo-3"
