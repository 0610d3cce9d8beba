"""PartLayout: channels by name, conversions, and flipping."""

import numpy as np
import pytest

from ppose.codecs.part_layout import SIMPLEPOSE, PartLayout
from ppose.codecs.part_maps import part_maps
from ppose.config import ConfigError, build
from ppose.structures.skeleton import COCO17, Joint, Skeleton

# Limbs of the published weights as joint indices, in the order of their channels
PUBLISHED_FROM = "1 1 1 1 1 0 0 14 15 1 2 3 1 5 6 1 8 9 1 11 12 0 0 2 8 5 11 16 17 8"
PUBLISHED_TO = "0 14 15 16 17 14 15 16 17 2 3 4 5 6 7 8 9 10 11 12 13 2 5 8 12 11 9 2 5 11"

PAIR = Skeleton(
    "pair", [Joint("head", 0.1), Joint("left", 0.1, "right"), Joint("right", 0.1, "left")], []
)
LIMB = [("head", "left")]


def test_simplepose_has_the_published_channels():
    published = [[int(n) for n in row.split()] for row in (PUBLISHED_FROM, PUBLISHED_TO)]
    assert SIMPLEPOSE.limb_index.T.tolist() == published
    assert SIMPLEPOSE.joints[:4] == ("nose", "neck", "right_shoulder", "right_elbow")
    assert SIMPLEPOSE.joints[-4:] == ("right_eye", "left_eye", "right_ear", "left_ear")
    assert SIMPLEPOSE.channels == 50
    assert SIMPLEPOSE.limb_channels == slice(0, 30)
    assert SIMPLEPOSE.joint_channels == slice(30, 48)
    assert PartLayout.named("simplepose") is SIMPLEPOSE


def test_joints_and_limbs_default_to_the_skeleton():
    parts = PartLayout(COCO17)
    assert parts.joints == COCO17.joint_names
    assert parts.limbs == COCO17.limbs
    keypoints = np.random.default_rng(0).random((2, 17, 3), np.float32)
    assert (parts.from_skeleton(keypoints) == keypoints).all()


def test_a_layout_from_a_config():
    node = {"type": "PartLayout", "skeleton": "coco17", "limbs": [["nose", "left_eye"]]}
    assert build(node, PartLayout, "parts").limb_index.tolist() == [[0, 1]]


def test_limbs_as_indices_are_refused_with_their_names():
    node = {"skeleton": "coco17", "limbs": [[0, 1], [5, 7]]}
    expected = (
        r"parts: limbs: .* from 0: limbs: \[\[nose, left_eye\], \[left_shoulder, left_elbow\]\]$"
    )
    with pytest.raises(ConfigError, match=expected):
        build(node, PartLayout, "parts")


def test_joints_are_converted_to_channels_and_back():
    keypoints = np.random.default_rng(0).random((3, 17, 3), np.float32)
    joints = SIMPLEPOSE.from_skeleton(keypoints)
    assert joints.shape == (3, 18, 3)
    assert joints.dtype == np.float32
    wrist = COCO17.index("left_wrist")
    assert (joints[:, SIMPLEPOSE.index("left_wrist")] == keypoints[:, wrist]).all()
    assert (SIMPLEPOSE.to_skeleton(joints) == keypoints).all()
    assert SIMPLEPOSE.from_skeleton(keypoints[:0]).shape == (0, 18, 3)


@pytest.mark.parametrize(("left", "right", "neck"), [(2, 2, 2), (2, 1, 1), (1, 2, 1), (2, 0, 0)])
def test_the_neck_is_between_the_shoulders(left, right, neck):
    keypoints = np.zeros((1, 17, 3), np.float32)
    keypoints[0, COCO17.index("left_shoulder")] = 10, 20, left
    keypoints[0, COCO17.index("right_shoulder")] = 30, 50, right
    found = SIMPLEPOSE.from_skeleton(keypoints)[0, SIMPLEPOSE.index("neck")]
    assert found.tolist() == [20, 35, neck]


@pytest.mark.parametrize("parts", [SIMPLEPOSE, PartLayout(COCO17)])
def test_flipped_people_have_flipped_maps(parts):
    rng = np.random.default_rng(0)
    keypoints = np.full((3, 17, 3), 2.0)
    keypoints[..., :2] = 4 * rng.integers(0, 32, (3, 17, 2)) + 1.5  # centres of cells
    mask = rng.integers(0, 2, (32, 32)).astype(np.float32)
    mirrored = keypoints[:, COCO17.mirror_index] * (-1, 1, 1) + (127, 0, 0)

    def maps(people, people_mask):
        return part_maps(parts.from_skeleton(people), parts.limb_index, people_mask)

    flipped = maps(mirrored, mask[:, ::-1])
    assert np.allclose(maps(keypoints, mask)[parts.mirror_channels, :, ::-1], flipped, atol=1e-6)
    assert (parts.mirror_channels[parts.mirror_channels] == np.arange(parts.channels)).all()


def test_derived_joints_swap_sides():
    derived = {"to_left": ["head", "left"], "to_right": ["head", "right"]}
    parts = PartLayout(PAIR, limbs=[("to_left", "left"), ("right", "to_right")], derived=derived)
    assert parts.mirror_channels.tolist() == [1, 0, 2, 4, 3, 6, 5, 7, 8]


@pytest.mark.parametrize(
    ("limbs", "derived", "message"),
    [
        (LIMB, {}, r"limb \('head', 'left'\) has no left-right counterpart"),
        (
            [("left", "right")],
            {"neck": ["head", "left"]},
            "joint 'neck' has no left-right counterpart",
        ),
    ],
)
def test_layouts_that_cannot_be_flipped_are_errors(limbs, derived, message):
    with pytest.raises(ValueError, match=message):
        _ = PartLayout(PAIR, limbs=limbs, derived=derived).mirror_channels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"joints": ["head", "left"]}, "joints: expected each of"),
        ({"joints": ["head", "left", "left"]}, "joints: expected each of"),
        ({"derived": {"head": ["left", "right"]}}, "derived joint 'head' needs a new name"),
        ({"derived": {"neck": []}}, "derived joint 'neck' needs a new name and its sources"),
        ({"derived": {"neck": ["heat"]}}, "no joint 'heat'; did you mean 'head'"),
        ({"limbs": []}, "limbs: expected pairs"),
        ({"limbs": [("left", "left")]}, "limbs: expected pairs"),
        ({"limbs": [("left", "head"), ("head", "left")]}, "limbs: expected pairs"),
        ({"limbs": [("left", "heat")]}, "no joint is named 'heat'; did you mean 'head'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PartLayout(PAIR, **{"limbs": LIMB, **arguments})


def test_an_unknown_name_suggests_the_closest():
    with pytest.raises(ValueError, match="no parts are named 'simplpose'; did you mean 'simple"):
        PartLayout.named("simplpose")
