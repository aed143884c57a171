"""Data sets: the real files where they are, and files that are something else."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cosim.datasets import find_mnist, load_dataset
from cosim.errors import DatasetError

NAMES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def test_digits_need_no_files_and_do_not_overlap() -> None:
    training, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    assert (len(training), len(test)) == (1348, 449)
    assert test.images.max() == test.full_scale == 16
    assert set(test.labels.tolist()) == set(range(10))


@pytest.mark.skipif(find_mnist() is None, reason="MNIST is not here: put its files in data/mnist or set $COSIM_DATA")
def test_mnist_plain_and_gzipped(tmp_path: Path) -> None:
    packed = load_dataset("mnist")
    assert packed.images.shape == (10000, 1, 28, 28)
    assert packed.labels[:5].tolist() == [7, 2, 1, 0, 4]
    found = find_mnist()
    assert found is not None
    for name in NAMES:
        source = found / f"{name}.gz"
        content = gzip.decompress(source.read_bytes()) if source.exists() else (found / name).read_bytes()
        (tmp_path / name).write_bytes(content)
    assert load_dataset("mnist", folder=tmp_path).images.equal(packed.images)


def test_unknown_data_set_suggests_the_nearest() -> None:
    with pytest.raises(DatasetError, match="did you mean 'mnist'"):
        load_dataset("minst")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "found neither: name the MNIST folder with --data"),
        (b"not gzip", "cannot read"),
        (gzip.compress(b"GIF89a"), "not an idx file of bytes"),
        (gzip.compress(b""), "not an idx file of bytes"),
        (gzip.compress(b"\0\0\x08\x03" + bytes(100)), "its MD5 differs"),
        (gzip.compress(b"\0\0\x08\x03" + bytes(100))[:-9], "cannot read"),
    ],
)
def test_files_that_are_not_mnist(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        for name in NAMES:
            (tmp_path / f"{name}.gz").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        load_dataset("mnist", folder=tmp_path)


def test_more_images_than_there_are() -> None:
    with pytest.raises(DatasetError, match="ask for 1 to 449, not 1000"):
        load_dataset("digits").head(1000)


def test_mnist_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COSIM_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    if find_mnist() is None:
        with pytest.raises(DatasetError, match="MNIST was not found"):
            load_dataset("mnist")
