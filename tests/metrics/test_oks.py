"""OKS and OKS-NMS: values computed by hand, pycocotools, and properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ppose.metrics.oks import oks, oks_nms
from ppose.structures.skeleton import COCO17

SIGMAS = np.array([0.1, 0.05, 0.025])
coordinates = st.floats(-500, 500, width=32)


def poses(people: int):
    return arrays(np.float32, (people, 3, 2), elements=coordinates)


def test_value_computed_by_hand():
    a = np.zeros((1, 3, 2))
    b = np.array([[[3, 0], [0, 4], [0, 0]]], float)
    # 2·area·(2·sigma)² is 8 for the first joint and 2 for the second.
    expected = (np.exp(-9 / 8) + np.exp(-16 / 2) + 1) / 3
    assert oks(a, b, np.array([100.0]), SIGMAS) == pytest.approx(expected)


def test_only_counted_joints_are_averaged():
    a = np.zeros((2, 3, 2))
    b = np.array([[[3, 0], [0, 4], [0, 0]]], float)
    counted = np.array([[True, False, True], [False, False, False]])
    found = oks(a, b, np.array([100.0, 100.0]), SIGMAS, counted)
    assert found[:, 0] == pytest.approx([(np.exp(-9 / 8) + 1) / 2, 0])


def test_equals_pycocotools():
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    truth, found = rng.uniform(0, 200, (4, 17, 3)), rng.uniform(0, 200, (5, 17, 3))
    found[:4, :, :2] = truth[..., :2] + rng.normal(0, 4, (4, 17, 2))
    truth[..., 2] = rng.integers(0, 3, (4, 17))
    areas = rng.uniform(1000, 40000, 4)
    evaluation = COCOeval(iouType="keypoints")
    evaluation._gts[1, 1] = [
        {"keypoints": k.ravel(), "area": a, "bbox": [0, 0, 9, 9]}
        for k, a in zip(truth, areas, strict=True)
    ]
    evaluation._dts[1, 1] = [{"keypoints": k.ravel(), "score": -i} for i, k in enumerate(found)]
    expected = evaluation.computeOks(1, 1)

    similarity = oks(truth, found, areas, COCO17.sigmas, truth[..., 2] > 0)
    np.testing.assert_allclose(similarity.T, expected, rtol=1e-12)
    assert np.diag(similarity).min() > 0.2 and np.diag(similarity).max() < 1


@given(poses(3), poses(4), st.floats(1e-3, 1e6))
def test_oks_is_in_0_1_and_symmetric_for_equal_areas(a, b, area):
    similarity = oks(a, b, np.full(3, area), SIGMAS)
    assert similarity.shape == (3, 4)
    assert ((similarity >= 0) & (similarity <= 1)).all()
    np.testing.assert_allclose(similarity.T, oks(b, a, np.full(4, area), SIGMAS))


@given(poses(2), st.floats(0, 1e6))
def test_identical_poses_have_oks_1_even_without_area(a, area):
    assert np.diag(oks(a, a, np.full(2, area), SIGMAS)) == pytest.approx([1, 1])


@given(poses(1), st.floats(1, 50), st.floats(0.1, 50))
def test_oks_decreases_with_distance(a, shift, more):
    near, far = a + shift, a + shift + more
    area = np.array([900.0])
    assert oks(a, near, area, SIGMAS) >= oks(a, far, area, SIGMAS)


def crowd():
    """Two distant people, each with a duplicate shifted by one pixel."""
    person = np.random.default_rng(1).uniform(0, 80, (17, 2))
    return np.stack([person, person + 200, person + 1, person + 201]), np.full(4, 100.0 * 100)


def test_nms_keeps_the_best_of_each_person():
    keypoints, areas = crowd()
    kept = oks_nms(keypoints, np.array([0.5, 0.9, 0.7, 0.8]), areas, COCO17.sigmas)
    assert kept.tolist() == [1, 2]


def test_nms_keeps_the_first_of_equal_scores():
    keypoints, areas = crowd()
    assert oks_nms(keypoints, np.ones(4), areas, COCO17.sigmas).tolist() == [0, 1]


def test_nms_uses_the_mean_area_of_a_pair():
    keypoints = np.array([[[0.0, 0.0]], [[10.0, 0.0]]])
    sigma, areas, scores = np.array([0.1]), np.array([3000.0, 1000.0]), np.array([1.0, 0.5])
    similarity = np.exp(-100 / (2 * 2000 * 0.04))
    assert len(oks_nms(keypoints, scores, areas, sigma, similarity - 1e-9)) == 1
    assert len(oks_nms(keypoints, scores, areas, sigma, similarity + 1e-9)) == 2


def test_nms_keeps_a_duplicate_of_a_duplicate():
    keypoints = np.array([[[0.0, 0.0]], [[4.0, 0.0]], [[8.0, 0.0]]])
    areas, sigma = np.full(3, 2000.0), np.array([0.1])
    neighbours = np.exp(-16 / (2 * 2000 * 0.04))
    kept = oks_nms(keypoints, np.array([0.9, 0.8, 0.7]), areas, sigma, neighbours - 0.01)
    assert kept.tolist() == [0, 2]


def test_nms_keeps_a_pose_at_the_threshold():
    assert len(oks_nms(np.zeros((2, 3, 2)), np.ones(2), np.ones(2), SIGMAS, threshold=1.0)) == 2


def test_nms_without_people():
    assert oks_nms(np.zeros((0, 17, 3)), np.zeros(0), np.zeros(0), COCO17.sigmas).shape == (0,)


@given(
    arrays(np.float32, (6, 3, 2), elements=st.floats(0, 30, width=32)),
    arrays(np.float32, 6, elements=st.floats(0, 1, width=32)),
    st.floats(0.05, 1),
)
def test_nms_is_idempotent_and_leaves_no_similar_pair(keypoints, scores, threshold):
    areas = np.full(6, 900.0)
    kept = oks_nms(keypoints, scores, areas, SIGMAS, threshold)
    assert (np.diff(scores[kept]) <= 0).all()
    similarity = oks(keypoints[kept], keypoints[kept], areas[kept], SIGMAS)
    assert (similarity[np.triu_indices(len(kept), 1)] <= threshold).all()
    again = oks_nms(keypoints[kept], scores[kept], areas[kept], SIGMAS, threshold)
    assert again.tolist() == list(range(len(kept)))
