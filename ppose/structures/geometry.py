"""3×3 matrices that map image pixels to pixels of the network's input."""

from __future__ import annotations

import numpy as np

# Area of a person relative to the box, for annotations without areas, as in the public tools of
# CrowdPose.
AREA_OF_BOX = 0.53


def translation(x: float, y: float) -> np.ndarray:
    """Translation by (x, y) pixels."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def scaling(x: float, y: float | None = None) -> np.ndarray:
    """Scaling about the origin; `y` defaults to `x`."""
    return np.diag([x, x if y is None else y, 1.0])


def rotation(degrees: float) -> np.ndarray:
    """Rotation about the origin from x towards y, which is clockwise on a screen."""
    sin, cos = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def about(matrix: np.ndarray, pivot_xy: tuple[float, float]) -> np.ndarray:
    """The same map about `pivot_xy` instead of the origin."""
    x, y = pivot_xy
    return translation(x, y) @ matrix @ translation(-x, -y)


def pivot(size_wh: tuple[int, int], udp: bool) -> tuple[float, float]:
    """Position of the box's centre in the input, in pixels.

    Classic crops measure sizes in pixels and use size/2 (Simple Baselines, HRNet); UDP measures
    steps between pixel centres and uses (size−1)/2 (Huang et al., CVPR 2020).
    """
    width, height = size_wh
    return ((width - 1) / 2, (height - 1) / 2) if udp else (width / 2, height / 2)


def box_to_input(box_xywh: np.ndarray, size_wh: tuple[int, int], udp: bool = False) -> np.ndarray:
    """(3, 3) matrix that maps a box of the input's aspect ratio to the whole input.

    Args:
        box_xywh: (4,) box in pixels of the image, see `fit_box`.
        size_wh: width and height of the input.
        udp: unbiased data processing, see `pivot`.
    """
    x, y, width, height = (float(v) for v in box_xywh)
    steps = np.subtract(size_wh, 1) if udp else np.asarray(size_wh)
    scale = scaling(steps[0] / width, steps[1] / height)
    return translation(*pivot(size_wh, udp)) @ scale @ translation(-x - width / 2, -y - height / 2)


def fit_box(box_xywh: np.ndarray, size_wh: tuple[int, int], padding: float) -> np.ndarray:
    """Expands (..., 4) boxes to the aspect ratio of `size_wh`, then scales them by `padding`."""
    box = np.asarray(box_xywh, np.float64)
    aspect = size_wh[0] / size_wh[1]
    width = np.maximum(box[..., 2], box[..., 3] * aspect) * padding
    size = np.stack([width, width / aspect], -1)
    middle = box[..., :2] + box[..., 2:] / 2
    return np.concatenate([middle - size / 2, size], -1)


def resizing(factor: float) -> np.ndarray:
    """Scaling about the top left corner of the first pixel, whose centre is the origin."""
    return about(scaling(factor), (-0.5, -0.5))


def letterbox(image_wh: tuple[int, int], size_wh: tuple[int, int]) -> np.ndarray:
    """(3, 3) matrix that fits a whole image, undistorted, into the centre of `size_wh`."""
    factor = min(size_wh[0] / image_wh[0], size_wh[1] / image_wh[1])
    free = np.subtract(size_wh, np.multiply(image_wh, factor)) / 2
    return translation(*free) @ resizing(factor)


def transform_points(matrix: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """Transforms (..., 2) points by an affine (3, 3) matrix or a stack of matrices.

    A stack of shape (N, 3, 3) needs points of shape (N, ..., 2). The dtype of the points is kept.
    """
    matrix = np.asarray(matrix)
    linear, offset = matrix[..., :2, :2], matrix[..., :2, 2]
    if matrix.ndim == 3:
        extra = (1,) * (points_xy.ndim - 2)
        moved = np.einsum("nij,n...j->n...i", linear, points_xy)
        return (moved + offset.reshape(-1, *extra, 2)).astype(points_xy.dtype)
    return (points_xy @ linear.T + offset).astype(points_xy.dtype)


def iou(boxes_a: np.ndarray, boxes_b: np.ndarray, scales: np.ndarray | float = 1.0) -> np.ndarray:
    """(...) intersection over union of boxes x, y, width, height; 0 for boxes without area.

    Args:
        boxes_a, boxes_b: (..., 4) that broadcast to one shape: (P, 1, 4) and (Q, 4) give all pairs.
        scales: (...) factors by which both boxes of a pair are enlarged about their centres.
    """
    corners = []
    for boxes in (boxes_a, boxes_b):
        half = np.asarray(scales)[..., None] * boxes[..., 2:] / 2
        center = boxes[..., :2] + boxes[..., 2:] / 2
        corners.append((center - half, center + half))
    (low_a, high_a), (low_b, high_b) = corners
    intersection = np.maximum(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0).prod(-1)
    union = (high_a - low_a).prod(-1) + (high_b - low_b).prod(-1) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
