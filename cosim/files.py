"""Writes files either as a whole or not at all, and finds the files that come with cosim."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import stat
import sys
import tempfile
from pathlib import Path

from cosim.errors import InputError, MachineError, OutputError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_STANDARD_OUTPUT = {"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"}
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

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


def shipped(folder: str, *parts: str) -> Path:
    """Path of a file under `models/` or `profiles/`, in a checkout or in an installed wheel."""
    installed = _PACKAGE / folder
    return (installed if installed.is_dir() else _PACKAGE.parent / folder).joinpath(*parts)


def is_file(path: Path) -> bool:
    """Whether a path names a file that can be looked at; False for names that no file can have."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def read_regular(path: Path, most_bytes: int) -> bytes:
    """The content of a file that cosim or a program that it started has written. No link is followed.

    Args:
        path: the file.
        most_bytes: how much it may hold.

    Raises:
        FileNotFoundError: there is nothing of that name.
        InputError: there is something else than a regular file, or it holds more.
        MachineError: it cannot be read.
    """
    path = Path(path)
    try:
        kind = kind_of(path)
        if kind not in (None, "a file"):
            raise InputError(f"{path} is {kind}, expected a regular file: remove it")
        # Not even a pipe that was put there just now would keep the reader waiting.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most_bytes:
                raise InputError(f"{path} holds {size:,} bytes, expected at most {most_bytes:,}: remove it")
            return file.read(size)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror or error}; check the disk and permissions") from error


def is_standard_output(path: Path | None) -> bool:
    """Whether an output's name stands for standard output, such as `-` or `/dev/stdout`."""
    return path is not None and os.fspath(path) in _STANDARD_OUTPUT


def _check_file(path: Path) -> None:
    if is_standard_output(path):
        raise OutputError(f"{path} is standard output, which takes only text: name a file")


def check_outputs(*paths: Path | None, text: Path | None = None, force: bool = False) -> None:
    """Refuse outputs before any work: those that cannot be written, that exist (unless `force`), or are the same file.

    Args:
        paths: outputs that are files; None for an output that was not asked for.
        text: an output that may be standard output, since it is text.
        force: whether regular files are replaced. Nothing else ever is: no link, pipe, device or directory.

    Raises:
        OutputError: an output is refused; the message is about the first of them.
    """
    named = [Path(path) for path in paths if path is not None]
    for path in named:
        _check_file(path)
    if text is not None and not is_standard_output(text):
        named.append(Path(text))
    for path in named:
        try:
            _check_output(path, force)
        except OSError as error:
            raise disk_error(error, path) from error
    if len({path.absolute() for path in named}) < len(named):
        raise OutputError(f"{named[0]} is named for two outputs: give each a file of its own")


def _check_output(path: Path, force: bool) -> None:
    check_replaceable(path)
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path} exists already: choose another name, or pass --force to replace it")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path.absolute().parent} is not a directory: create it, or choose another place")
    check_writable(path.absolute().parent)


def kind_of(path: Path) -> str | None:
    """What there is under a name: "a file", "a directory", "a symbolic link", ...; None for nothing.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        return _KINDS[stat.S_IFMT(os.lstat(path).st_mode)]
    except (FileNotFoundError, NotADirectoryError):
        return None


def check_replaceable(path: Path) -> None:
    """Refuse a path at which there is something else than a regular file. A link is not followed, but refused as well.

    Raises:
        OutputError: what there is.
        OSError: the path cannot be looked at.
    """
    kind = kind_of(path)
    if kind not in (None, "a file"):
        raise OutputError(f"{path} is {kind}, and only regular files are replaced: choose another name")


def check_writable(folder: Path) -> None:
    """Raise OutputError unless files can be made in a folder."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} cannot be written to: change its permissions, or choose another place")


def write_whole(path: Path, content: bytes | str, *, scratch: Path | None = None) -> None:
    """Write `content` to `path` through a temporary file, so that no reader sees a part.

    Args:
        path: the file, which replaces a regular file of that name, and nothing else; for text, maybe `-` or
            `/dev/stdout`.
        content: its content; text is encoded as UTF-8.
        scratch: folder for the temporary file, on the same disk; None for the folder of `path`.

    Raises:
        MachineError: the disk is full.
        OutputError: the directory cannot be written to, or there is something else than a regular file.
    """
    if isinstance(content, str) and is_standard_output(path):
        if sys.stdout is None:  # Python's, if the command was started without one
            raise OutputError(f"{path} is standard output, which is closed: name a file")
        sys.stdout.flush()
        sys.stdout.buffer.write(content.encode())
        sys.stdout.flush()
        return
    path = Path(path)
    _check_file(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        check_replaceable(path)
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
