"""Postprocessing of decoded poses: rescoring and OKS-NMS."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ppose.config import register
from ppose.config.ranges import Share
from ppose.metrics.oks import oks_nms
from ppose.structures import Poses


@register
class Postprocess:
    """Rescoring, then OKS-NMS, of the people in one image.

    Evaluation and inference both use it, so the scores of both are the same.

    Args:
        min_joint_score: see `rescore`.
        oks_nms: OKS above which a pose is a duplicate, see `suppress`; None keeps all poses.
    """

    def __init__(self, min_joint_score: Share = 0.2, oks_nms: Share | None = 0.9):
        self.min_joint_score = min_joint_score
        self.oks_nms = oks_nms

    def __call__(self, poses: Poses, areas: np.ndarray | None = None) -> Poses:
        """Poses with box scores → poses with person scores, without duplicates.

        Args:
            poses: `scores` are those of the boxes.
            areas: see `suppress`.
        """
        poses = rescore(poses, self.min_joint_score)
        return poses if self.oks_nms is None else suppress(poses, self.oks_nms, areas)


def rescore(poses: Poses, min_joint_score: float = 0.2) -> Poses:
    """Multiplies each box score by the mean score of the person's joints.

    The mean is over joints with a score above `min_joint_score`; a person without such joints
    gets 0. As published with Simple Baselines and HRNet.
    """
    joint_scores = poses.keypoints[..., 2].astype(np.float64)
    confident = joint_scores > min_joint_score
    mean = (joint_scores * confident).sum(1) / np.maximum(confident.sum(1), 1)
    return replace(poses, scores=(poses.scores * mean).astype(np.float32))


def suppress(poses: Poses, threshold: float = 0.9, areas: np.ndarray | None = None) -> Poses:
    """Removes duplicates by `oks_nms`; the others keep their order.

    Args:
        poses: people in one image.
        threshold: a person with an OKS above it to a person of higher score is a duplicate.
        areas: (P,) areas of the network's input regions in pixels²; None uses `boxes_xywh`. HRNet
            uses the padded crops.
    """
    if areas is None:
        areas = poses.boxes_xywh[:, 2:].prod(1)
    kept = oks_nms(poses.keypoints, poses.scores, areas, poses.skeleton.sigmas, threshold)
    return poses[np.sort(kept)]
