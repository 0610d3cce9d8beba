"""Tracking: identities through crossings, gaps and occlusion; the assignment."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ppose.deploy.video.tracking import UNTRACKED, TrackedPoses, Tracker, assign
from ppose.structures import Poses
from ppose.structures.skeleton import COCO17

# A standing person of height 1, relative to the middle of the feet: x, y of the 17 joints.
STANDING = np.array(
    [
        *[[0.0, -0.93], [0.02, -0.95], [-0.02, -0.95], [0.04, -0.94], [-0.04, -0.94]],
        *[[0.11, -0.82], [-0.11, -0.82], [0.14, -0.65], [-0.14, -0.65], [0.15, -0.5]],
        *[[-0.15, -0.5], [0.07, -0.52], [-0.07, -0.52], [0.07, -0.28], [-0.07, -0.28]],
        *[[0.07, -0.04], [-0.07, -0.04]],
    ]
)


def person(x, y=200.0, height=160.0, score=0.9, noise=0.0, rng=None):
    keypoints = np.ones((17, 3), np.float32)
    keypoints[:, :2] = STANDING * height + (x, y)
    if noise:
        keypoints[:, :2] += rng.normal(0, noise, (17, 2))
    return keypoints, score


def poses(*people):
    if not people:
        return Poses.empty(COCO17)
    keypoints = np.array([k for k, _ in people], np.float32)
    low, high = keypoints[..., :2].min(1), keypoints[..., :2].max(1)
    boxes = np.concatenate([low, high - low], 1)
    scores = np.array([s for _, s in people], np.float32)
    return Poses(keypoints, scores, boxes, "given", COCO17)


def crossing(frame, noise=0.0, rng=None, hidden=0.0):
    """Two people who pass each other at frame 30; near each other the second is not detected."""
    left, right = 120 + 6.0 * frame, 480 - 6.0 * frame
    found = [person(left, 200, 160, noise=noise, rng=rng)]
    if abs(left - right) >= hidden:
        found.append(person(right, 195, 150, noise=noise, rng=rng))
    return found


@pytest.mark.parametrize("hidden", [0, 30, 90, 150])
@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_crossing_people_keep_their_ids(hidden, step, seed):
    rng = np.random.default_rng(seed)
    tracker = Tracker()
    for frame in range(0, 61, step):
        tracked = tracker(poses(*crossing(frame, 1.5, rng, hidden)), frame / 30)
        assert tracked.track_ids[0] in (1, 2) and UNTRACKED not in tracked.track_ids
        if frame == 0:
            first = tracked.track_ids
    np.testing.assert_array_equal(tracked.track_ids, first)


def test_without_motion_model_crossing_people_swap_ids(monkeypatch):
    """The same scene with a tracker that predicts no motion."""
    monkeypatch.setattr(Tracker, "_motion", lambda self, known, keypoints: (0, np.False_))
    tracker = Tracker()
    first = last = None
    for frame in range(61):
        last = tracker(poses(*crossing(frame, hidden=150)), frame / 30).track_ids
        first = last if first is None else first
    assert list(last) != list(first)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31))
def test_ids_are_independent_of_the_order_of_people(seed):
    rng = np.random.default_rng(seed)
    plain, shuffled = Tracker(), Tracker()
    start = rng.uniform(50, 600, 4)
    speed = rng.uniform(-8, 8, 4)
    for frame in range(8):
        found = [
            person(x, 200, 150, score=0.5 + 0.1 * n, noise=1, rng=rng)
            for n, x in enumerate(start + speed * frame)
            if rng.random() > 0.2
        ]
        order = rng.permutation(len(found))
        ids = plain(poses(*found), frame / 30).track_ids
        mixed = shuffled(poses(*(found[i] for i in order)), frame / 30).track_ids
        np.testing.assert_array_equal(mixed, ids[order])


def test_max_missed():
    for missed, expected in ((10, 1), (11, UNTRACKED)):
        tracker = Tracker(max_missed=10)
        for frame in range(5):
            tracker(poses(person(100 + 4 * frame)), frame / 30)
        for frame in range(5, 5 + missed):
            assert len(tracker(poses(), frame / 30)) == 0
        frame = 5 + missed
        assert tracker(poses(person(100 + 4 * frame)), frame / 30).track_ids == [expected]


def test_max_gap():
    for gap, expected in ((1.5, 1), (2.5, 2)):
        tracker = Tracker(max_gap=2.0)
        for frame in range(3):
            tracker(poses(person(100)), frame / 30)
        assert tracker(poses(person(100)), 2 / 30 + gap).track_ids == [expected]


def test_new_people_are_confirmed_after_consecutive_frames():
    tracker = Tracker(confirm_hits=3)
    tracker(poses(person(100)), 0.0)
    seen = []
    for frame in range(1, 9):
        found = [person(100)] + ([person(400)] if frame not in (3,) else [])
        seen.append(tracker(poses(*found), frame / 30).track_ids.tolist())
    assert seen == [[1, -1], [1, -1], [1], [1, -1], [1, -1], [1, 2], [1, 2], [1, 2]]


def test_ids_are_never_reused():
    tracker = Tracker(max_missed=2, confirm_hits=1)
    seen = set()
    for visit in range(5):
        for frame in range(10):
            people = [person(100 + 50 * visit)] if frame < 4 else []
            seen |= set(tracker(poses(*people), visit + frame / 30).track_ids.tolist())
    assert seen == {1, 2, 3, 4, 5}


def test_the_person_with_the_highest_score_gets_the_first_id():
    tracked = Tracker()(poses(person(500, score=0.3), person(100, score=0.8)), 0.0)
    assert tracked.track_ids.tolist() == [2, 1]


def test_low_scores_do_not_start_tracks():
    tracker = Tracker(new_score=0.5, min_score=0.2, confirm_hits=1)
    tracker(poses(person(100)), 0.0)
    found = poses(person(101, score=0.3), person(400, score=0.3), person(102, 203, score=0.1))
    assert tracker(found, 1 / 30).track_ids.tolist() == [1, -1, -1]


def test_partly_occluded_person_keeps_the_id():
    """Legs behind a table: joints with low scores, a box around the visible part."""
    tracker = Tracker()
    for frame in range(20):
        keypoints, score = person(100 + 5 * frame)
        found = poses((keypoints, score))
        if frame >= 5:
            keypoints[7:, 2] = 0.02
            keypoints[7:, :2] = 0
            top = keypoints[:7, :2]
            found = poses((keypoints, 0.4))
            box = np.concatenate([top.min(0), np.ptp(top, axis=0)])[None]
            found = Poses(found.keypoints, found.scores, box, "given", COCO17)
        assert tracker(found, frame / 30).track_ids == [1]


def test_dropped_frames():
    """Motion is predicted by timestamps, so a running person is tracked across dropped frames."""
    tracker = Tracker()
    for frame in (0, 1, 2, 3, 4, 5, 6, 7, 8, 20, 21, 34, 35):
        tracked = tracker(poses(person(100 + 15 * frame)), frame / 30)
        assert tracked.track_ids == [1]


def test_poses_are_retransposed_unchanged():
    found = poses(person(100), person(300))
    tracked = Tracker()(found, 0.0)
    assert tracked.poses is found and tracked.raw_keypoints is None
    assert len(Tracker()(poses(), 0.0)) == 0


@pytest.mark.filterwarnings("error")
@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        arrays(
            np.float32,
            (3, 17, 3),
            elements=st.floats(width=32) | st.sampled_from([0, 1, 100, 1e30, np.nan, np.inf]),
        ),
        min_size=2,
        max_size=4,
    )
)
def test_extreme_values(frames):
    tracker = Tracker(confirm_hits=1)
    with np.errstate(all="ignore"):
        for n, keypoints in enumerate(frames):
            boxes = keypoints[:, :2].reshape(3, -1)[:, :4]
            found = Poses(keypoints, np.full(3, 0.5, np.float32), boxes, "given", COCO17)
            ids = tracker(found, float(n)).track_ids
            known = ids[ids != UNTRACKED]
            assert len(set(known.tolist())) == len(known)


def test_time_must_increase():
    tracker = Tracker()
    tracker(poses(person(100)), 1.0)
    for time in (1.0, 0.5, float("nan")):
        with pytest.raises(ValueError, match="time: expected above 1 seconds"):
            tracker(poses(person(100)), time)


@pytest.mark.parametrize(
    "arguments",
    [{"new_score": 1.5}, {"min_similarity": -1}, {"confirm_hits": 0}, {"max_gap": 0}],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}"):
        Tracker(**arguments)


def test_number_of_track_ids():
    with pytest.raises(ValueError, match=r"track_ids: expected \(1,\), found \(2,\)"):
        TrackedPoses(poses(person(1)), np.array([1, 2]))


@settings(deadline=None, max_examples=200)
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(0, 5), st.integers(0, 5)),
        elements=st.sampled_from([0, 0.1, 0.25, 0.5, 0.6, 1]),
    )
)
def test_assignment_is_optimal(gains):
    rows, columns = assign(gains)
    assert len(set(rows)) == len(rows) and len(set(columns)) == len(columns)
    assert (gains[rows, columns] > 0).all() and (np.diff(rows) > 0).all()
    transposed = gains if gains.shape[0] <= gains.shape[1] else gains.T
    best = max(
        sum(transposed[i, j] for i, j in enumerate(chosen))
        for chosen in itertools.permutations(range(transposed.shape[1]), transposed.shape[0])
    )
    assert gains[rows, columns].sum() == pytest.approx(best)


def test_assignment_is_not_greedy():
    rows, columns = assign(np.array([[0.9, 0.8], [0.8, 0.1]]))
    assert rows.tolist() == [0, 1] and columns.tolist() == [1, 0]
