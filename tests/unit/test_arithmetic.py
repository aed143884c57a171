"""Training, software and converters share one arithmetic: what each makes of a layer is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cosim.arithmetic.codes import nearest_codes, reaching_units
from cosim.arithmetic.partial_sums import Columns, PartialSums
from cosim.arithmetic.placement import Chunks, Placement
from cosim.arithmetic.planes import bit_planes, every_pattern, pattern_bits, plane_counts, pulse_planes
from cosim.config import Array, Cell
from cosim.errors import NetworkError
from cosim.mapping import plan_tiles
from tests.conftest import make_layer


@pytest.mark.parametrize("geometry", [{}, {"inputs": 4, "outputs": 4, "groups": 2}, {"kernel": (1, 5)}])
@pytest.mark.parametrize("offset_units", [0, 8])
def test_columns_are_the_tiles_of_one_placement(geometry: dict, offset_units: int) -> None:
    layer = make_layer(**geometry)
    plan = plan_tiles(layer, Array(open_wordlines=4), Cell(offset_units=offset_units))
    how = PartialSums(4, 4, 1.0, None, offset_units)
    columns = Columns.of(layer.levels(), layer.zero_point, how, layer.geometry(), layer.activation_bits)
    assert (columns.chunks, columns.reference_units) == (plan.chunks, plan.reference_units)
    assert columns.zero_units.flatten().tolist() == plan.zero_units.tolist()
    assert torch.equal(columns.kernels.to(torch.float64), plan.pattern_kernels)
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
    assert chunks.pattern_kernels()[-1].flatten().tolist() == [0, 0, 0, 0, 1, 2]


def test_patterns_beyond_exact_numbers_are_refused() -> None:
    """A wrong pattern would go unnoticed: float64 holds sums of 53 powers of two, and no more."""
    kernels = Chunks((53, 1, 1), 1, 64).pattern_kernels().flatten()
    assert int(kernels.sum()) == 2**53 - 1
    with pytest.raises(NetworkError, match=r"patterns of 54 inputs cannot be numbered.*lower array\.open_wordlines"):
        Chunks((54, 1, 1), 1, 64).pattern_kernels()


def test_planes_add_up_to_the_activations() -> None:
    activations = torch.arange(16.0)
    summed = sum(plane * count for plane, count in zip(bit_planes(activations, 4), plane_counts(4), strict=True))
    assert torch.equal(summed, activations)
    assert torch.equal(sum(plane.to(torch.float32) for plane in pulse_planes(activations, 4)), activations)


def test_arrays_and_tensors_follow_the_same_rules() -> None:
    patterns, positions = np.arange(32), np.linspace(-3, 9, 49, dtype=np.float32)
    assert np.array_equal(pattern_bits(patterns, 5), pattern_bits(torch.from_numpy(patterns), 5).numpy())
    assert np.array_equal(pattern_bits(patterns, 5), every_pattern(5, torch.device("cpu")).numpy())
    for highest in (None, 7):
        codes = nearest_codes(positions, highest)
        assert codes.dtype == np.float32
        assert np.array_equal(codes, nearest_codes(torch.from_numpy(positions), highest).numpy())
        assert codes.min() == 0
    assert reaching_units(np.array([0, 255, 256]), 255).tolist() == [1, 1, 2]
