"""Writes files either as a whole or not at all, and finds the files that come with cosim."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import tempfile
from pathlib import Path

from cosim.errors import MachineError, OutputError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_PACKAGE = Path(__file__).resolve().parent


@functools.cache
def source_digest(parts: tuple[str, ...], package: Path = _PACKAGE) -> str:
    """SHA-256 of source files of cosim, so that stored results are not used after the code that made them changes.

    Args:
        parts: packages and files, such as "netlist" and "experiments/bench.py"; missing ones are left out.
        package: folder of the package.
    """
    digest = hashlib.sha256()
    for part in parts:
        path = package / part
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            text = file.read_bytes()
            digest.update(f"{file.relative_to(package).as_posix()}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()


def shipped(*parts: str) -> Path:
    """Path of a file under `models/`, in a checkout or in an installed wheel."""
    installed = _PACKAGE / "models"
    return (installed if installed.is_dir() else _PACKAGE.parent / "models").joinpath(*parts)


def is_file(path: Path) -> bool:
    """Whether a path names a file that can be looked at; False for names that no file can have."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def check_outputs(*paths: Path | None, force: bool = False) -> None:
    """Refuse early output paths that exist (unless `force`), lie in no directory, or are one file; None is none.

    Raises:
        OutputError: what is wrong with the first that cannot be written.
    """
    named = [Path(path) for path in paths if path is not None]
    for path in named:
        try:
            _check_output(path, force)
        except OSError as error:
            raise disk_error(error, path) from error
    if len({path.absolute() for path in named}) < len(named):
        raise OutputError(f"{named[0]} is named for two outputs: give each a file of its own")


def _check_output(path: Path, force: bool) -> None:
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path} exists already: choose another name, or pass --force to replace it")
    if path.is_dir():
        raise OutputError(f"{path} is a directory, but a file is to be written there: choose another name")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path.absolute().parent} is no directory: create it, or choose another place")
    _check_writable(path.absolute().parent)


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} cannot be written to: change its permissions, or choose another place")


def write_whole(path: Path, content: bytes | str, *, scratch: Path | None = None) -> None:
    """Write `content` to `path` through a temporary file, so that no reader sees a part.

    Args:
        path: the file.
        content: its content.
        scratch: folder for the temporary file, on the same disk; None for the folder of `path`.

    Raises:
        MachineError: the disk is full.
        OutputError: the directory cannot be written to.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=scratch or path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def disk_error(error: OSError, path: Path) -> MachineError | OutputError:
    """The exception that explains why writing `path` failed."""
    if error.errno in _NO_ROOM:
        return MachineError(f"no room to write {path}: the disk, quota or file size limit is reached; free some space")
    return OutputError(f"cannot write {path}: {error.strerror or error}; check the path and its permissions")


def check_folder(path: Path | None, *, force: bool = False) -> None:
    """Refuse early a folder that cannot be written into, or (unless `force`) holds something; None is none.

    Raises:
        OutputError: what is wrong with it.
    """
    if path is None:
        return
    try:
        if os.path.lexists(path) and not path.is_dir():
            raise OutputError(f"{path} is a file, but a folder is to be made there: choose another name")
        if not force and _taken(path):
            raise OutputError(
                f"{path} exists and is not empty: choose another folder, or pass --force to write into it"
            )
        nearest = path.absolute()
        while not os.path.lexists(nearest):
            nearest = nearest.parent
        if not nearest.is_dir():
            raise OutputError(f"{nearest} is a file, so that no folder can be made in it: choose another place")
        _check_writable(nearest)
    except OSError as error:
        raise disk_error(error, path) from error


def _taken(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def new_folder(named: Path | None, otherwise: Path, *, force: bool = False) -> Path:
    """An empty folder, made if need be: the one named, or the first of `otherwise`, `otherwise`-2, ... that is empty.

    Raises:
        OutputError: as `check_folder`, or the folder cannot be made.
        MachineError: the disk is full.
    """
    number = 1
    path = named or otherwise
    while named is None and _taken(path):
        number += 1
        path = otherwise.with_name(f"{otherwise.name}-{number}")
    check_folder(path, force=force)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error
    return path
