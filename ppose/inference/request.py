"""Requests for pose estimation, and validation of images and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short

import numpy as np

from ppose.utils.errors import PposeError


class InputError(PposeError, ValueError):
    """An invalid array or invalid boxes; the message says what is wrong."""


@dataclass(frozen=True)
class Request:
    """One image for pose estimation.

    Attributes:
        image: (H, W, 3) uint8 RGB, or its file.
        boxes_xywh: (P, 4) boxes of people, for top-down networks; None uses one box that covers
            the image.
        box_scores: (P,) scores of the boxes in 0..1; None for 1.
        box_source: origin of the boxes.
        category_ids: (P,) int64 category of each person in its dataset.
        image_id: id of the image in its dataset.
        size_wh: width and height as annotated, which tell whether EXIF rotation applies.
        file: file that an array was read from, to be named in the result.
        keep_image: `Poses.image` of the result is the image, so that it need not be read again.
    """

    image: np.ndarray | Path
    boxes_xywh: np.ndarray | None = None
    box_scores: np.ndarray | None = None
    box_source: str = "whole picture"
    image_id: int | None = None
    size_wh: tuple[int, int] | None = None
    file: Path | None = None
    keep_image: bool = False
    category_ids: np.ndarray | None = None


def check_boxes(boxes: np.ndarray | Sequence) -> np.ndarray:
    """Boxes as (P, 4) float32, or (P, 5) with scores in 0..1; InputError if they are invalid."""
    try:
        table = np.asarray(boxes, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"boxes: expected rows of 4 or 5 numbers, found {short(boxes)}") from None
    if table.size == 0:
        return np.zeros((0, 4), np.float32)
    if table.ndim != 2 or table.shape[1] not in (4, 5):
        raise InputError(f"boxes: expected shape (P, 4) or (P, 5), found {table.shape}")
    scores = table[:, 4:]
    wrong = scores[~((scores >= 0) & (scores <= 1))]
    if wrong.size:
        raise InputError(f"boxes: expected scores in 0..1, found {wrong[0]:g}")
    return table


def check_image(image: np.ndarray) -> np.ndarray:
    """The image; InputError unless it is (H, W, 3) uint8."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(f"image: expected (H, W, 3) uint8 RGB, found {image.shape} {image.dtype}")
    return image
