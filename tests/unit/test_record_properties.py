"""Properties of files of runs, tried on whatever hypothesis thinks of."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

import cosim
from cosim.errors import ConfigError
from cosim.evaluate import RunRecord, compare_record
from cosim.evaluate.provenance import Provenance
from cosim.experiments.bench import Outcome
from cosim.hdf5 import Group, Quantity, read_file, write_file
from cosim.hdf5.sealed import seal
from tests.conftest import make_network, random_images


@pytest.fixture(scope="module")
def record() -> RunRecord:
    """The record of a small run on ideal arrays."""
    dataset = cosim.Dataset("random", random_images(20), 1, torch.arange(20) % 3, "md5:0")
    config = cosim.Config.load(None, ["run.fidelity=ideal", "adc.bits=3"])
    return cosim.infer(cosim.CircuitNetwork(make_network(), config), dataset)


# Properties. Each example that goes through a file starts a reader, so there are few of these.
FEW = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
NUMBERS = st.sampled_from(["i1", "u1", "<i4", ">i4", "<i8", "u8", "<f4", ">f4", "<f8", "f2"]).flatmap(
    lambda kind: arrays_of.arrays(kind, SHAPES)
)
TEXTS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=4).map(
    lambda texts: np.array([*texts, ""], object)[:-1]
)
NAMES = st.text("abcxyz019_", min_size=1, max_size=6)
ATTRIBUTES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
)


@st.composite
def groups(draw: st.DrawFn, depth: int = 0) -> Group:
    names = draw(st.lists(NAMES, unique=True, max_size=5))
    inner = {name: draw(groups(depth + 1)) for name in names[:2]} if depth < 2 else {}
    arrays = {name: draw(st.one_of(NUMBERS, TEXTS)) for name in names[2:]}
    return Group(arrays, draw(st.dictionaries(NAMES, ATTRIBUTES, max_size=3)), inner)


def assert_equal(found: Group, expected: Group) -> None:
    assert found.attributes == expected.attributes
    assert found.arrays.keys() == expected.arrays.keys()
    for name, values in expected.arrays.items():
        assert found.arrays[name].dtype == values.dtype.newbyteorder("=")
        assert found.arrays[name].shape == values.shape
        assert np.array_equal(found.arrays[name], values, equal_nan=values.dtype.kind == "f")
    assert found.groups.keys() == expected.groups.keys()
    for name, group in expected.groups.items():
        assert_equal(found.groups[name], group)


@FEW
@given(content=groups())
def test_any_content_comes_back_from_a_file(content: Group, tmp_path: Path) -> None:
    write_file(tmp_path / "any.h5", content)
    assert_equal(read_file(tmp_path / "any.h5"), content)


@FEW
@given(content=st.binary(max_size=2000), sealed=st.booleans())
def test_any_bytes_are_refused_with_a_reason(content: bytes, sealed: bool, tmp_path: Path) -> None:
    (tmp_path / "any.h5").write_bytes(seal(bytes(512) + content) if sealed else content)
    with pytest.raises(ValueError, match=r".+"):
        read_file(tmp_path / "any.h5")


@FEW
@given(data=st.data())
def test_a_record_of_any_figures_comes_back(data: st.DataObject, record: RunRecord, tmp_path: Path) -> None:
    def like(values: np.ndarray) -> np.ndarray:
        """Other numbers of the same type and shape."""
        if values.dtype.kind == "f":
            return data.draw(arrays_of.arrays(values.dtype, values.shape, elements=st.floats(-1e6, 1e6, width=32)))
        return data.draw(arrays_of.arrays(values.dtype, values.shape, elements=st.integers(1, 1000)))

    layer = record.layers[0]
    figures = {name: like(values) for name, values in vars(layer.summary.groups).items()}
    summary = replace(layer.summary, groups=replace(layer.summary.groups, **figures), correlation=None)
    changed = replace(
        layer,
        summary=summary,
        kept=None,
        highest_code=data.draw(st.none() | st.integers(0, 10**6)),
        trim_gain=data.draw(st.floats(-10, 10)),
        tiles=data.draw(st.integers(0, 10**9)),
    )
    whole = replace(record, layers=[changed], logits_float=None, waveform=None, audit=None)
    whole.save(tmp_path / "any.h5")
    again = RunRecord.load(tmp_path / "any.h5")
    assert compare_record(again) == compare_record(whole)
    assert again.layers[0].geometry == layer.geometry
    assert again.layers[0].highest_code == changed.highest_code


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    values=st.one_of(NUMBERS, TEXTS),
    kind=st.sampled_from(["count", "integer", "real", "real or nan", "finite", "byte", "text"]),
    axes=st.lists(st.sampled_from("ab"), max_size=3),
)
def test_a_checked_array_is_what_was_asked_for(values: np.ndarray, kind: Any, axes: list[str]) -> None:
    sizes: dict[str, int] = {"a": 3}
    with suppress(ValueError):
        Quantity(kind, " ".join(axes), "").check("x", values, sizes)
        assert values.shape == tuple(sizes[axis] for axis in axes)
        assert kind != "count" or (values >= 0).all()
        assert kind not in ("real", "finite") or np.isfinite(values.astype(float)).all()
        assert (values.dtype.kind == "O") == (kind == "text")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(value=JSON, key=st.sampled_from(["images", "config", "usage", "chip", "seconds", "versions", "machine", "date"]))
def test_any_entry_of_a_provenance_is_taken_or_refused(value: object, key: str) -> None:
    images = cosim.Dataset("none", torch.zeros(1, 1, 6, 6), 1, torch.zeros(1), digest="")
    written = Provenance.of(make_network(), images, cosim.Config(), "ideal").to_json()
    with suppress(ValueError, ConfigError):
        came = Provenance.from_json(json.dumps(written | {key: value}))
        assert Provenance.from_json(json.dumps(came.to_json())) == came


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    bits=arrays_of.arrays(bool, st.tuples(st.just(2), st.integers(1, 20))),
    figures=st.lists(st.just(math.nan) | st.floats(-1e9, 1e9), min_size=8, max_size=8),
    damage=st.integers(0, 10**6),
)
def test_the_outcome_of_a_point_comes_back_or_is_found_damaged(
    bits: np.ndarray, figures: list[float], damage: int
) -> None:
    outcome = Outcome(*bits, *figures)
    text = outcome.to_json()
    again = Outcome.from_json(text, bits.shape[1])
    assert np.array_equal(again.right, outcome.right)
    assert again.to_json() == text
    place = damage % (len(text) - 1)
    damaged = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
    with pytest.raises(ValueError, match=r".+"):
        Outcome.from_json(damaged, bits.shape[1])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_configuration_comes_back_without_its_machine(data: st.DataObject) -> None:
    keys = [f"{section}.{key}" for section, values in cosim.Config() for key in type(values).model_fields]
    chosen = data.draw(st.lists(st.sampled_from(keys), unique=True, max_size=4))
    value = st.booleans() | st.integers(0, 300) | st.floats(0, 10) | st.sampled_from(["ideal", "none", "all", "cells"])
    with suppress(ConfigError):  # most values are of another key's kind, or contradict another's
        config = cosim.Config().with_values({key: data.draw(value) for key in chosen})
        again = cosim.Config.from_record(json.loads(json.dumps(config.to_record())))
        assert again.on_machine(config) == config
        assert again.machine == cosim.Config().machine
