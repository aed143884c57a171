"""Outputs: whole or not at all, to standard output where that is asked for, and in place of nothing but files."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from cosim.cli import main
from cosim.cli.shared import console
from cosim.errors import OutputError
from cosim.files import check_outputs, write_whole
from cosim.network import save_network
from tests.conftest import make_network


def make(kind: str, path: Path) -> None:
    """Something else than a regular file."""
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a symbolic link":
        path.with_name("thesis.tex").write_text("years of work")
        path.symlink_to("thesis.tex")
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only the superuser makes devices")


KINDS = ("a pipe", "a socket", "a directory", "a symbolic link", "a device")


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_replaced(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    path = Path("out")
    make(kind, path)
    before = path.lstat()
    refused = rf"^out is {kind}, and only regular files are replaced: choose another name"
    for force in (False, True):
        with pytest.raises(OutputError, match=refused):
            check_outputs(path, force=force)
        with pytest.raises(OutputError, match=refused):
            check_outputs(text=path, force=force)
    for content in ("text", b"bytes"):
        with pytest.raises(OutputError, match=refused):
            write_whole(path, content)
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    if kind == "a symbolic link":
        assert Path("thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["net.safetensors", "net.json"])
def test_a_network_is_not_saved_in_place_of_a_pipe(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)  # reading it, to see what it holds, would wait for ever
    for force in (False, True):
        with pytest.raises(OutputError, match="is a pipe, and only regular files are replaced"):
            save_network(make_network(), tmp_path / "net.safetensors", force=force)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_takes_text_and_nothing_else(name: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    check_outputs(text=Path(name))
    write_whole(Path(name), "µ\n")
    assert capsysbinary.readouterr().out == "µ\n".encode()
    with pytest.raises(OutputError, match=f"^{name} is standard output, which takes only text: name a file"):
        check_outputs(Path(name), force=True)


def test_standard_output_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match=r"^- is standard output, which is closed: name a file"):
        write_whole(Path("-"), "text")


def test_bytes_never_go_to_standard_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-", "/dev/stdout"):
        with pytest.raises(OutputError, match=f"^{name} is standard output, which takes only text"):
            write_whole(Path(name), b"bytes")
    assert not list(tmp_path.iterdir())


def test_figures_on_standard_output_stand_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "stderr", False)
    monkeypatch.setattr(sys, "argv", ["cosim", "info", "digits-w4a4", "--images", "3", "--json", "-"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    shown = capsys.readouterr()
    assert json.loads(shown.out)["images"] == 3
    assert "conv1" in shown.err
