"""Writes HDF5 files behind a seal."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import h5py

from cosim.errors import OutputError
from cosim.files import write_whole
from cosim.hdf5.group import Group
from cosim.hdf5.reader import LARGEST_BYTES, USER_BLOCK, seal_text

# Arrays with more values than this are compressed.
_SMALL = 4096


def write_file(path: Path, content: Group) -> None:
    """Write an HDF5 file, such that no reader sees a part of it.

    Raises:
        OutputError: it is larger than `read_file` takes, or cannot be written.
        MachineError: the disk is full.
    """
    stream = io.BytesIO()
    with h5py.File(stream, "w", userblock_size=USER_BLOCK) as file:
        _write(file, content)
    whole = stream.getvalue()
    if len(whole) > LARGEST_BYTES:
        raise OutputError(
            f"{path} would have {len(whole):,} bytes, and files of at most {LARGEST_BYTES:,} are read: keep fewer "
            "reads, or take fewer images"
        )
    write_whole(path, seal(whole))


def seal(content: bytes) -> bytes:
    """The content of a file with its seal in the user block, whatever stood there."""
    body = content[USER_BLOCK:]
    return seal_text(hashlib.blake2b(body, digest_size=32).hexdigest()) + body


def _write(place: h5py.Group, content: Group) -> None:
    place.attrs.update(content.attributes)
    for name, values in content.arrays.items():
        packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if values.size > _SMALL else {}
        dtype = h5py.string_dtype() if values.dtype.kind == "O" else None
        dataset = place.create_dataset(name, data=values, dtype=dtype, **packed)
        dataset.attrs.update(content.notes.get(name, {}))
    for name, inner in content.groups.items():
        _write(place.create_group(name), inner)
