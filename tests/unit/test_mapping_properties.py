"""Properties of mapping, tried on whatever layers and tiles hypothesis thinks of."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from cosim.config import Config
from cosim.errors import ConfigError, NetworkError
from cosim.mapping import TilePlan, plan_tiles
from cosim.network import LayerSpec
from tests.conftest import make_layer

THOROUGH = settings(max_examples=80, deadline=None, derandomize=True)


@st.composite
def layers(draw: st.DrawFn) -> LayerSpec:
    groups = draw(st.integers(1, 4))
    return make_layer(
        outputs=groups * draw(st.integers(1, 6)),
        inputs=groups * draw(st.integers(1, 5)),
        kernel=(draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        weight_bits=draw(st.integers(1, 8)),
        groups=groups,
        asymmetric=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


@st.composite
def circuits(draw: st.DrawFn) -> Config:
    keys = {
        "array.wordlines": st.integers(1, 70),
        "array.bitlines": st.integers(2, 70),
        "array.open_wordlines": st.integers(1, 40),
        "array.encoding": st.sampled_from(["offset", "differential"]),
        "cell.bits": st.integers(1, 6),
        "cell.offset_units": st.integers(0, 64),
        "read.mode": st.sampled_from(["bit-serial", "amplitude"]),
        "array.source_line_wordlines": st.just(1),
    }
    try:
        return Config().with_values({key: draw(values) for key, values in keys.items()})
    except ConfigError:
        assume(False)
        raise


@THOROUGH
@given(layers(), circuits())
def test_every_weight_is_in_exactly_one_place_of_a_tile(layer: LayerSpec, config: Config) -> None:
    transposed = config.read.mode == "amplitude"
    lines = (config.array.wordlines, config.array.bitlines)
    try:
        plan = plan_tiles(layer, config.array, config.cell, transposed=transposed)
    except NetworkError:
        references = int(config.array.encoding == "offset")
        assert lines[0 if transposed else 1] < 2 * layer.weight_bits + references, "there was room for an output"
        event("a tile is too small for an output")
        return
    taken: dict[int, np.ndarray] = {}
    for group in plan.groups:
        tile = taken.setdefault(group.tile, np.zeros(lines[::-1] if transposed else lines, bool))
        held = tile[group.first_input :, : group.units.shape[1]][: group.inputs]
        assert held.shape == group.units.shape, "the group does not fit its tile"
        # The groups of a grouped convolution share output lines, never a cell.
        assert not held.any(), "a cell holds two weights"
        held[...] = True
    assert set(taken) == set(range(plan.tiles))
    assert torch.equal(reassembled(plan, config), layer.weight.to(torch.int64))


def reassembled(plan: TilePlan, config: Config) -> torch.Tensor:
    """The weights, from the units of the cells alone."""
    layer, offset = plan.layer, config.cell.offset_units
    found = np.full((layer.outputs, layer.weight[0].numel()), 9999)
    for group in plan.groups:
        units = group.units.astype(np.int64)
        assert units.max() <= config.cell.most_units
        assert group.inputs == group.rows[1] - group.rows[0] <= config.array.open_wordlines
        references = int(plan.reference_units is not None)
        assert units.shape[1] == (group.outputs[1] - group.outputs[0]) * len(plan.places) + references
        if references:
            assert (units[:, -1] == plan.reference_units).all()
        levels = units[:, : units.shape[1] - references] - offset
        assert levels.min() >= 0
        block = found[slice(*group.outputs), slice(*group.rows)]
        assert (block == 9999).all(), "a weight has two places"
        weights = (levels.T.reshape(len(block), len(plan.places), -1) * plan.places[:, None]).sum(1)
        block[...] = weights - (layer.zero_point[slice(*group.outputs), None].numpy() if references else 0)
    assert (found != 9999).all(), "a weight has no place"
    return torch.from_numpy(found.reshape(layer.weight.shape))


@THOROUGH
@given(layers(), circuits())
def test_rows_are_cut_into_streams_without_gaps(layer: LayerSpec, config: Config) -> None:
    transposed = config.read.mode == "amplitude"
    try:
        plan = plan_tiles(layer, config.array, config.cell, transposed=transposed)
    except NetworkError:
        assume(False)
    for stream, groups in itertools.groupby(
        sorted(plan.groups, key=lambda each: each.stream), lambda each: each.stream
    ):
        same = list(groups)
        assert {group.rows for group in same} == {plan.chunks.rows(stream % plan.chunks.count)}
        outputs = sorted(group.outputs for group in same)
        columns = layer.outputs // layer.groups
        first = stream // plan.chunks.count * columns
        assert [outputs[0][0], outputs[-1][1]] == [first, first + columns]
        assert all(before[1] == after[0] for before, after in itertools.pairwise(outputs))
