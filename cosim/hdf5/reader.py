"""The program that reads an HDF5 file for cosim: `python reader.py FILE`.

It limits its own time and memory, checks the seal, and writes to standard output: a line of JSON with the attributes,
the texts, and the types and shapes of the arrays; then the arrays' bytes. If it refuses the file, the line says why.

It imports nothing of cosim, so that it starts quickly.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import h5py
import numpy as np

USER_BLOCK = 512
_MAGIC = b"cosim-seal-1 blake2b-256 "
# How much data a file may claim to hold: compressed counts are mostly zeros, but no file of ours comes near this.
_LEAST_ROOM, _ROOM_A_BYTE = 64 << 20, 64
# A file with holes, which takes no room on the disk, could otherwise have any size.
LARGEST_BYTES = 4 << 30
_SPARE_BYTES = 256 << 20
_LEAST_SECONDS, _BYTES_A_SECOND = 2, 2e6
_DEEPEST = 8
_LONGEST_ATTRIBUTE = 1 << 16
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


def cpu_seconds(size: int) -> int:
    """CPU time that reading a file of `size` bytes may take [s]."""
    return math.ceil(_LEAST_SECONDS + size / _BYTES_A_SECOND)


def seal_text(digest: str) -> bytes:
    """The user block of a file, given the digest of everything behind it."""
    return (_MAGIC + digest.encode() + b"\n").ljust(USER_BLOCK, b"\0")


def _room(size: int) -> int:
    """How much data a file of `size` bytes may claim to hold [bytes]: this process and cosim's both take the memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * resource.getpagesize()
    return min(_LEAST_ROOM + _ROOM_A_BYTE * size, memory // 4)


def _limit(size: int) -> None:
    """Let this process take no more time and memory than a file of `size` bytes can need, and write no file."""
    with open("/proc/self/statm") as own:  # noqa: PTH123
        taken = int(own.read().split()[0]) * resource.getpagesize()
    memory = taken + _SPARE_BYTES + _room(size)
    seconds = math.ceil(time.process_time()) + cpu_seconds(size)  # importing counts, and takes what it takes
    for kind, wanted in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, allowed = resource.getrlimit(kind)
        most = wanted if allowed == resource.RLIM_INFINITY else min(wanted, allowed)
        resource.setrlimit(kind, (most, most))


def _check_seal(path: str) -> None:
    """Raise ValueError if the file has a seal, and it is not that of its content."""
    with open(path, "rb") as file:  # noqa: PTH123
        block = file.read(USER_BLOCK)
        if not block.startswith(_MAGIC):
            return  # another tool wrote it
        digest = hashlib.blake2b(digest_size=32)
        while part := file.read(1 << 20):
            digest.update(part)
    if block != seal_text(digest.hexdigest()):
        sealed = block[len(_MAGIC) :].split(b"\n")[0].decode("ascii", "replace")
        raise ValueError(
            "it was damaged or changed after it was written: its seal has the BLAKE2b digest "
            f"{sealed[:16]!r}..., its content {digest.hexdigest()[:16]!r}..."
        )


def _objects(file: h5py.File) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Every group and dataset with its path.

    Raises:
        ValueError: there is a link to elsewhere, an object that is in two places, or too deep a place.
    """
    seen, waiting = set(), [("", file["/"], 0)]
    while waiting:
        path, item, depth = waiting.pop()
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise ValueError(f"{path} is also in another place of the file")
        seen.add(address)
        yield path, item
        if isinstance(item, h5py.Dataset):
            continue
        for name in item:
            inner = f"{path}/{name}" if path else name
            if depth == _DEEPEST or not isinstance(item.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{inner:.80} is a link to elsewhere, or too deep")
            found = item[name]
            if not isinstance(found, h5py.Group | h5py.Dataset):
                raise ValueError(f"{inner:.80} is neither a group nor a dataset")
            waiting.append((inner, found, depth + 1))


def _check_dataset(path: str, dataset: h5py.Dataset) -> int:
    """How many bytes of data a dataset claims to hold.

    Raises:
        ValueError: its data lie elsewhere, or are of a type or packed in a way that cosim does not use.
    """
    made = dataset.id.get_create_plist()
    if made.get_external_count() or made.get_layout() == h5py.h5d.VIRTUAL:
        raise ValueError(f"the data of {path} lie in another file")
    if any(made.get_filter(number)[0] not in _FILTERS for number in range(made.get_nfilters())):
        raise ValueError(f"{path} is packed with an unknown filter")
    text = h5py.check_string_dtype(dataset.dtype)
    plain = dataset.dtype.kind in "iuf" and dataset.dtype.itemsize <= 8 and h5py.check_enum_dtype(dataset.dtype) is None
    if dataset.shape is None or not (plain or (text is not None and text.length is None)):
        raise ValueError(f"{path} holds neither numbers nor texts")
    return math.prod(dataset.shape) * dataset.dtype.itemsize


def _attributes(path: str, group: h5py.Group) -> dict[str, Any]:
    values = {}
    for name in group.attrs:
        claimed = group.attrs.get_id(name)
        if claimed.shape is None or math.prod(claimed.shape) > _LONGEST_ATTRIBUTE:
            raise ValueError(f"the attribute {name:.80} of {path or 'the file'} is empty or too long")
        value = group.attrs[name]
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "iuf":
            value = value.tolist()
        if not isinstance(value, str | int | float | list):
            raise ValueError(f"the attribute {name:.80} of {path or 'the file'} is neither number nor text")
        values[name] = value
    return values


def _texts(dataset: h5py.Dataset) -> list[str]:
    texts: list[str] = dataset.asstr("utf-8", "strict")[()].ravel().tolist() if dataset.shape else [dataset.asstr()[()]]
    return texts


def _read(path: str, output: BinaryIO) -> None:
    """Write the content of a file to `output`."""
    size = os.stat(path).st_size  # noqa: PTH116
    if size > LARGEST_BYTES:
        raise ValueError(f"it has {size:,} bytes, expected at most {LARGEST_BYTES:,}")
    _limit(size)
    _check_seal(path)
    with h5py.File(path, "r", locking=False) as file:
        datasets, attributes, claimed = {}, {}, 0
        for name, item in _objects(file):
            if isinstance(item, h5py.Group):
                attributes[name] = _attributes(name, item)
                continue
            datasets[name] = item
            claimed += _check_dataset(name, item)
            if claimed > _room(size):
                raise ValueError(f"{name} claims more data than a file of {size:,} bytes can hold, or this machine")
        numbers = {name: item for name, item in datasets.items() if item.dtype.kind != "O"}
        header = {
            "attributes": attributes,
            "texts": {name: [item.shape, _texts(item)] for name, item in datasets.items() if name not in numbers},
            "arrays": [[name, item.dtype.newbyteorder("=").str, item.shape] for name, item in numbers.items()],
        }
        # Not as ASCII, so that what is no text at all is refused here.
        output.write(json.dumps(header, ensure_ascii=False).encode() + b"\n")
        for item in numbers.values():
            output.write(np.ascontiguousarray(item[()], item.dtype.newbyteorder("=")).data)


def main() -> None:
    """Read the file that the command line names."""
    try:
        _read(sys.argv[1], sys.stdout.buffer)
    except Exception as error:
        reason = "it needs more memory than such a file may" if isinstance(error, MemoryError) else str(error)
        sys.stdout.buffer.write(json.dumps({"error": reason[:500]}).encode() + b"\n")


if __name__ == "__main__":
    main()
