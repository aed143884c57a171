"""The fit of calibration reads: gains, offsets and a common part that made the readings are found again."""

from __future__ import annotations

import numpy as np
import pytest

from cosim.readout.fit import Moments

BITLINES = 33


def reads(common: float, *, gain_sigma: float = 0.05, noise: float = 0.0) -> tuple[np.ndarray, ...]:
    """Measured, ideal and opened (reads, bitlines), then the gains and offsets that made the measured ones."""
    generator = np.random.default_rng(5)
    units = generator.integers(8, 24, (9, BITLINES))
    states = generator.random((200, 9)) < 0.3
    ideal, opened = states @ units, np.broadcast_to(states.sum(1, keepdims=True), (200, BITLINES))
    gain, offset = 0.9 + gain_sigma * generator.standard_normal(BITLINES), generator.standard_normal(BITLINES)
    measured = gain * (ideal + common * opened) + offset + noise * generator.standard_normal(ideal.shape)
    return measured, ideal, opened, gain, offset


@pytest.mark.parametrize("common", [-6.0, -0.3, 0.0, 2.0, 15.0])
def test_gains_offsets_and_the_common_part_are_found_together(common: float) -> None:
    measured, ideal, opened, gain, offset = reads(common)
    moments = Moments.of(measured, ideal, opened)
    assert moments.common() == pytest.approx(common, abs=1e-9)
    found_gain, found_offset = moments.line(moments.common(), 1.0)
    np.testing.assert_allclose(found_gain, gain, rtol=1e-9)
    np.testing.assert_allclose(found_offset, offset, atol=1e-8)


def test_the_fit_has_the_smallest_squares() -> None:
    """With noise the answer is not what made the readings; but no common part nearby leaves smaller squares."""
    moments = Moments.of(*reads(2.0, gain_sigma=0.2, noise=0.5)[:3])
    variance = moments.covariance[0, 0]

    def squares(common: float) -> float:
        (_, with_ideal, with_opened), *_ = moments.covariance
        return float((variance - moments.slopes(common) * (with_ideal + common * with_opened)).sum())

    best = moments.common()
    assert best == pytest.approx(2.0, abs=0.1)
    assert squares(best) < min(squares(best - 1e-3), squares(best + 1e-3))


def test_bitlines_of_equal_cells_tell_no_common_part() -> None:
    """Nine open cells of level 7 more each: every sum is a multiple of the open wordlines."""
    opened = np.arange(10.0)[:, None].repeat(4, axis=1)
    moments = Moments.of(1.1 * 15 * opened, 15 * opened, opened)
    assert moments.common() == 0
    np.testing.assert_allclose(moments.line(0.0, 1.0)[0], 1.1)


@pytest.mark.parametrize("common", [0.0, 4.0])
def test_a_bitline_that_does_not_answer_takes_the_given_gain(common: float) -> None:
    measured, ideal, opened, gain, _ = reads(common)
    measured = measured.copy()
    measured[:, 3] = 0.25
    moments = Moments.of(measured, ideal, opened)
    found, _ = moments.line(moments.common(), 0.77)
    assert found[3] == 0.77
    np.testing.assert_allclose(np.delete(found, 3), np.delete(gain, 3), rtol=1e-9)
