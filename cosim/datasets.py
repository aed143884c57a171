"""Image classification data sets, read from standard files or from an installed library."""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import platformdirs
import torch
from torch import Tensor

from cosim.errors import DatasetError, nearest

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and their classes.

    Attributes:
        name: name of the data set.
        images: (n, channels, height, width) uint8.
        full_scale: largest value of an image.
        labels: (n,) int64.
        digest: identifies the files that they come from.
        split: whether they are test or training images.
        folder: where these files lie; None if they were searched for, or come with a library.
        training: (m, channels, height, width) images in 0..1 of the training set, which calibrations go by; None if
            they are loaded by the name of the data set when they are needed.
    """

    name: str
    images: Tensor
    full_scale: int
    labels: Tensor
    digest: str
    split: Split = "test"
    folder: Path | None = None
    training: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def title(self) -> str:
        """What a result on these images names them."""
        return self.name if self.split == "test" else f"{self.name}, training set"

    def head(self, count: int | None) -> Dataset:
        """The first `count` images, all of them for None."""
        if count is None:
            return self
        if not 1 <= count <= len(self):
            raise DatasetError(f"{self.name} has {len(self)} images here: ask for 1 to {len(self)}, not {count}")
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def real(self, start: int, stop: int) -> Tensor:
        """Images start..stop as float32 in 0..1."""
        return self.images[start:stop].to(torch.float32) / self.full_scale


# MD5 of the unpacked files, since re-packing changes the gzip bytes.
_MNIST = {
    "train": (
        ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
        ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    ),
    "test": (
        ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
        ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
    ),
}


# The training images take 47 MB. A larger file is something else.
_LARGEST_FILE = 64 << 20


def _read_idx(folder: Path, name: str, md5: str) -> np.ndarray:
    """The uint8 array in an idx file, plain or gzipped."""
    candidates = [folder / f"{name}{suffix}" for suffix in ("", ".gz")]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise DatasetError(
            f"expected {name} or {name}.gz in {folder}, found neither: name the MNIST folder with --data"
        )
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_LARGEST_FILE)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"cannot read {path}: {error}; fetch the file again") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08" or content[3] not in (1, 3):
        raise DatasetError(
            f"{path} is not an idx file of bytes (magic number {content[:4].hex()}): fetch the file again"
        )
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DatasetError(f"{path} is not the MNIST file {name}: its MD5 differs from {md5}; fetch the file again")
    axes = content[3]
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _load_mnist(split: Split, folder: Path | None) -> Dataset:
    folder = folder or find_mnist()
    if folder is None:
        raise DatasetError(
            "MNIST was not found: name the folder of its four idx files with --data or $COSIM_DATA, "
            "or put them in data/mnist"
        )
    (images_name, images_md5), (labels_name, labels_md5) = _MNIST[split]
    images = _read_idx(folder, images_name, images_md5)
    labels = _read_idx(folder, labels_name, labels_md5)
    return Dataset(
        "mnist",
        torch.from_numpy(images.copy())[:, None],
        255,
        torch.from_numpy(labels.astype(np.int64)),
        f"md5:{images_md5}",
    )


def _load_digits(split: Split, folder: Path | None) -> Dataset:
    """The 8x8 digits bundled with scikit-learn: every fourth image is a test image."""
    if folder is not None:
        raise DatasetError("the digits data set comes with scikit-learn: leave --data out")
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)
    test = np.arange(len(images)) % 4 == 3
    chosen = test if split == "test" else ~test
    return Dataset(
        "digits",
        torch.from_numpy(images[chosen])[:, None],
        16,
        torch.from_numpy(digits.target[chosen].astype(np.int64)),
        "md5:" + hashlib.md5(images.tobytes(), usedforsecurity=False).hexdigest(),
    )


# A record is a label and three planes of 32 x 32.
_CIFAR_RECORD = 1 + 3 * 32 * 32
_CIFAR_FILES = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
# Labels of the first test images of the standard files, by which copies in another order are told apart.
_CIFAR_FIRST_LABELS = {"train": [6, 9, 9, 4, 1, 1, 2, 7, 8, 3], "test": [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]}


def _load_cifar10(split: Split, folder: Path | None) -> Dataset:
    """CIFAR-10 from its binary files; the digest says whether they are the standard ones or a copy of other order."""
    folder = folder or find_cifar10()
    if folder is None:
        raise DatasetError(
            "CIFAR-10 was not found: name the folder of its binary files (data_batch_1.bin .. 5, test_batch.bin) with "
            "--data or $COSIM_DATA, or put them in data/cifar10"
        )
    records, digest = [], hashlib.md5(usedforsecurity=False)
    for name in _CIFAR_FILES[split]:
        path = folder / name
        try:
            with path.open("rb") as file:
                content = file.read(_LARGEST_FILE)
        except OSError as error:
            raise DatasetError(f"cannot read {path}: {error.strerror}; name the folder with --data") from error
        if len(content) == 0 or len(content) % _CIFAR_RECORD:
            raise DatasetError(
                f"{path} must be records of {_CIFAR_RECORD} bytes, found {len(content)} bytes: fetch the file again"
            )
        digest.update(content)
        records.append(np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD))
    whole = np.concatenate(records)
    labels = whole[:, 0].astype(np.int64)
    if labels.max() > 9:
        raise DatasetError(f"{folder} must hold labels 0..9, found {labels.max()}: fetch the files again")
    known = labels[:10].tolist() == _CIFAR_FIRST_LABELS[split]
    return Dataset(
        "cifar10",
        torch.from_numpy(whole[:, 1:].reshape(-1, 3, 32, 32).copy()),
        255,
        torch.from_numpy(labels),
        f"md5:{digest.hexdigest()}" + ("" if known else " (a copy, in another order than the standard files)"),
    )


_LOADERS = {"mnist": _load_mnist, "digits": _load_digits, "cifar10": _load_cifar10}
# (channels, height, width) of an image.
IMAGE_SHAPES = {"mnist": (1, 28, 28), "digits": (1, 8, 8), "cifar10": (3, 32, 32)}


def load_dataset(name: str, split: Split = "test", folder: Path | None = None) -> Dataset:
    """A data set by name.

    Args:
        name: "mnist" (four idx files in `folder`, plain or gzipped), "cifar10" (six binary files) or "digits" (needs
            no files).
        split: "train" or "test".
        folder: where the files lie; None searches as `find_mnist` and `find_cifar10` do.

    Raises:
        DatasetError: unknown name, or files that are missing, damaged or something else.
    """
    if name not in _LOADERS:
        raise DatasetError(f"unknown data set {name!r}: {nearest(name, _LOADERS)}")
    return replace(_LOADERS[name](split, folder), split=split, folder=folder)


@functools.lru_cache(maxsize=1)  # a sweep asks at each of its points
def _last_training_images(name: str, folder: Path | None, count: int) -> Tensor:
    train = load_dataset(name, "train", folder)
    return train.real(max(0, len(train) - count), len(train))


def training_images(dataset: Dataset, count: int) -> Tensor:
    """The last images of the training set that belongs to a data set of test images.

    Returns:
        (count, channels, height, width) with values in 0..1.

    Raises:
        DatasetError: the data set has no training images here, or fewer.
    """
    if dataset.training is None and dataset.name not in _LOADERS:
        raise DatasetError(
            f"a calibration by training images needs those of data set {dataset.name!r}, found none: give it some as "
            'Dataset(training=...), or choose adc.range = "cover" and trim.patterns = "random"'
        )
    if dataset.training is not None:
        whole = dataset.training
    else:
        whole = _last_training_images(dataset.name, dataset.folder, count)
    if count > len(whole):
        raise DatasetError(
            f"{dataset.name} has {len(whole)} training images, expected at least adc.calibration_images = {count}: "
            "lower that"
        )
    return whole[len(whole) - count :]


def find_mnist() -> Path | None:
    """The MNIST folder: $COSIM_DATA, data/mnist or shared/data/mnist here or above, or the user's data folder."""
    name = _MNIST["test"][0][0]
    return _find("mnist", name, f"{name}.gz")


def find_cifar10() -> Path | None:
    """The folder of CIFAR-10's binary files, looked for as `find_mnist` does, in folders named cifar10."""
    return _find("cifar10", *_CIFAR_FILES["test"])


def _find(folder: str, *names: str) -> Path | None:
    """The first of the usual folders that holds a file of one of these names."""
    here = Path.cwd()
    places = []
    if os.environ.get("COSIM_DATA"):
        places += [Path(os.environ["COSIM_DATA"]), Path(os.environ["COSIM_DATA"]) / folder]
    for above in (here, *here.parents):
        places += [above / "data" / folder, above / "shared" / "data" / folder]
    places.append(platformdirs.user_data_path("cosim") / folder)
    return next((place for place in places if any((place / name).is_file() for name in names)), None)
