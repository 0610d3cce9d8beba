"""What follows decoding: the score of a person, and the removal of duplicates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ppose.metrics.oks import oks_nms
from ppose.registry import register
from ppose.structures import Poses


@register
class Postprocess:
    """Rescoring, then OKS-NMS, on the people of one image.

    Evaluation and inference both go through it: the score that is shown is the one evaluated.

    Args:
        min_joint_score: see `rescore`.
        oks_nms: similarity above which a pose is a duplicate, see `suppress`; None keeps all.
    """

    def __init__(self, min_joint_score: float = 0.2, oks_nms: float | None = 0.9):
        for name, value in (("min_joint_score", min_joint_score), ("oks_nms", oks_nms)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} has to be in 0..1, found {value}")
        self.min_joint_score = min_joint_score
        self.oks_nms = oks_nms

    def __call__(self, poses: Poses, areas: np.ndarray | None = None) -> Poses:
        """Poses with the scores of boxes → poses with the scores of people, without duplicates.

        Args:
            poses: `scores` are those of the boxes.
            areas: see `suppress`.
        """
        poses = rescore(poses, self.min_joint_score)
        return poses if self.oks_nms is None else suppress(poses, self.oks_nms, areas)


def rescore(poses: Poses, min_joint_score: float = 0.2) -> Poses:
    """Multiplies the score of each box by the mean score of the person's joints.

    Joints whose score is not above `min_joint_score` are left out of the mean; a person without
    any above it gets 0. As published with Simple Baselines and HRNet.
    """
    joint_scores = poses.keypoints[..., 2].astype(np.float64)
    sure = joint_scores > min_joint_score
    mean = (joint_scores * sure).sum(1) / np.maximum(sure.sum(1), 1)
    return replace(poses, scores=(poses.scores * mean).astype(np.float32))


def suppress(poses: Poses, threshold: float = 0.9, areas: np.ndarray | None = None) -> Poses:
    """Leaves out duplicates by `oks_nms`; the others keep their order.

    Args:
        poses: people of one image.
        threshold: an OKS above it, with a person of higher score, is a duplicate.
        areas: (P,) pixels² of the regions that people were looked for in; None takes
            `boxes_xywh`. HRNet takes the padded crops.
    """
    if areas is None:
        areas = poses.boxes_xywh[:, 2:].prod(1)
    kept = oks_nms(poses.keypoints, poses.scores, areas, poses.skeleton.sigmas, threshold)
    return poses[np.sort(kept)]
