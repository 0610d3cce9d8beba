"""Non-maximum suppression."""

from __future__ import annotations

import numpy as np


def nms(boxes_xyxy: np.ndarray, scores: np.ndarray, max_iou: float, limit: int) -> np.ndarray:
    """Greedy non-maximum suppression.

    Repeatedly keeps the box with the highest score and removes all boxes that overlap it by more
    than `max_iou`. On equal scores the earlier box comes first.

    Args:
        boxes_xyxy: (N, 4) float left, top, right, bottom.
        scores: (N,).
        max_iou: largest intersection over union with a box of a higher score.
        limit: maximum number of boxes to keep.

    Returns:
        (M,) indices of the kept boxes, by descending score.
    """
    remaining = np.argsort(-scores, kind="stable")
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    areas = np.clip(high - low, 0, None).prod(1)
    kept: list[int] = []
    while len(remaining) and len(kept) < limit:
        best, remaining = remaining[0], remaining[1:]
        kept.append(best)
        intersection = np.minimum(high[best], high[remaining]) - np.maximum(
            low[best], low[remaining]
        )
        intersection = np.clip(intersection, 0, None).prod(1)
        # Without a division, so that boxes without area overlap nothing.
        remaining = remaining[
            intersection <= max_iou * (areas[best] + areas[remaining] - intersection)
        ]
    return np.array(kept, np.intp)
