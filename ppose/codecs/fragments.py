"""Merging fragments: small groups of joints without a limb to the rest of their person."""

from __future__ import annotations

import numpy as np

from ppose.utils.numba import compiled

_MIN_HOST_JOINTS = 3  # fewer joints say too little about the position of the person


def merge_fragments(groups: np.ndarray, reach: float, max_joints: int = 2) -> np.ndarray:
    """Merges small groups of joints into the nearest larger group that lacks these joints.

    A wrist has no limb to its person if the elbow is hidden, nor has a forearm if the shoulder is.

    Args:
        groups: (G, J, 3) x, y and score of the joints of each group, score 0 for no joint.
        reach: maximum gap between the boxes of both groups, relative to the longer side of the
            larger group's box; the nearest pairs are merged first.
        max_joints: maximum number of joints of a fragment.

    Returns:
        (P, J, 3) the remaining groups, in the same order.
    """
    have = groups[..., 2] > 0
    count = have.sum(1)
    small = np.flatnonzero((count > 0) & (count <= max_joints))
    hosts = np.flatnonzero(count >= max(_MIN_HOST_JOINTS, max_joints + 1))
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
    merged = _merge_pairs(groups, small[one[order]], hosts[other[order]])
    return groups[~merged]


@compiled
def _merge_pairs(groups: np.ndarray, small: np.ndarray, hosts: np.ndarray) -> np.ndarray:
    """Copies joints of small groups to hosts, pair by pair; returns (G,) bool merged groups."""
    joints = groups.shape[1]
    merged = np.zeros(len(groups), np.bool_)
    for pair in range(len(small)):
        source, host = small[pair], hosts[pair]
        free = not merged[source]
        for joint in range(joints):
            if groups[source, joint, 2] > 0 and groups[host, joint, 2] > 0:
                free = False
        if free:
            for joint in range(joints):
                if groups[source, joint, 2] > 0:
                    groups[host, joint] = groups[source, joint]
            merged[source] = True
    return merged
