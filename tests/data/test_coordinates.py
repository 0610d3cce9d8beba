"""Boxes and keypoints in other formats than COCO's are named; true ones never are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppose.data.coordinates import beyond_image, box_mistake, keypoint_mistake

WIDE, HIGH = np.array([640.0, 400.0]), np.array([400.0, 640.0])


def people(seed, count=40):
    """Boxes anywhere in images of two shapes, their sizes, and boxes around the joints inside."""
    rng = np.random.default_rng(seed)
    sizes = np.where(rng.random((count, 1)) < 0.5, WIDE, HIGH)
    extent = sizes * rng.uniform(0.1, 0.6, (count, 2))
    boxes = np.concatenate([rng.uniform(0, 1, (count, 2)) * (sizes - extent), extent], 1)
    joints = np.concatenate([boxes[:, :2] + 0.1 * extent, 0.8 * extent], 1)
    return boxes, sizes, joints


def corners(b, s):
    return np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], 1)


def centred(b, s):
    return np.concatenate([b[:, :2] + b[:, 2:] / 2, b[:, 2:]], 1)


MISTAKES = {
    "are they x1 y1 x2 y2?": corners,
    "are they centre x, centre y, width, height?": centred,
    "are they y1 x1 y2 x2?": lambda b, s: corners(b, s)[:, [1, 0, 3, 2]],
    "are they y x height width?": lambda b, s: b[:, [1, 0, 3, 2]],
    "in 0..1, as in YOLO's files?": lambda b, s: centred(b, s) / np.tile(s, 2),
    "are they x1 y1 x2 y2 in 0..1?": lambda b, s: corners(b, s) / np.tile(s, 2),
    "are they x, y, width, height in 0..1?": lambda b, s: b / np.tile(s, 2),
}


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_true_boxes_are_not_doubted(seed, count):
    boxes, sizes, joints = people(seed, count)
    assert box_mistake(boxes, sizes) is None
    assert box_mistake(boxes, sizes, joints) is None
    assert not beyond_image(boxes, sizes).any()


@pytest.mark.parametrize(("question", "write"), MISTAKES.items(), ids=MISTAKES)
def test_another_format_is_named(question, write):
    boxes, sizes, joints = people(0)
    assert question in box_mistake(write(boxes, sizes), sizes, joints)


@pytest.mark.parametrize("question", [q for q in MISTAKES if q != "are they y x height width?"])
def test_another_format_is_asked_about_without_joints(question):
    boxes, sizes, _ = people(0)
    assert "are they" in box_mistake(MISTAKES[question](boxes, sizes), sizes)


def test_boxes_of_other_images_and_sizes():
    boxes, sizes, joints = people(0)
    assert "do not hold their joints" in box_mistake(boxes / 3, sizes, joints)
    turned = box_mistake(boxes, sizes[:, ::-1], joints)
    assert "are width and height of the images exchanged?" in turned
    far = boxes + [-500, 0, 0, 0]
    assert "of 40 boxes leave their images" in box_mistake(far, sizes)
    assert box_mistake(far[:4], sizes[:4]) is None  # few are counted, not refused
    assert beyond_image(far, sizes).mean() > 0.8


@pytest.mark.parametrize(
    ("change", "question"),
    [
        (lambda xy, s: xy, None),
        (lambda xy, s: xy / s, "are they in 0..1 of the image?"),
        (lambda xy, s: xy * 4, "of another image size"),
    ],
)
def test_keypoints(change, question):
    boxes, sizes, _ = people(0)
    joints = np.concatenate([change(boxes[:, :2], sizes), np.full((40, 1), 2)], 1)
    found = keypoint_mistake(joints, sizes)
    assert found is None if question is None else question in found
