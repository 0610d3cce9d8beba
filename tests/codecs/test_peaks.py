"""Peaks: Gaussians with known positions, and a reference loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ppose.codecs.peaks import find_peaks

SIGMA = 2.25
WIDTH, HEIGHT = 40, 24

inside = st.tuples(st.floats(4, WIDTH - 5), st.floats(4, HEIGHT - 5))


def gaussian(x, y, width=WIDTH, height=HEIGHT, top=1.0):
    across = np.exp(-((np.arange(width) - x) ** 2) / (2 * SIGMA**2))
    down = np.exp(-((np.arange(height) - y) ** 2) / (2 * SIGMA**2))
    return (top * down[:, None] * across).astype(np.float32)


@given(inside, st.floats(0.2, 1))
def test_the_position_of_a_gaussian_is_exact(position, top):
    peaks = find_peaks(gaussian(*position, top=top)[None])
    assert len(peaks) == 1
    assert np.allclose(peaks.xy[0], position, atol=1e-3)
    assert np.isclose(peaks.score[0], top, atol=1e-3)


@pytest.mark.parametrize("position", [(12.5, 9), (12, 9.5), (12.5, 9.5)])
def test_equal_neighbouring_cells_are_one_peak(position):
    peaks = find_peaks(gaussian(*position)[None])
    assert len(peaks) == 1
    assert np.allclose(peaks.xy[0], position, atol=1e-4)


@pytest.mark.parametrize(
    "position", [(0, 0), (0, 9), (WIDTH - 1, 11), (7, HEIGHT - 1), (WIDTH - 1, HEIGHT - 1)]
)
def test_a_peak_on_the_border(position):
    peaks = find_peaks(gaussian(*position)[None])
    assert np.allclose(peaks.xy, [position], atol=1e-3)


def test_the_peak_of_a_joint_outside_is_on_the_border():
    peaks = find_peaks(gaussian(-1, 9.3)[None])
    assert np.allclose(peaks.xy, [(0, 9.3)], atol=1e-3)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 9))
def test_maxima_equal_a_reference_loop(seed, threshold, most):
    maps = np.random.default_rng(seed).random((2, 7, 9), np.float32)
    peaks = find_peaks(maps, threshold, most)
    for joint, plane in enumerate(maps):
        around = np.pad(plane, 1, constant_values=-1)
        cells = [
            (plane[y, x], x, y)
            for y in range(7)
            for x in range(9)
            if plane[y, x] == around[y : y + 3, x : x + 3].max() and plane[y, x] > threshold
        ]
        cells = np.array(sorted(cells, reverse=True)[:most]).reshape(-1, 3)
        found = peaks.xy[peaks.joint == joint]
        assert len(found) == len(cells)
        assert (np.abs(found - cells[:, 1:]) <= 0.5).all()


@given(hnp.arrays(np.float32, (1, 5, 6), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])))
def test_plateaus_give_finite_peaks_inside_the_map(maps):
    peaks = find_peaks(maps)
    assert (len(peaks) > 0) == (maps.max() > 0.1)
    assert np.isfinite(peaks.xy).all()
    assert (peaks.xy >= 0).all()
    assert (peaks.xy <= (5, 4)).all()
    assert ((peaks.score > 0.1) & (peaks.score <= 1)).all()


def test_a_constant_map_has_one_peak():
    assert len(find_peaks(np.full((1, 64, 64), 0.5, np.float32))) == 1


def test_empty_maps_have_no_peaks():
    peaks = find_peaks(np.zeros((3, HEIGHT, WIDTH), np.float32))
    assert len(peaks) == 0
    assert peaks.xy.shape == (0, 2)


def test_the_highest_peaks_are_kept():
    maps = np.random.default_rng(0).random((18, 128, 128), np.float32) / 2
    maps[5] = np.maximum(maps[5], gaussian(70.3, 40.6, 128, 128))
    unbounded = find_peaks(maps, max_peaks=10**6)
    assert len(unbounded) > 10_000
    peaks = find_peaks(maps, max_peaks=100)
    assert (np.bincount(peaks.joint) == 100).all()
    assert (np.diff(peaks.joint) >= 0).all()
    assert np.hypot(*(peaks.xy[peaks.joint == 5][0] - (70.3, 40.6))) < 1


def test_float16_maps_and_views_give_the_same_peaks():
    maps = np.stack([gaussian(10.2, 8.7), gaussian(20.1, 12.4)]).astype(np.float16)
    whole = find_peaks(maps.astype(np.float32))
    for same in (maps, np.repeat(maps, 2, 2)[:, :, ::2], np.asfortranarray(maps)):
        peaks = find_peaks(same)
        assert (peaks.xy == whole.xy).all()
        assert (peaks.score == whole.score).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_errors_name_a_map_that_is_not_finite(value):
    maps = np.zeros((4, HEIGHT, WIDTH), np.float32)
    maps[2, 5, 7] = value
    with pytest.raises(ValueError, match=rf"joint map 2 is {value} at x=7, y=5"):
        find_peaks(maps)


def test_large_finite_values_are_accepted():
    maps = np.full((1, 8, 8), 3e38, np.float32)
    assert find_peaks(maps).score.max() == 1


def test_maps_need_three_axes():
    with pytest.raises(ValueError, match=r"joint maps of shape \(C, h, w\), found \(24, 40\)"):
        find_peaks(gaussian(5, 5))
