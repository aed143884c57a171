"""Training, software and converters share one arithmetic: what each makes of a layer is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cosim.arithmetic.codes import nearest_codes, reaching_units
from cosim.arithmetic.partial_sums import Columns, PartialSums
from cosim.arithmetic.patterns import (
    PlaneKind,
    every_pattern,
    layer_patterns,
    out_size,
    pattern_bits,
    plane_states,
    state_bits,
    states_at,
)
from cosim.arithmetic.placement import Chunks, Placement
from cosim.config import Array, Cell
from cosim.mapping import plan_tiles
from tests.conftest import make_layer


@pytest.mark.parametrize("geometry", [{}, {"inputs": 4, "outputs": 4, "groups": 2}, {"kernel": (1, 5)}])
@pytest.mark.parametrize("offset_units", [0, 8])
def test_columns_are_the_tiles_of_one_placement(geometry: dict, offset_units: int) -> None:
    layer = make_layer(**geometry)
    plan = plan_tiles(layer, Array(open_wordlines=4), Cell(offset_units=offset_units))
    how = PartialSums(4, 4, 1.0, None, offset_units)
    columns = Columns.of(layer.levels(), layer.zero_point, how, layer.geometry(), layer.activation_bits)
    assert (columns.chunks, columns.reference_units) == (plan.chunks.count, plan.reference_units)
    assert columns.zero_units.flatten().tolist() == plan.zero_units.tolist()
    assert columns.cut == plan.chunks
    assert len(columns.units) == len(plan.groups), "one block of outputs a tile"
    for group in plan.groups:
        held = columns.units[group.stream].T.numpy()
        assert np.array_equal(held[: group.inputs], group.units)
        assert not held[group.inputs :].any()


def test_slices_of_a_weight_add_up_to_it() -> None:
    layer = make_layer(weight_bits=8)
    chunks = Chunks(tuple(layer.weight.shape[1:]), 1, 9)
    placed = {
        "offset": Placement.offset(layer.levels(), layer.zero_point, 8, 3, 0, chunks),
        "differential": Placement.differential(layer.weight, 3, 0, chunks),
    }
    expected = {"offset": layer.levels(), "differential": layer.weight}
    for encoding, found in placed.items():
        assert int(found.units.max()) < 8
        whole = (found.units * torch.tensor(found.places)[:, None]).sum(1)
        assert torch.equal(whole, expected[encoding].flatten(1).to(whole.dtype))


def test_chunks_cut_a_kernel_into_rows() -> None:
    chunks = Chunks((2, 3, 1), 5, 4)
    assert (chunks.depth, chunks.count, chunks.streams) == (6, 2, 10)
    assert [chunks.rows(chunk) for chunk in range(2)] == [(0, 4), (4, 6)]
    assert chunks.cut(torch.arange(1, 7)).tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]


@pytest.mark.parametrize("open_inputs", [4, 9, 64, 100])
@pytest.mark.parametrize(
    ("bits", "kind"), [(1, "bits"), (2, "bits"), (4, "bits"), (8, "bits"), (3, "pulses"), (4, "values")]
)
@pytest.mark.parametrize(
    ("kernel", "groups", "stride", "dilation"),
    [((2, 3, 3), 1, (1, 1), (1, 1)), ((20, 1, 1), 2, (2, 1), (1, 1)), ((4, 5, 5), 1, (1, 2), (1, 1)),
     ((3, 2, 3), 2, (1, 1), (2, 1)), ((30, 3, 3), 1, (1, 1), (1, 1))],
)  # fmt: skip
def test_patterns_are_what_unfolding_shows(
    open_inputs: int,
    bits: int,
    kind: PlaneKind,
    kernel: tuple[int, ...],
    groups: int,
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    chunks = Chunks(kernel, groups, open_inputs)
    geometry = {"stride": stride, "dilation": dilation, "groups": groups}
    generator = torch.Generator().manual_seed(0)
    activations = torch.randint(0, 2**bits, (2, kernel[0] * groups, 8, 9), generator=generator).float()
    patterns = layer_patterns(activations, kind, bits, chunks, geometry)
    n, height, width, streams, planes = patterns.shape
    assert (height, width) == out_size(kernel, (8, 9), geometry)
    unfolded = F.unfold(activations, kernel[1:], stride=stride, dilation=dilation).to(torch.int64)
    unfolded = unfolded.view(n, groups, chunks.depth, height, width)
    places = torch.tensor([[1, height - 1, 0, 0], [0, 0, width - 1, planes - 1]])
    for stream in range(streams):
        group, chunk = divmod(stream, chunks.count)
        first, last = chunks.rows(chunk)
        states = plane_states(kind, bits)[unfolded[:, group, first:last]]  # n, inputs, height, width, planes
        found = states_at(activations, kind, bits, chunks, geometry, stream, places)
        expected = torch.stack([states[i, :, y, x, plane] for i, y, x, plane in places.tolist()])
        assert torch.equal(found.to(torch.int64), expected)
        per_state = state_bits(kind, bits)
        if open_inputs * per_state <= 62:
            numbers = (states << per_state * torch.arange(last - first)[:, None, None, None]).sum(1)
            assert torch.equal(patterns[..., stream, :].to(torch.int64), numbers)
        else:  # hashes: as many as there are different states
            different = states.movedim(1, -1).flatten(0, -2).unique(dim=0)
            assert len(different) == len(patterns[..., stream, :].unique())


def test_arrays_and_tensors_follow_the_same_rules() -> None:
    positions = np.linspace(-3, 9, 49, dtype=np.float32)
    assert np.array_equal(pattern_bits(np.arange(32), 5), every_pattern(5, torch.device("cpu")).numpy())
    for highest in (None, 7):
        codes = nearest_codes(positions, highest)
        assert codes.dtype == np.float32
        assert np.array_equal(codes, nearest_codes(torch.from_numpy(positions), highest).numpy())
        assert codes.min() == 0
    assert reaching_units(np.array([0, 255, 256]), 255).tolist() == [1, 1, 2]
