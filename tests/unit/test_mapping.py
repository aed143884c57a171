"""Tiling, levels and patterns: every weight has one place, every pattern its bits."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cosim.arithmetic.patterns import layer_patterns
from cosim.config import Array, Cell
from cosim.errors import NetworkError
from cosim.mapping import deck_patterns, gray_order, plan_tiles
from tests.conftest import make_layer

ARRAY = Array(wordlines=20, bitlines=4, open_wordlines=5)


@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"weight_bits": 7},
        {"asymmetric": True},
        {"inputs": 6, "outputs": 4, "groups": 2},
        {"outputs": 10},
        {"kernel": (1, 1)},
    ],
)
@pytest.mark.parametrize("encoding", ["offset", "differential"])
def test_untiling_gives_the_weights_back(geometry: dict, encoding: str) -> None:
    layer = make_layer(**geometry)
    plan = plan_tiles(layer, ARRAY.model_copy(update={"encoding": encoding}), Cell(offset_units=0))
    found = torch.full((layer.outputs, layer.weight[0].numel()), 99)
    for group in plan.groups:
        units = torch.from_numpy(group.units.astype(np.int64))
        block = found[slice(*group.outputs), slice(*group.rows)]
        assert (block == 99).all(), "a weight has two places"
        slices = units[:, : len(block) * len(plan.places)].T.reshape(len(block), len(plan.places), -1)
        whole = (slices * torch.from_numpy(plan.places)[:, None]).sum(1)
        if encoding == "offset":
            assert (units[:, -1] == plan.reference_units).all()
            whole -= layer.zero_point[slice(*group.outputs), None]
        block.copy_(whole)
    assert torch.equal(found.reshape(layer.weight.shape), layer.weight.to(torch.int64))


def test_differential_pairs_hold_magnitudes_and_no_reference() -> None:
    layer = make_layer(weight_bits=8, outputs=1, kernel=(1, 1))
    plan = plan_tiles(layer, ARRAY.model_copy(update={"encoding": "differential"}), Cell(offset_units=0))
    (group,) = plan.groups
    assert (plan.places.tolist(), plan.reference_units) == ([16, -16, 1, -1], None)
    for weight, units in zip(layer.weight.flatten().tolist(), group.units.tolist(), strict=True):
        high, low = divmod(abs(weight), 16)
        assert units == ([high, 0, low, 0] if weight > 0 else [0, high, 0, low])


def test_differential_slices_are_as_many_as_the_largest_weight_needs() -> None:
    """Five bits about a zero point of 16 are -16..15: the minus sixteen alone takes a second cell."""
    layer = make_layer(weight_bits=5, inputs=1, outputs=1, kernel=(1, 2))
    for largest, slices in ((-16, 2), (15, 1)):
        layer = replace(layer, weight=torch.tensor([[[[largest, 3]]]], dtype=torch.int32))
        plan = plan_tiles(layer, ARRAY.model_copy(update={"encoding": "differential"}), Cell())
        assert len(plan.places) == 2 * slices


def test_groups_of_a_tile_fit_it_and_do_not_overlap() -> None:
    plan = plan_tiles(make_layer(inputs=9, outputs=7), ARRAY, Cell())
    assert plan.tiles == 1 + max(group.tile for group in plan.groups)
    taken = set()
    for group in plan.groups:
        assert group.units.shape[0] <= ARRAY.open_wordlines
        assert group.units.shape[1] <= ARRAY.bitlines
        assert group.first_input + group.inputs <= ARRAY.wordlines
        for wordline in range(group.first_input, group.first_input + group.inputs):
            assert (group.tile, wordline) not in taken
            taken.add((group.tile, wordline))


def test_groups_know_the_units_of_their_whole_tile() -> None:
    plan = plan_tiles(make_layer(inputs=6, outputs=4, groups=2), ARRAY, Cell())
    held = np.zeros((plan.tiles, ARRAY.wordlines, ARRAY.bitlines), int)
    for group in plan.groups:
        held[group.tile, group.first_input :, : group.units.shape[1]][: group.inputs] = group.units
    for group in plan.groups:
        tile = group.tile_units(ARRAY.wordlines)
        assert np.array_equal(tile, held[group.tile, :, : tile.shape[1]])
        alone = replace(group, around=None).tile_units(ARRAY.wordlines)
        assert alone.sum() == group.units.sum()


def test_patterns_are_the_bits_of_the_unrolled_patch() -> None:
    layer = make_layer(inputs=2, kernel=(2, 3), stride=(2, 1))
    plan = plan_tiles(layer, ARRAY, Cell())
    activations = torch.randint(0, 16, (2, 2, 5, 6), generator=torch.Generator().manual_seed(1)).float()
    patterns = layer_patterns(activations, "bits", 4, plan.chunks, layer.geometry())
    unrolled = F.unfold(activations, (2, 3), stride=(2, 1)).to(torch.int64)  # n, rows, positions
    for stream, wordlines in enumerate(plan.stream_inputs()):
        rows = unrolled[:, stream * 5 : stream * 5 + wordlines]
        for bit in range(4):
            expected = (((rows >> bit) & 1) << torch.arange(wordlines)[:, None]).sum(1)
            assert torch.equal(patterns[..., stream, bit].flatten(1), expected.to(patterns.dtype))


def test_gray_order_changes_one_wordline_at_a_time() -> None:
    order = gray_order(512)
    assert sorted(order) == list(range(512))
    assert all(bin(a ^ b).count("1") == 1 for a, b in itertools.pairwise(order))


def test_decks_hold_whole_blocks_whatever_asked_for_them() -> None:
    few, many = deck_patterns(np.array([3, 300]), 9, 256), deck_patterns(np.arange(512), 9, 256)
    assert [len(deck) for deck in few] == [256, 256]
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=True))
    assert [len(deck) for deck in deck_patterns(np.array([3]), 9, 100)] == [64]
    assert [len(deck) for deck in deck_patterns(np.array([], np.int64), 9, 256)] == []


def test_weights_that_do_not_fit_a_cell() -> None:
    narrow = Array(wordlines=20, bitlines=2, open_wordlines=5)
    with pytest.raises(NetworkError, match=r"8-bit weights take 2 cells.*set array\.bitlines >= 3"):
        plan_tiles(make_layer(weight_bits=8), narrow, Cell())
    flat = Array(wordlines=2, bitlines=20, open_wordlines=2)
    with pytest.raises(NetworkError, match=r"a tile has 2 wordlines: set array\.wordlines >= 3"):
        plan_tiles(make_layer(weight_bits=8), flat, Cell(), transposed=True)
    pairs = Array(wordlines=20, bitlines=3, open_wordlines=5, encoding="differential")
    with pytest.raises(NetworkError, match=r"8-bit weights take 4 cells.*set array\.bitlines >= 4"):
        plan_tiles(make_layer(weight_bits=8), pairs, Cell())
