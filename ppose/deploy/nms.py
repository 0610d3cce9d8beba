"""Boxes of which none covers another one too much."""

from __future__ import annotations

import numpy as np


def suppress(boxes_xyxy: np.ndarray, scores: np.ndarray, max_iou: float, limit: int) -> np.ndarray:
    """Greedy non-maximum suppression.

    The best box stays, all that overlap it by more than `max_iou` go, and so on. Of equal scores
    the earlier one is better.

    Args:
        boxes_xyxy: (N, 4) float left, top, right, bottom.
        scores: (N,).
        max_iou: intersection over union that boxes may have with a better one.
        limit: most boxes that stay.

    Returns:
        (M,) indices of those that stay, by falling score.
    """
    waiting = np.argsort(-scores, kind="stable")
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    areas = np.clip(high - low, 0, None).prod(1)
    kept: list[int] = []
    while len(waiting) and len(kept) < limit:
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        shared = np.minimum(high[best], high[waiting]) - np.maximum(low[best], low[waiting])
        shared = np.clip(shared, 0, None).prod(1)
        # Without a division: boxes of no area overlap nothing.
        waiting = waiting[shared <= max_iou * (areas[best] + areas[waiting] - shared)]
    return np.array(kept, np.intp)
