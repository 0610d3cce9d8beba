"""Fragments are merged into their person, and joints are never lost or moved."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppose.codecs.fragments import merge_fragments


def group(**joints):
    """(6, 3) a group with joints j0 … j5 at the given places."""
    made = np.zeros((6, 3), np.float32)
    for name, (x, y) in joints.items():
        made[int(name[1])] = x, y, 0.9
    return made


PERSON = group(j0=(0, 0), j1=(0, 10), j2=(4, 20))


def test_a_joint_next_to_a_person_is_merged():
    left = merge_fragments(np.stack([PERSON, group(j5=(8, 20))]), reach=0.5)
    assert len(left) == 1
    assert left[0, 5].tolist() == pytest.approx([8, 20, 0.9])
    assert np.array_equal(left[0, :3], PERSON[:3])


@pytest.mark.parametrize(("reach", "groups"), [(0.5, 2), (0.8, 1), (0.0, 2)])
def test_the_gap_is_relative_to_the_size_of_the_person(reach, groups):
    assert len(merge_fragments(np.stack([PERSON, group(j5=(18, 20))]), reach)) == groups


def test_a_joint_inside_the_box_needs_no_reach():
    assert len(merge_fragments(np.stack([PERSON, group(j4=(2, 12))]), reach=0.0)) == 1


def test_a_joint_is_merged_into_the_nearest_person_that_lacks_it():
    other = PERSON + np.float32([30, 0, 0])
    other[5] = 34, 25, 0.9
    loose = group(j5=(28, 10))
    left = merge_fragments(np.stack([PERSON, other, loose]), reach=2.0)
    assert len(left) == 2
    assert left[0, 5, 0] == 28, "the nearer person already has this joint"


def test_the_nearer_of_two_equal_joints_is_merged():
    left = merge_fragments(np.stack([PERSON, group(j5=(12, 20)), group(j5=(6, 20))]), reach=1.0)
    assert len(left) == 2
    assert left[0, 5, 0] == 6


def test_a_limb_is_merged_as_a_whole_or_not_at_all():
    limb = group(j4=(6, 20), j5=(9, 22))
    assert len(merge_fragments(np.stack([PERSON, limb]), reach=0.5)) == 1
    taken = PERSON.copy()
    taken[4] = 1, 15, 0.9
    left = merge_fragments(np.stack([taken, limb]), reach=0.5)
    assert np.array_equal(left, np.stack([taken, limb]))


def test_larger_groups_are_not_merged():
    three = group(j3=(6, 20), j4=(7, 20), j5=(9, 22))
    assert len(merge_fragments(np.stack([PERSON, three]), reach=0.5)) == 2


@given(st.integers(0, 10_000))
def test_no_joint_is_lost_or_moved(seed):
    rng = np.random.default_rng(seed)
    groups = rng.uniform(0, 50, (rng.integers(0, 9), 6, 3)).astype(np.float32)
    groups[..., 2] = rng.uniform(0.1, 1, groups.shape[:2])
    groups[rng.random(groups.shape[:2]) < 0.6] = 0
    groups = groups[(groups[..., 2] > 0).any(1)]
    left = merge_fragments(groups, reach=rng.uniform(0, 2))
    for joint in range(6):
        before, after = (g[g[:, joint, 2] > 0, joint].tolist() for g in (groups, left))
        assert sorted(before) == sorted(after)
    assert len(left) <= len(groups)
