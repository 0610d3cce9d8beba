"""Index tables are derived from joint names."""

import numpy as np
import pytest
from pycocotools.cocoeval import Params

from ppose.structures.skeleton import COCO17, SKELETONS, Joint, Skeleton


@pytest.mark.parametrize("skeleton", [Skeleton.named(name) for name in SKELETONS], ids=SKELETONS)
def test_tables_are_consistent(skeleton):
    mirror = skeleton.mirror_index
    assert (mirror[mirror] == np.arange(len(skeleton))).all()
    assert {*skeleton.upper_index, *skeleton.lower_index} == set(range(len(skeleton)))
    assert skeleton.sigmas.shape == (len(skeleton),)
    names = np.array(skeleton.joint_names)
    assert [tuple(pair) for pair in names[skeleton.limb_index]] == list(skeleton.limbs)
    swapped = {"left": "right", "right": "left", "middle": "middle"}
    assert [skeleton.sides[i] for i in mirror] == [swapped[s] for s in skeleton.sides]


def test_coco17_matches_coco():
    assert COCO17.joint_names[:3] == ("nose", "left_eye", "right_eye")
    assert COCO17.index("right_ankle") == 16
    assert COCO17.mirror_index.tolist() == [
        0,
        2,
        1,
        4,
        3,
        6,
        5,
        8,
        7,
        10,
        9,
        12,
        11,
        14,
        13,
        16,
        15,
    ]
    assert np.allclose(COCO17.sigmas, Params("keypoints").kpt_oks_sigmas)


@pytest.mark.parametrize(
    ("joints", "limbs", "message"),
    [
        ([], [], "has no joints"),
        ([Joint("a", 1), Joint("a", 1)], [], "has duplicate joint names"),
        ([Joint("a", 1, "b"), Joint("b", 1)], [], "mirror"),
        ([Joint("head", 1)], [("head", "haed")], "no joint 'haed'; did you mean 'head'"),
    ],
)
def test_wrong_skeletons(joints, limbs, message):
    with pytest.raises(ValueError, match=message):
        Skeleton("wrong", joints, limbs)


def test_an_unknown_name_suggests_the_closest():
    with pytest.raises(ValueError, match="did you mean 'coco17'"):
        Skeleton.named("coco_17")
