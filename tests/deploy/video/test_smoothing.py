"""Smoothing with the One-Euro filter."""

from dataclasses import replace
from math import pi

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppose.deploy.video.smoothing import OneEuroSmoother
from ppose.deploy.video.tracking import UNTRACKED, TrackedPoses
from ppose.structures import Poses
from ppose.structures.skeleton import Joint, Skeleton

PAIR = Skeleton("pair", [Joint("a", 0.1), Joint("b", 0.1)], [("a", "b")])
FPS = 30.0


def tracked(*people, ids=None, length=100.0):
    """People with two joints (x, y, score) and boxes of the given length."""
    keypoints = np.array(people, np.float32).reshape(-1, 2, 3)
    boxes = np.tile(np.float32([0, 0, length / 2, length]), (len(keypoints), 1))
    poses = Poses(keypoints, np.ones(len(keypoints), np.float32), boxes, "given", PAIR)
    ids = np.arange(1, len(keypoints) + 1) if ids is None else np.array(ids)
    return TrackedPoses(poses, ids)


def one(x, y=0.0, score=1.0):
    return [[x, y, score], [50, 50, 1]]


def smoothed(values, times=None, **arguments):
    """Smoothed x of the first joint of one person."""
    smoother = OneEuroSmoother(**arguments)
    times = np.arange(len(values)) / FPS if times is None else times
    return np.array(
        [
            smoother(tracked(one(x)), time).poses.keypoints[0, 0, 0]
            for x, time in zip(values, times, strict=True)
        ]
    )


def test_published_formulas():
    """Computed by hand: frames at 0, 0.1 and 0.3 s, a person of length 100, motion along x."""
    min_cutoff, beta, d_cutoff = 1.5, 4.0, 2.0

    def alpha(cutoff, elapsed):
        tau = 1 / (2 * pi * cutoff)
        return 1 / (1 + tau / elapsed)

    x0, x1, x2 = 10.0, 14.0, 12.0
    speed1 = alpha(d_cutoff, 0.1) * (x1 - x0) / 0.1
    share1 = alpha(min_cutoff + beta * abs(speed1) / 100, 0.1)
    y1 = share1 * x1 + (1 - share1) * x0
    share = alpha(d_cutoff, 0.2)
    speed2 = share * (x2 - y1) / 0.2 + (1 - share) * speed1
    share2 = alpha(min_cutoff + beta * abs(speed2) / 100, 0.2)
    y2 = share2 * x2 + (1 - share2) * y1
    found = smoothed(
        [x0, x1, x2],
        [0.0, 0.1, 0.3],
        min_cutoff=min_cutoff,
        beta=beta,
        d_cutoff=d_cutoff,
    )
    np.testing.assert_allclose(found, [x0, y1, y2], rtol=1e-6)


def test_without_beta_it_is_a_low_pass_filter():
    found = smoothed([0, 1, 1, 1], min_cutoff=1.0, beta=0.0)
    share = 1 / (1 + FPS / (2 * pi))
    np.testing.assert_allclose(found, 1 - (1 - share) ** np.arange(4), rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.floats(-1e4, 1e4, width=32), st.integers(0, 2**31))
def test_constant_values_are_unchanged(value, seed):
    times = np.cumsum(np.random.default_rng(seed).uniform(0.01, 0.3, 10))
    np.testing.assert_array_equal(smoothed([value] * 10, times), np.float32([value] * 10))


def test_noise_reduction_and_lag():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 300)
    rest = smoothed(noise, beta=3.0)[30:]
    assert rest.std() < 0.4 and np.diff(rest).std() < 0.2 * np.diff(noise).std()
    moving = 6.0 * np.arange(300)
    assert np.abs(smoothed(moving, beta=30.0) - moving)[30:].max() < 5
    assert np.abs(smoothed(moving, beta=0.0) - moving)[30:].min() > 20


def test_independence_of_the_resolution():
    rng = np.random.default_rng(1)
    values = np.cumsum(rng.normal(0, 5, 50))
    smoothers = [OneEuroSmoother() for _ in range(2)]
    for n, x in enumerate(values):
        small, large = (
            smoother(tracked(one(scale * x), length=scale * 100), n / FPS)
            for smoother, scale in zip(smoothers, (1, 8), strict=True)
        )
        np.testing.assert_allclose(
            8 * small.poses.keypoints[0, 0, 0], large.poses.keypoints[0, 0, 0], rtol=1e-4
        )


