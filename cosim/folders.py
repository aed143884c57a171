"""Writes folders either as a whole or not at all, and in place of nothing but what cosim wrote there.

A folder that cosim wrote lists its files in `.cosim-files`. When it is written again, all of them go, so that no file
of an earlier configuration stays among those of the new one, and anything else in it is in the way.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cosim.errors import OutputError
from cosim.files import check_writable, disk_error, write_whole

_LISTING = ".cosim-files"
_LARGEST_LISTING = 1 << 24
# A folder that is not finished lies in its place under such a name.
_UNFINISHED = ".cosim-unfinished-"
_NAMED = 3


def check_folder(path: Path | None, *, force: bool = False, beside: Collection[str] = ()) -> None:
    """Refuse a folder that `whole_folder` would refuse, before any work is done. None stands for no folder.

    Raises:
        OutputError: the folder is refused.
    """
    if path is None:
        return
    try:
        if os.path.lexists(path) and not path.is_dir():
            raise OutputError(f"{path} is a file, but a folder is needed there: choose another name")
        if not force and not _is_free(path):
            raise OutputError(
                f"{path} exists and is not empty: choose another folder, or pass --force to replace what cosim wrote "
                "there"
            )
        nearest = path.absolute()
        while not os.path.lexists(nearest):
            nearest = nearest.parent
        if not nearest.is_dir():
            raise OutputError(f"{nearest} is a file, so that no folder can be made in it: choose another place")
        check_writable(nearest)
        if path.is_dir():
            _own(path, beside)
    except OSError as error:
        raise disk_error(error, path) from error


def free_folder(wanted: Path) -> Path:
    """The first of `wanted`, `wanted`-2, `wanted`-3, ... that does not exist or is empty."""
    path, number = wanted, 1
    while not _is_free(path):
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    return path


@contextmanager
def whole_folder(path: Path, *, force: bool = False, beside: Collection[str] = ()) -> Iterator[Path]:
    """Give an empty folder to write files into. When the block ends they are in `path`, and when it fails, nothing is.

    Args:
        path: the folder, made if need be.
        force: whether to replace all files that cosim wrote there earlier. What a user put there is never removed.
        beside: names of folders in `path` that stay.

    Raises:
        OutputError: the folder is not empty and `force` is not given, it holds something that cosim did not write, or
            it cannot be written to.
        MachineError: the disk is full.
    """
    check_folder(path, force=force, beside=beside)
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=path))
    except OSError as error:
        raise disk_error(error, path) from error
    try:
        yield unfinished
        _put_in_place(unfinished, path, beside)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if made:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def _put_in_place(unfinished: Path, path: Path, beside: Collection[str]) -> None:
    own, new = _own(path, beside), sorted(entry.name for entry in unfinished.iterdir())
    try:
        # An interruption from here on leaves old files or new ones, never both, and all that are there are listed.
        write_whole(path / _LISTING, "".join(f"{name}\n" for name in sorted({*own, *new})))
        for name in own:
            (path / name).unlink()
        for name in new:
            (unfinished / name).replace(path / name)
        write_whole(path / _LISTING, "".join(f"{name}\n" for name in new))
        for killed in path.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(killed, ignore_errors=True)
    except OSError as error:
        raise disk_error(error, path) from error


def _own(path: Path, beside: Collection[str]) -> list[str]:
    """Names of the files in a folder that cosim wrote.

    Raises:
        OutputError: there is anything else but unfinished folders and those of `beside`.
    """
    listed = _listed(path / _LISTING)
    # A deck that is run by hand writes its answer beside it.
    listed |= {f"{name.removesuffix('.cir')}.raw" for name in listed if name.endswith(".cir")}
    own, foreign = [], []
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in beside and not entry.name.startswith(_UNFINISHED):
                foreign.append(entry.name)
        elif not entry.is_file(follow_symlinks=False) or entry.name not in {*listed, _LISTING}:
            foreign.append(entry.name)
        elif entry.name != _LISTING:
            own.append(entry.name)
    if foreign:
        more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
        raise OutputError(
            f"{path} holds {', '.join(sorted(foreign)[:_NAMED])}{more}, which cosim did not write there: move it away, "
            "or choose another folder"
        )
    return own


def _listed(listing: Path) -> set[str]:
    """What a folder's listing names; nothing if there is no such file."""
    try:
        if not stat.S_ISREG(listing.lstat().st_mode):
            return set()
        with listing.open("rb") as file:
            return set(file.read(_LARGEST_LISTING).decode("utf-8", "replace").splitlines())
    except FileNotFoundError:
        return set()


def _is_free(path: Path) -> bool:
    return not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir()))
