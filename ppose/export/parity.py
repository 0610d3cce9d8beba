"""Compares exported networks with the network that they were made from, as people would see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppose.data.images import read_image
from ppose.estimator import PoseEstimator
from ppose.structures import Poses

# Joints below it lie where noise is highest; the least rounding moves them anywhere.
SURE = 0.2


@dataclass(frozen=True)
class Difference:
    """Between the joints that two networks find in the same pictures.

    Attributes:
        backend: that ran the exported network.
        largest: pixels of the network's input between the two places of a joint, largest of all
            that either finds surely; infinite if they find different numbers of people, or a
            place or score that is not finite.
        mean: of all sure joints, likewise.
        largest_score: largest difference between two scores of a joint, of all joints.
        mean_score: mean of these differences.
        joints: number of sure joints.
    """

    backend: str
    largest: float
    mean: float
    largest_score: float
    mean_score: float
    joints: int


@dataclass(frozen=True)
class Tolerance:
    """What may lie between two results.

    Float networks are held to the largest difference, int8 ones to the mean: their original rounds
    in another order, which moves a few joints far.

    Attributes:
        pixels: of the network's input.
        score: of a joint.
        of_mean: which of both.
    """

    pixels: float
    score: float
    of_mean: bool

    def accepts(self, row: Difference) -> bool:
        """Whether a backend is right."""
        if self.of_mean:
            return row.mean <= self.pixels and row.mean_score <= self.score
        return row.largest <= self.pixels and row.largest_score <= self.score


FLOAT = Tolerance(0.05, 0.01, of_mean=False)
INT8 = Tolerance(1.0, 0.05, of_mean=True)


def difference(
    backend: str, expected: Sequence[Poses], found: Sequence[Poses], pixels: Sequence[np.ndarray]
) -> Difference:
    """What separates two results.

    Args:
        backend: that gave `found`.
        expected, found: people of the same pictures.
        pixels: (P,) of each picture: pixels of the network's input for each of the picture.
    """
    unlike = Difference(backend, np.inf, np.inf, 1.0, 1.0, 0)
    if [len(poses) for poses in expected] != [len(poses) for poses in found]:
        return unlike
    one, other = (
        np.concatenate([poses.keypoints.astype(np.float64) for poses in all_of])
        for all_of in (expected, found)
    )
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return unlike
    sure = np.maximum(one[..., 2], other[..., 2]) >= SURE
    if not sure.any():
        return Difference(backend, 0.0, 0.0, 0.0, 0.0, 0)
    apart = np.linalg.norm(one[..., :2] - other[..., :2], axis=-1)
    apart = (apart * np.concatenate(list(pixels))[:, None])[sure]
    scores = np.abs(one[..., 2] - other[..., 2])
    return Difference(
        backend,
        *(float(apart.max()), float(apart.mean()), float(scores.max()), float(scores.mean())),
        joints=int(sure.sum()),
    )


def input_pixels(estimator: PoseEstimator, poses: Poses) -> np.ndarray:
    """(P,) pixels of the network's input for each pixel of the picture, for each person."""
    if estimator.uses_boxes:
        size_wh, boxes = (1, 1), poses.boxes_xywh  # it is the boxes that count
    else:
        assert poses.file is not None
        height, width = read_image(poses.file).shape[:2]
        size_wh, boxes = (width, height), None
    regions = estimator.crop.views(size_wh, boxes, estimator.runner.size_multiple)
    areas = np.array([np.linalg.det(views[0].matrix) for views in regions])
    return np.broadcast_to(np.sqrt(np.abs(areas)), len(poses))


def table(rows: Sequence[Difference], tolerance: Tolerance) -> str:
    """The rows as text."""
    head = f"{'backend':12} {'largest px':>10} {'mean px':>8} {'largest score':>14} {'mean':>8}"
    what = "mean" if tolerance.of_mean else "largest"
    lines = [
        f"{head} {'joints':>7}",
        *(
            f"{r.backend:12} {r.largest:10.4f} {r.mean:8.4f} {r.largest_score:14.5f} "
            f"{r.mean_score:8.5f} {r.joints:7}"
            for r in rows
        ),
        f"tolerance of the {what}: {tolerance.pixels:g} px of the network's input at joints scored "
        f"{SURE:g} or more, score {tolerance.score:g}",
    ]
    return "\n".join(lines)