def test_rotation_invariance():
    """x and y share the cutoff, so no direction is special."""
    rng = np.random.default_rng(2)
    path = np.cumsum(rng.normal(0, 4, (40, 2)), axis=0)
    rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
    smoothers = [OneEuroSmoother() for _ in range(2)]
    for n, xy in enumerate(path):
        plain = smoothers[0](tracked(one(*xy)), n / FPS).poses.keypoints[0, 0, :2]
        rotated = smoothers[1](tracked(one(*(rotation @ xy))), n / FPS).poses.keypoints[0, 0, :2]
        np.testing.assert_allclose(rotated, rotation @ plain, atol=1e-3)


def test_undetected_joints_are_ignored():
    smoother = OneEuroSmoother()
    for n in range(10):
        smoother(tracked(one(20)), n / FPS)
    lost = smoother(tracked(one(500, score=0.1)), 10 / FPS).poses.keypoints
    np.testing.assert_array_equal(lost[0, 0], np.float32([500, 0, 0.1]))
    back = smoother(tracked(one(20)), 11 / FPS).poses.keypoints
    assert back[0, 0, 0] == 20


def test_filter_restarts_after_memory_seconds():
    for gap, expected in ((0.1, False), (0.4, True)):
        smoother = OneEuroSmoother(memory=0.25)
        smoother(tracked(one(20)), 0.0)
        found = smoother(tracked(one(80)), gap).poses.keypoints[0, 0, 0]
        assert (found == 80) == expected


def test_people_are_identified_by_track_id():
    """Two people whose order alternates."""
    smoother = OneEuroSmoother()
    for n in range(10):
        people = [one(10), one(90)]
        ids = [4, 7]
        if n % 2:
            people, ids = people[::-1], ids[::-1]
        found = smoother(tracked(*people, ids=ids), n / FPS)
        np.testing.assert_array_equal(found.poses.keypoints, np.float32(people))


def test_people_are_smoothed_independently():
    rng = np.random.default_rng(3)
    alone, among = OneEuroSmoother(), OneEuroSmoother()
    for n in range(20):
        x, other = rng.normal(50, 5, 2)
        single = alone(tracked(one(x), ids=[5]), n / FPS).poses.keypoints[0]
        others = [one(other)] * int(rng.integers(0, 2))
        people = tracked(*others, one(x), ids=[9][: len(others)] + [5])
        np.testing.assert_array_equal(among(people, n / FPS).poses.keypoints[-1], single)


def test_untracked_people_are_unchanged():
    smoother = OneEuroSmoother()
    for n, x in enumerate((10, 90)):
        found = smoother(tracked(one(x), ids=[UNTRACKED]), n / FPS)
        assert found.poses.keypoints[0, 0, 0] == x


def test_raw_keypoints_and_scores_are_kept():
    smoother = OneEuroSmoother()
    smoother(tracked(one(10)), 0.0)
    frame = tracked(one(20, score=0.7))
    before = frame.poses.keypoints.copy()
    found = smoother(frame, 0.03)
    np.testing.assert_array_equal(found.raw_keypoints, before)
    np.testing.assert_array_equal(frame.poses.keypoints, before)
    np.testing.assert_array_equal(found.poses.keypoints[..., 2], before[..., 2])
    assert 10 < found.poses.keypoints[0, 0, 0] < 20


def test_no_people_and_nan():
    smoother = OneEuroSmoother()
    assert len(smoother(tracked(), 0.0)) == 0
    smoother(tracked(one(10)), 0.1)
    lost = smoother(tracked(one(np.nan)), 0.2).poses.keypoints
    assert np.isnan(lost[0, 0, 0])
    assert smoother(tracked(one(10)), 0.3).poses.keypoints[0, 0, 0] == 10
    assert len(smoother(replace(tracked(), track_ids=np.zeros(0, np.int64)), 9.0)) == 0


def test_old_tracks_are_dropped():
    smoother = OneEuroSmoother()
    for n in range(200):
        smoother(tracked(one(10), ids=[n + 1]), n / 10)
    assert len(smoother._ids) < 20


@pytest.mark.parametrize(
    "arguments", [{"min_cutoff": 0}, {"beta": -1}, {"d_cutoff": 0}, {"min_joint_score": 2}]
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        OneEuroSmoother(**arguments)
