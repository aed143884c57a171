"""Files that are written whole or not at all, and the files that come with cosim."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from cosim.errors import MachineError, OutputError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def shipped(*parts: str) -> Path:
    """Path of a file under `models/`, in a checkout or in an installed wheel."""
    package = Path(__file__).resolve().parent
    installed = package / "models"
    return (installed if installed.is_dir() else package.parent / "models").joinpath(*parts)


def check_writable(path: Path, *, force: bool = False) -> Path:
    """Refuse early an output path that exists (unless `force`) or lies in no directory."""
    path = Path(path)
    if path.exists() and not force:
        raise OutputError(f"{path} exists already: choose another name, or pass --force to replace it")
    if path.is_dir():
        raise OutputError(f"{path} is a directory, but a file is to be written there: choose another name")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path.absolute().parent} is no directory: create it, or choose another place")
    return path


def write_whole(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` through a temporary file beside it, so that no reader sees a part.

    Raises:
        MachineError: the disk is full.
        OutputError: the directory cannot be written to.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
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


def new_folder(named: Path | None, otherwise: Path) -> Path:
    """Make an empty folder: the one named, or the first of `otherwise`, `otherwise`-2, ... that is not there.

    Raises:
        OutputError: the named folder holds something, or a folder cannot be made.
        MachineError: the disk is full.
    """
    number = 1
    path = named or otherwise
    while named is None and path.exists():
        number += 1
        path = otherwise.with_name(f"{otherwise.name}-{number}")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(f"{path} exists and is not empty: choose another folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error
    return path
