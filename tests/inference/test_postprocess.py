import numpy as np
import pytest

from ppose.config import build
from ppose.inference.postprocess import Postprocess, rescore, suppress
from ppose.structures import Poses
from ppose.structures.skeleton import Joint, Skeleton

TRIO = Skeleton("trio", [Joint(n, 0.1) for n in ("head", "hip", "foot")], [("head", "hip")])


def make(xy, joint_scores, box_scores, box_size=100.0) -> Poses:
    xy, joint_scores = np.asarray(xy, np.float32), np.asarray(joint_scores, np.float32)
    return Poses(
        keypoints=np.concatenate([xy, joint_scores[..., None]], -1),
        scores=np.asarray(box_scores, np.float32),
        boxes_xywh=np.tile(np.float32([0, 0, box_size, box_size]), (len(xy), 1)),
        box_source="detector.json",
        skeleton=TRIO,
        image_id=7,
    )


def test_rescoring():
    poses = make(
        np.zeros((4, 3, 2)),
        [[0.9, 0.6, 0.1], [0.9, 0.6, 0.3], [0.1, 0.1, 0.1], [0.5, 0.5, 0.0]],
        [0.8, 1.0, 1.0, 0.0],
    )
    rescored = rescore(poses, 0.2)
    assert rescored.scores == pytest.approx([0.8 * 0.75, 0.6, 0, 0])
    assert rescored.scores.dtype == np.float32
    np.testing.assert_array_equal(rescored.keypoints, poses.keypoints)
    assert rescored.image_id == 7


def test_rescoring_ignores_a_joint_at_the_threshold():
    poses = make(np.zeros((1, 3, 2)), [[0.5, 0.25, 0.25]], [1.0])
    assert rescore(poses, 0.25).scores == pytest.approx([0.5])


def test_suppression_keeps_the_order_of_people():
    person = np.array([[0, 0], [0, 20], [0, 40]], float)
    poses = make([person, person + 300, person + 1], np.ones((3, 3)), [0.5, 0.4, 0.9])
    kept = suppress(poses, 0.9)
    assert kept.scores == pytest.approx([0.4, 0.9])
    assert kept.box_source == "detector.json"


def test_suppression_uses_the_given_areas():
    poses = make([np.zeros((3, 2)), np.full((3, 2), 10.0)], np.ones((2, 3)), [0.9, 0.8], 30)
    similarity = [np.exp(-200 / (2 * area * 0.04)) for area in (900, 90000)]
    assert similarity[0] < 0.9 < similarity[1]
    assert len(suppress(poses, 0.9)) == 2
    assert len(suppress(poses, 0.9, areas=np.full(2, 90000.0))) == 1
    assert len(Postprocess()(poses)) == 2
    assert len(Postprocess()(poses, areas=np.full(2, 90000.0))) == 1


def test_duplicates_are_removed_by_the_new_score():
    """The second has the higher box score, the first the higher joint scores."""
    poses = make(np.zeros((2, 3, 2)), [[0.9] * 3, [0.5] * 3], [0.8, 0.9])
    assert Postprocess()(poses).scores == pytest.approx([0.72])


def test_without_nms_all_people_are_kept():
    poses = make(np.zeros((2, 3, 2)), np.ones((2, 3)), [0.8, 0.9])
    assert Postprocess(oks_nms=None)(poses).scores == pytest.approx([0.8, 0.9])


def test_no_people():
    assert len(Postprocess()(Poses.empty(TRIO))) == 0


def test_built_from_a_config():
    made = build({"type": "Postprocess", "min_joint_score": 0.3, "oks_nms": None})
    assert (made.min_joint_score, made.oks_nms) == (0.3, None)


@pytest.mark.parametrize("wrong", [{"oks_nms": 1.5}, {"min_joint_score": -0.1}])
def test_thresholds_out_of_range_are_errors(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected float in 0..1"):
        Postprocess(**wrong)
