"""Boxes and keypoints that are not in pixels, or not in the expected order: found and named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ppose.structures.geometry import iou

# In the public data sets of people, hands and animals no box is outside its image, and the median
# overlap (IoU) of a box with that around its labelled joints is 0.5 to 0.7; in a mistaken format
# it is below 0.4.
_BEYOND = 0.1  # share of a box outside its image that is named
_SURE = 0.8  # share of boxes inside their images from which their format is not doubted
_FITTING = 0.95  # share of boxes that must fit the images for another format to be suggested
_OVERLAP = 0.3  # that another format must have with the joints
_MANY = 5  # boxes from which most of them outside, or without their joints, are an error
_NORMALIZED = 1.5  # largest coordinate of values in 0..1, with some room
_TINY = 16  # pixels of a side; smaller images may have such coordinates

BEYOND_IMAGE = "box with a tenth or more outside its image"

Convert = Callable[[np.ndarray, np.ndarray], np.ndarray]  # boxes, sizes_wh → boxes_xywh


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def _centred(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], 1)


_IN_PIXELS: dict[str, Convert] = {
    "x1 y1 x2 y2": lambda boxes, sizes: _corners(boxes),
    "centre x, centre y, width, height": lambda boxes, sizes: _centred(boxes),
    "y x height width": lambda boxes, sizes: boxes[:, [1, 0, 3, 2]],
    "y1 x1 y2 x2": lambda boxes, sizes: _corners(boxes[:, [1, 0, 3, 2]]),
}
_IN_PARTS: dict[str, Convert] = {
    "centre x, centre y, width, height in 0..1, as in YOLO's files": (
        lambda boxes, sizes: _centred(boxes) * np.tile(sizes, 2)
    ),
    "x1 y1 x2 y2 in 0..1": lambda boxes, sizes: _corners(boxes) * np.tile(sizes, 2),
    "x, y, width, height in 0..1": lambda boxes, sizes: boxes * np.tile(sizes, 2),
}


def beyond_image(boxes_xywh: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """(N,) bool, whether more than a tenth of each (N, 4) box is outside its image, (N, 2)."""
    low = np.maximum(boxes_xywh[:, :2], 0)
    high = np.minimum(boxes_xywh[:, :2] + boxes_xywh[:, 2:], sizes_wh)
    inside = np.maximum(high - low, 0).prod(1)
    return inside < (1 - _BEYOND) * np.maximum(boxes_xywh[:, 2:], 0).prod(1)


def box_mistake(
    boxes: np.ndarray, sizes_wh: np.ndarray, joint_boxes: np.ndarray | None = None
) -> str | None:
    """What is wrong with most boxes, as the text of an error; None if nothing seems to be.

    Args:
        boxes: (N, 4) finite, which should be x, y, width, height in pixels.
        sizes_wh: (N, 2) width and height of their images.
        joint_boxes: (N, 4) box around the labelled joints of each person, where there are any.
    """
    if not len(boxes):
        return None
    boxes, sizes = boxes.astype(np.float64), sizes_wh.astype(np.float64)
    beyond = beyond_image(boxes, sizes)
    what = f"boxes ({_which(boxes, sizes, beyond if beyond.any() else ~beyond)})"
    doubtful = (~beyond).mean() < _SURE
    if joint_boxes is not None:
        better = _format_by_joints(boxes, sizes, joint_boxes)
    else:
        formats = _fitting(boxes, sizes) if doubtful or _in_parts(boxes, sizes) else {}
        better = next(iter(formats), None)
    if better:
        return f"{what} have to be x, y, width, height in pixels: are they {better}?"
    if len(boxes) < _MANY:
        return None
    if doubtful and _fits(boxes, sizes[:, ::-1]).mean() >= _FITTING:
        return f"{what} leave their images: are width and height of the images exchanged?"
    if joint_boxes is None:
        apart, how = beyond, "leave their images"
    else:
        middles = joint_boxes[:, :2] + joint_boxes[:, 2:] / 2
        apart = (np.abs(middles - boxes[:, :2] - boxes[:, 2:] / 2) > 0.6 * boxes[:, 2:]).any(1)
        how = "do not hold their joints"
    if apart.mean() <= 0.5:
        return None
    if joint_boxes is not None and np.median(iou(boxes, joint_boxes[:, [1, 0, 3, 2]])) > _OVERLAP:
        return f"{what} {how}: are keypoints y, x, visibility?"
    return (
        f"{apart.sum()} of {len(boxes)} boxes {how} ({_which(boxes, sizes, apart)}): are they x1 "
        "y1 x2 y2, of another image size, or of other images? They have to be x, y, width, height "
        "in pixels"
    )


def keypoint_mistake(keypoints: np.ndarray, sizes_wh: np.ndarray) -> str | None:
    """What is wrong with most keypoints, as the text of an error; None if nothing seems to be.

    Args:
        keypoints: (N, 3) labelled x, y, visibility.
        sizes_wh: (N, 2) width and height of their images.
    """
    if len(keypoints) < _MANY:
        return None
    points, sizes = keypoints[:, :2].astype(np.float64), sizes_wh.astype(np.float64)
    example = f"such as {points[0].round(3).tolist()}"
    if _in_parts(points, sizes):
        return f"keypoints ({example}) have to be in pixels: are they in 0..1 of the image?"
    outside = _outside(points, sizes)
    if outside.mean() <= 0.5:
        return None
    turned = _outside(points[:, ::-1], sizes).mean() < 1 - _FITTING
    ask = "y, x, or are width and height of the images exchanged" if turned else (
        "of another image size, or of other images"
    )  # fmt: skip
    at = int(outside.argmax())
    return (
        f"{outside.sum()} of {len(points)} labelled keypoints are outside their image (such as "
        f"{points[at].round(3).tolist()} in {_size(sizes[at])}): are they {ask}?"
    )


def _fitting(boxes: np.ndarray, sizes_wh: np.ndarray) -> dict[str, np.ndarray]:
    """The formats in which nearly all boxes are inside their images, with the boxes x, y, w, h."""
    formats = _IN_PARTS if _in_parts(boxes, sizes_wh) else _IN_PIXELS
    converted = {name: convert(boxes, sizes_wh) for name, convert in formats.items()}
    return {
        name: found
        for name, found in converted.items()
        if _fits(found, sizes_wh).mean() >= _FITTING
    }


def _format_by_joints(
    boxes: np.ndarray, sizes_wh: np.ndarray, joint_boxes: np.ndarray
) -> str | None:
    """The format in which boxes overlap the joints much better than as given, or None."""
    overlaps = {
        name: float(np.median(iou(found, joint_boxes)))
        for name, found in _fitting(boxes, sizes_wh).items()
    }
    best = max(overlaps, key=overlaps.__getitem__, default=None)
    factor = 1.5 if len(boxes) >= _MANY else 2.0
    least = max(factor * float(np.median(iou(boxes, joint_boxes))), _OVERLAP)
    return best if best and overlaps[best] > least else None


def _fits(boxes_xywh: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """(N,) bool, whether boxes are positive and inside their image, but for a few pixels."""
    room = 2 + 0.02 * sizes_wh
    low, high = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    inside = (low >= -room) & (high <= sizes_wh + room) & (boxes_xywh[:, 2:] > 0)
    return inside.all(1)


def _in_parts(values: np.ndarray, sizes_wh: np.ndarray) -> bool:
    return bool(np.abs(values).max() <= _NORMALIZED and np.median(sizes_wh) >= _TINY)


def _outside(points: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    return np.any((points < 0) | (points > sizes_wh), axis=1)


def _which(boxes: np.ndarray, sizes_wh: np.ndarray, of: np.ndarray) -> str:
    at = int(of.argmax())
    return f"such as {boxes[at].round(3).tolist()} in an image of {_size(sizes_wh[at])}"


def _size(size_wh: np.ndarray) -> str:
    return f"{size_wh[0]:.0f}x{size_wh[1]:.0f}"
