"""Joints that no limb ties to their person, because the joint between them cannot be seen."""

from __future__ import annotations

import numpy as np

from ppose.compiled import compiled

_HOST_JOINTS = 3  # a group with fewer says too little about where its person is


def adopt(groups: np.ndarray, reach: float, max_joints: int = 2) -> np.ndarray:
    """Gives small groups of joints to the nearest larger one that lacks all of them.

    A wrist whose elbow is hidden has no limb to its person; a forearm whose shoulder is hidden
    has none either.

    Args:
        groups: (G, J, 3) x, y and score of the joints of each group, score 0 for no joint.
        reach: the gap between the boxes around both groups may be so many times the longer side
            of the larger one's; nearer groups come first.
        max_joints: groups of up to so many joints are given away.

    Returns:
        (P, J, 3) the groups that are left, in their order.
    """
    have = groups[..., 2] > 0
    count = have.sum(1)
    small = np.flatnonzero((count > 0) & (count <= max_joints))
    hosts = np.flatnonzero(count >= max(_HOST_JOINTS, max_joints + 1))
    if not len(small) or not len(hosts):
        return groups
    low = np.where(have[..., None], groups[..., :2], np.inf).min(1)
    high = np.where(have[..., None], groups[..., :2], -np.inf).max(1)
    apart = np.maximum(low[small, None] - high[hosts], low[hosts] - high[small, None])
    gap = np.hypot(*np.moveaxis(np.maximum(apart, 0), -1, 0))
    gap /= np.maximum((high - low)[hosts].max(1), 1)
    one, other = np.nonzero(gap <= reach)
    order = np.argsort(gap[one, other], kind="stable")
    groups = groups.copy()
    given = _give(groups, small[one[order]], hosts[other[order]])
    return groups[~given]


@compiled
def _give(groups: np.ndarray, small: np.ndarray, hosts: np.ndarray) -> np.ndarray:
    """Moves joints from small groups to hosts, pair by pair; (G,) bool groups that are empty."""
    joints = groups.shape[1]
    given = np.zeros(len(groups), np.bool_)
    for pair in range(len(small)):
        source, host = small[pair], hosts[pair]
        free = not given[source]
        for joint in range(joints):
            if groups[source, joint, 2] > 0 and groups[host, joint, 2] > 0:
                free = False
        if free:
            for joint in range(joints):
                if groups[source, joint, 2] > 0:
                    groups[host, joint] = groups[source, joint]
            given[source] = True
    return given
