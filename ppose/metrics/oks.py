"""Object keypoint similarity (OKS) and non-maximum suppression (NMS) by OKS."""

from __future__ import annotations

import numpy as np


def oks(
    keypoints_a: np.ndarray,
    keypoints_b: np.ndarray,
    areas: np.ndarray,
    sigmas: np.ndarray,
    counted: np.ndarray | None = None,
) -> np.ndarray:
    """OKS of all pairs of poses from two sets, from 0 (far apart) to 1 (identical).

    The mean over joints of exp(−d² / (2·s²·κ²)) with distance d, area s² and κ = 2·sigma
    (COCO, "Keypoint evaluation", cocodataset.org).

    Args:
        keypoints_a: (P, K, 2 or more) x, y in pixels.
        keypoints_b: (Q, K, 2 or more).
        areas: (P,) areas of the people of `keypoints_a` in pixels², or (P, Q) per pair.
        sigmas: (K,) OKS constants, see `Skeleton.sigmas`.
        counted: (P, K) bool, joints of `keypoints_a` that are counted, in COCO the labelled ones;
            None counts all. A person without counted joints has similarity 0.

    Returns:
        (P, Q) float64.
    """
    a = np.asarray(keypoints_a, np.float64)[:, None, :, :2]
    b = np.asarray(keypoints_b, np.float64)[None, :, :, :2]
    areas = np.asarray(areas, np.float64)
    areas = areas[:, None] if areas.ndim == 1 else areas
    # np.spacing(1) avoids division by zero for empty areas, as in pycocotools.
    scale = 2 * (areas[..., None] + np.spacing(1)) * (2 * np.asarray(sigmas)) ** 2
    per_joint = np.exp(-np.square(a - b).sum(-1) / scale)
    if counted is None:
        return per_joint.mean(-1)
    weights = np.asarray(counted, np.float64)
    return np.einsum("pqk,pk->pq", per_joint, weights) / np.maximum(weights.sum(1), 1)[:, None]


def oks_nms(
    keypoints: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: np.ndarray,
    threshold: float = 0.9,
) -> np.ndarray:
    """Greedy OKS-NMS: drops poses that are too similar to a pose with a higher score.

    As published with Simple Baselines and HRNet: all joints are counted, and the area of a pair is
    the mean of both areas.

    Args:
        keypoints: (P, K, 2 or more) x, y in pixels.
        scores: (P,); ties go to the first pose.
        areas: (P,) areas of the people in pixels².
        sigmas: (K,) OKS constants.
        threshold: a pair with an OKS above it is a duplicate.

    Returns:
        (N,) int indices of the poses to keep, by descending score.
    """
    areas = np.asarray(areas, np.float64)
    pair_areas = (areas[:, None] + areas) / 2
    duplicate = oks(keypoints, keypoints, pair_areas, sigmas) > threshold
    alive = np.ones(len(areas), bool)
    kept = []
    for i in np.argsort(-np.asarray(scores, np.float64), kind="stable"):
        if alive[i]:
            kept.append(i)
            alive &= ~duplicate[i]
    return np.array(kept, np.int64)
