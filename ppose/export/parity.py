"""Compares exported networks with the network that they were made from, as people would see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppose.estimator import PoseEstimator, Request
from ppose.structures import Poses

# Joints below it lie where noise is highest; the least rounding moves them anywhere.
SURE = 0.2


@dataclass(frozen=True)
class Difference:
    """Between the joints that two networks find in the same pictures.

    Attributes:
        backend: that ran the exported network.
        largest: pixels of the network's input between the two places of a joint, largest of all
            that either finds surely; infinite if they find different numbers of people.
        mean: of all sure joints, likewise.
        score: largest difference between two scores of a joint, all joints.
        joints: number of sure joints.
    """

    backend: str
    largest: float
    mean: float
    score: float
    joints: int


def difference(
    backend: str, expected: Sequence[Poses], found: Sequence[Poses], pixels: Sequence[np.ndarray]
) -> Difference:
    """What separates two results.

    Args:
        backend: that gave `found`.
        expected, found: people of the same pictures.
        pixels: (P,) of each picture: pixels of the network's input for each of the picture.
    """
    if [len(poses) for poses in expected] != [len(poses) for poses in found]:
        return Difference(backend, float("inf"), float("inf"), 1.0, 0)
    one, other = (
        np.concatenate([poses.keypoints.astype(np.float64) for poses in all_of])
        for all_of in (expected, found)
    )
    if not len(one):
        return Difference(backend, 0.0, 0.0, 0.0, 0)
    apart = np.linalg.norm(one[..., :2] - other[..., :2], axis=-1)
    apart *= np.concatenate(list(pixels))[:, None]
    sure = np.maximum(one[..., 2], other[..., 2]) >= SURE
    score = float(np.abs(one[..., 2] - other[..., 2]).max())
    if not sure.any():
        return Difference(backend, 0.0, 0.0, score, 0)
    return Difference(
        backend, float(apart[sure].max()), float(apart[sure].mean()), score, int(sure.sum())
    )


def input_pixels(estimator: PoseEstimator, requests: Sequence[Request]) -> list[np.ndarray]:
    """(P,) pixels of the network's input for each pixel of the picture, for each picture's
    boxes; a bottom-up picture has one for all."""
    scales = []
    for request in requests:
        assert isinstance(request.image, np.ndarray)
        size_wh = request.image.shape[1], request.image.shape[0]
        boxes = request.boxes_xywh
        if boxes is None:
            boxes = np.array([[0, 0, *size_wh]], np.float32)
        regions = estimator.crop.views(size_wh, boxes, estimator.runner.size_multiple)
        scales.append(np.array([np.sqrt(abs(np.linalg.det(r[0].matrix))) for r in regions]))
    return scales


def table(rows: Sequence[Difference], tolerance: float, of: str) -> str:
    """The rows as text; `of` names the column that the tolerance is for."""
    lines = [
        f"{'backend':12} {'largest px':>10} {'mean px':>8} {'score':>8} {'joints':>6}",
        *(
            f"{r.backend:12} {r.largest:10.4f} {r.mean:8.4f} {r.score:8.5f} {r.joints:6}"
            for r in rows
        ),
        f"tolerance of the {of}: {tolerance:g} px of the network's input, joints scored {SURE:g} "
        "or more",
    ]
    return "\n".join(lines)
