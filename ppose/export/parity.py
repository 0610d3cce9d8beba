"""Parity check: compares the poses of an exported network with those of the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppose.data.images import read_image
from ppose.inference.estimator import PoseEstimator
from ppose.structures import Poses

# Minimum score of a compared joint: below it, rounding errors can move the maximum anywhere.
MIN_SCORE = 0.2


@dataclass(frozen=True)
class Difference:
    """Difference between the joints that two networks find in the same images.

    Attributes:
        backend: backend that ran the exported network.
        largest: largest distance between the two positions of a joint, in pixels of the network's
            input, over the joints that either network scores at least `MIN_SCORE`; infinite if the
            numbers of people differ, or a position or score is not finite.
        mean: mean of these distances.
        largest_score: largest difference between the two scores of a joint, over all joints.
        mean_score: mean of these differences.
        joints: number of joints scored at least `MIN_SCORE`.
    """

    backend: str
    largest: float
    mean: float
    largest_score: float
    mean_score: float
    joints: int


@dataclass(frozen=True)
class Tolerance:
    """The accepted difference between two results.

    For float networks it limits the largest difference, for int8 networks the mean: the original
    rounds in a different order, which can move a few joints far.

    Attributes:
        pixels: distance in pixels of the network's input.
        score: difference of the scores of a joint.
        of_mean: limit the mean instead of the largest difference.
    """

    pixels: float
    score: float
    of_mean: bool

    def accepts(self, row: Difference) -> bool:
        """Whether the difference is within the tolerance."""
        if self.of_mean:
            return row.mean <= self.pixels and row.mean_score <= self.score
        return row.largest <= self.pixels and row.largest_score <= self.score


FLOAT = Tolerance(0.05, 0.01, of_mean=False)
INT8 = Tolerance(1.0, 0.05, of_mean=True)


def difference(
    backend: str, expected: Sequence[Poses], found: Sequence[Poses], pixels: Sequence[np.ndarray]
) -> Difference:
    """Compares two results.

    Args:
        backend: backend that computed `found`.
        expected, found: poses in the same images.
        pixels: for each image (P,), the pixels of the network's input per image pixel.
    """
    unequal = Difference(backend, np.inf, np.inf, 1.0, 1.0, 0)
    if [len(poses) for poses in expected] != [len(poses) for poses in found]:
        return unequal
    one, other = (
        np.concatenate([poses.keypoints.astype(np.float64) for poses in all_of])
        for all_of in (expected, found)
    )
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return unequal
    sure = np.maximum(one[..., 2], other[..., 2]) >= MIN_SCORE
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
    """(P,) pixels of the network's input per image pixel, for each person."""
    if estimator.uses_boxes:
        size_wh, boxes = (1, 1), poses.boxes_xywh  # only the boxes matter
    else:
        assert poses.file is not None
        height, width = read_image(poses.file).shape[:2]
        size_wh, boxes = (width, height), None
    regions = estimator.crop.views(size_wh, boxes, estimator.runner.size_multiple)
    areas = np.array([np.linalg.det(views[0].matrix) for views in regions])
    return np.broadcast_to(np.sqrt(np.abs(areas)), len(poses))


def format_table(rows: Sequence[Difference], tolerance: Tolerance) -> str:
    """Formats the rows as a table."""
    head = f"{'backend':12} {'largest px':>10} {'mean px':>8} {'largest score':>14} {'mean':>8}"
    limited = "mean" if tolerance.of_mean else "largest"
    lines = [
        f"{head} {'joints':>7}",
        *(
            f"{r.backend:12} {r.largest:10.4f} {r.mean:8.4f} {r.largest_score:14.5f} "
            f"{r.mean_score:8.5f} {r.joints:7}"
            for r in rows
        ),
        f"tolerance of the {limited}: {tolerance.pixels:g} px of the network's input at joints "
        f"scored {MIN_SCORE:g} or more, score {tolerance.score:g}",
    ]
    return "\n".join(lines)
