"""Weights of an ONNX model in separate files next to it, as torch's default exporter writes them.

Source: external data of ONNX, https://onnx.ai/onnx/repo-docs/ExternalData.html.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from onnx import ModelProto, TensorProto

from cosim.errors import NetworkError, plain

LARGEST_FILE_BYTES = 1 << 30
_ONE_FILE = "export the network as one file, with external_data=False"


def fetch_external(model: ModelProto, path: Path) -> None:
    """Read weights from files in the folder of `path` into the model. No other files are opened.

    Raises:
        NetworkError: a file is in another folder, is missing, is a link or is too short, or the weights take more than
            1 GiB.
    """
    room = LARGEST_FILE_BYTES
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            what = f"weights {plain(tensor.name)!r} of {path}"
            tensor.raw_data = _read(tensor, path.parent, what, room)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
            room -= len(tensor.raw_data)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor of a model, among its weights and in attributes of its nodes."""
    yield from model.graph.initializer
    for node in model.graph.node:
        for given in node.attribute:
            yield given.t
            yield from given.tensors


def _read(tensor: TensorProto, folder: Path, what: str, room: int) -> bytes:
    """The bytes of a tensor in its file, at most `room`."""
    given = {entry.key: entry.value for entry in tensor.external_data}
    location = given.get("location", "")
    if location in ("", ".", "..") or not location.isprintable() or set(location) & set("/\\:"):
        raise NetworkError(f"{what} lie in {plain(location)!r}, expected a file in the same folder: {_ONE_FILE}")
    beside = folder / location
    try:
        offset = int(given.get("offset", 0))
        length = int(given["length"]) if "length" in given else None
        if offset < 0 or (length is not None and length < 0):
            raise ValueError
    except ValueError:
        raise NetworkError(f"{what} have no valid place in {beside}: export the network again") from None
    try:
        # A link might lead anywhere, and a pipe would keep the reader waiting.
        handle = os.open(beside, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise NetworkError(f"{what} lie in {beside}, expected a plain file: {_ONE_FILE}")
            length = max(status.st_size - offset, 0) if length is None else length
            if length > room:
                raise NetworkError(
                    f"{what} and those before take more than {LARGEST_FILE_BYTES >> 20} MiB: use a smaller network"
                )
            if offset + length > status.st_size:
                raise NetworkError(
                    f"{what} end at byte {offset + length} of {beside}, which has {status.st_size}: export the network "
                    "again"
                )
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise NetworkError(
            f"{what} lie in {beside}, which cannot be read ({error.strerror}): put that file there, or {_ONE_FILE}"
        ) from error
