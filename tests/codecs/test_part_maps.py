"""Part maps: published arrays and a NumPy reference."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppose.codecs.part_layout import SIMPLEPOSE
from ppose.codecs.part_maps import part_maps

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "imhn_targets_grouping.npz")
LIMBS = np.array([(0, 1), (2, 1)])
NO_PEOPLE = np.zeros((10, 14), np.float32)


@pytest.mark.parametrize("scene", range(4))
def test_maps_match_the_published_ones(scene):
    keypoints = GOLDEN[f"joints{scene}"].copy()
    published = keypoints[..., 2]
    keypoints[..., 2] = np.where(published >= 2, 0, published + 1)
    maps = part_maps(keypoints, SIMPLEPOSE.limb_index, GOLDEN[f"mask_all{scene}"])
    assert maps.dtype == np.float32
    assert np.abs(maps - GOLDEN[f"targets{scene}"]).max() < 1e-5


def plain_joint(x, y, cell_x, cell_y, stride, sigma, cut):
    """One Gaussian on the whole map, 0 outside its window."""
    reach = math.ceil(sigma * math.sqrt(-2 * math.log(cut)) / stride)
    peak = np.exp(-((cell_x - x) ** 2 + (cell_y - y) ** 2) / (2 * sigma**2))
    columns = np.abs(np.arange(cell_x.shape[1]) - np.rint(x / stride)) <= reach
    rows = np.abs(np.arange(cell_x.shape[0]) - np.rint(y / stride)) <= reach
    return peak * (rows[:, None] & columns)


def plain_limb(start, end, cell_x, cell_y, stride, sigma, cut, floor):
    """One limb on the whole map, and the mask of its box."""
    along_x, along_y = (end - start) / np.linalg.norm(end - start)
    away = along_x * (cell_y - start[1]) - along_y * (cell_x - start[0])
    peak = np.exp(-(away**2) / (2 * sigma**2))
    low = np.rint((np.minimum(start, end) - stride) / stride)
    high = np.rint((np.maximum(start, end) + stride) / stride)
    columns, rows = np.arange(cell_x.shape[1]), np.arange(cell_x.shape[0])
    box = (
        ((rows >= low[1]) & (rows <= high[1]))[:, None] & (columns >= low[0]) & (columns <= high[0])
    )
    return np.where(box, np.where(peak > cut, peak, floor), 0), box


def plain_maps(keypoints, limb_index, mask, stride, sigma, limb_sigma, cut, limb_floor):
    height, width = mask.shape
    centre = np.arange(max(mask.shape)) * stride + (stride - 1) / 2
    cell_x, cell_y = np.meshgrid(centre[:width], centre[:height])
    joints = np.zeros((keypoints.shape[1], height, width))
    for person in keypoints:
        for joint, (x, y, visibility) in enumerate(person):
            if visibility > 0:
                drawn = plain_joint(x, y, cell_x, cell_y, stride, sigma, cut)
                joints[joint] = np.maximum(joints[joint], drawn)
    limbs = np.zeros((len(limb_index), height, width))
    for limb, (a, b) in enumerate(limb_index):
        count = np.zeros((height, width))
        for person in keypoints:
            start, end = person[a], person[b]
            if start[2] > 0 and end[2] > 0 and (start[:2] != end[:2]).any():
                drawn, box = plain_limb(
                    start[:2], end[:2], cell_x, cell_y, stride, limb_sigma, cut, limb_floor
                )
                limbs[limb] += drawn
                count += box
        limbs[limb] /= np.maximum(count, 1)
    eroded = cv2.erode(mask, np.ones((3, 3)))
    return np.concatenate([limbs, joints, [eroded, joints.max(0)]])


coordinate = st.one_of(st.integers(-30, 80), st.floats(-300, 300, width=16))
joint = st.tuples(coordinate, coordinate, st.sampled_from([0, 1, 2, 2]))
people = st.lists(st.lists(joint, min_size=3, max_size=3), max_size=4)


@given(
    people,
    st.integers(0, 2**32),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([5.0, 9.0]),
    st.sampled_from([3.0, 7.0]),
    st.sampled_from([0.015, 0.2]),
    st.sampled_from([0.0, 0.01]),
)
def test_maps_equal_the_numpy_reference(people, seed, stride, sigma, limb_sigma, cut, limb_floor):
    keypoints = np.array(people, np.float64).reshape(-1, 3, 3)
    mask = (np.random.default_rng(seed).random((10, 14)) < 0.9).astype(np.float32)
    settings = (stride, sigma, limb_sigma, cut, limb_floor)
    maps = part_maps(keypoints, LIMBS, mask, *settings)
    expected = plain_maps(keypoints, LIMBS, mask, *settings)
    assert np.allclose(maps, expected, atol=1e-6)
    assert maps.min() >= 0
    assert maps.max() <= 1


def labelled(*positions):
    """(1, J, 3) one person with joints at these positions."""
    return np.array([[(*xy, 2) for xy in positions]], np.float64)


def test_without_people_only_the_mask_is_set():
    mask = np.ones((10, 14), np.float32)
    maps = part_maps(np.zeros((0, 3, 3)), LIMBS, mask)
    assert maps.shape == (7, 10, 14)
    assert (maps[5] == 1).all()
    assert not np.delete(maps, 5, 0).any()


def test_one_joint_sets_its_map_and_the_maximum():
    keypoints = labelled((17.5, 9.5), (40, 20), (50, 30))
    keypoints[0, 1:, 2] = 0
    maps = part_maps(keypoints, LIMBS, NO_PEOPLE)
    assert maps.any((1, 2)).tolist() == [False, False, True, False, False, False, True]
    assert np.unravel_index(maps[2].argmax(), maps[2].shape) == (2, 4)
    assert maps[2, 2, 4] == 1
    assert (maps[6] == maps[2]).all()


@pytest.mark.parametrize("visibility", [1, 2])
def test_occluded_joints_are_drawn_like_visible_ones(visibility):
    keypoints = labelled((17.5, 9.5), (40, 20), (50, 30))
    maps = part_maps(keypoints, LIMBS, NO_PEOPLE)
    keypoints[..., 2] = visibility
    assert (part_maps(keypoints, LIMBS, NO_PEOPLE) == maps).all()


def test_limbs_of_zero_length_are_left_out():
    maps = part_maps(labelled((20, 20), (20, 20), (40, 20)), LIMBS, NO_PEOPLE)
    assert not maps[0].any()
    assert maps[1].any()
    assert maps[2:5].any((1, 2)).all()


def test_only_joints_near_the_border_reach_into_the_map():
    maps = part_maps(labelled((-6, 20), (-60, 20), (20, 5e3)), LIMBS, NO_PEOPLE)
    assert maps[2, 5, 0] == pytest.approx(math.exp(-(7.5**2 + 1.5**2) / 162))
    assert not maps[3:5].any()


@pytest.mark.parametrize("huge", [1e9, 1e30, 1e300, -1e300])
def test_huge_coordinates_are_ignored(huge):
    people = np.concatenate(
        [
            labelled((huge, 20), (20, huge), (huge, -huge)),
            labelled((-huge, -huge), (huge, huge), (20, 20)),
            labelled((20, 20), (30, 20), (40, 20)),
        ]
    )
    maps = part_maps(people, LIMBS, NO_PEOPLE)
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() <= 1
    alone = part_maps(people[2:], LIMBS, NO_PEOPLE)
    assert (maps[2:4] == alone[2:4]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_labelled_joint_that_is_not_finite_is_an_error(bad):
    keypoints = labelled((20, 20), (bad, 20), (40, 20))
    with pytest.raises(ValueError, match="a labelled joint has a position that is not finite"):
        part_maps(keypoints, LIMBS, NO_PEOPLE)
    keypoints[0, 1, 2] = 0
    assert np.isfinite(part_maps(keypoints, LIMBS, NO_PEOPLE)).all()


def test_the_input_is_not_modified():
    keypoints, mask = labelled((20, 20), (30, 25), (40, 20)), np.ones((10, 14), np.float32)
    before = keypoints.copy(), mask.copy()
    part_maps(keypoints, LIMBS, mask)
    assert (keypoints == before[0]).all()
    assert (mask == before[1]).all()
