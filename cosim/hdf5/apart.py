"""Reads HDF5 files through the program `reader.py`, so that no file can crash or hang cosim itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from cosim.checked import printable
from cosim.errors import MachineError
from cosim.hdf5 import reader
from cosim.hdf5.group import Group

# A process that waits for the disk or for a core gets this many times its CPU time.
_WAITING = 10


def read_file(path: Path) -> Group:
    """The content of an HDF5 file.

    Args:
        path: a regular file.

    Raises:
        ValueError: the file is not HDF5, its seal is not that of its content, it cannot be read within the limits of
            time and memory, or it holds what cosim does not write. The message says which.
        MachineError: no process can be started.
    """
    seconds = _WAITING * reader.cpu_seconds(path.stat().st_size)
    # No plugins: a file must not make the library load one. One thread: reading needs no arithmetic.
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-P", reader.__file__, str(path)]
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise MachineError(f"cannot start {command[0]} to read {path}: {error.strerror}; repair Python") from error
    late = threading.Timer(seconds, _kill, [process.pid])
    late.start()
    try:
        assert process.stdout is not None
        with process.stdout as answer:
            return _content(answer)
    except EOFError:
        pass
    finally:
        late.cancel()
        _kill(process.pid)
        status = process.wait()
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        raise ValueError("it takes too long to read: it is damaged, or was made to do harm")
    raise ValueError(f"the HDF5 library failed on it (exit status {status}): it is damaged, or was made to do harm")


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _content(answer: IO[bytes]) -> Group:
    """Make the content from the reader's answer.

    Raises:
        EOFError: the answer is not complete.
        ValueError: the reader refused the file.
    """
    line = answer.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    header = json.loads(line)
    if "error" in header:
        raise ValueError(printable(header["error"]))
    whole = Group()
    for path, attributes in header["attributes"].items():
        _place(whole, path).attributes = attributes
    for path, (shape, texts) in header["texts"].items():
        folder, _, name = path.rpartition("/")
        values = np.empty(len(texts), object)
        values[:] = texts
        _place(whole, folder).arrays[name] = values.reshape(shape)
    for path, kind, shape in header["arrays"]:
        folder, _, name = path.rpartition("/")
        _place(whole, folder).arrays[name] = _array(answer, np.dtype(kind), tuple(shape))
    return whole


def _place(whole: Group, path: str) -> Group:
    """The group at a path, made if need be."""
    place = whole
    for name in filter(None, path.split("/")):
        place = place.groups.setdefault(name, Group())
    return place


def _array(answer: IO[bytes], kind: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Take the bytes of one array from the answer."""
    values = np.empty(shape, kind)
    if values.nbytes and answer.readinto(values.data.cast("B")) != values.nbytes:  # type: ignore[attr-defined]
        raise EOFError
    return values
