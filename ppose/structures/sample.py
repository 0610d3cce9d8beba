"""Sample: an image with annotations, as the transforms pass it on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ppose.structures.segmentation import Segmentation


@dataclass
class Sample:
    """One image with its annotations, as the transforms pass it on.

    Transforms before `Warp` only update `matrix` and leave `image` unchanged. `Warp` applies the
    matrix to image and keypoints, which are in pixels of the network's input from then on.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        box_xywh: (4,) float32 box of the first person, pixels of the original image.
        keypoints: (P, K, 3) float32 x, y, COCO visibility (0 unlabelled, 1 occluded, 2 visible).
        matrix: (3, 3) float64, maps pixels of the original image to pixels of the network's input.
        size_wh: width and height of the network's input; (0, 0) before the crop.
        pivot_xy: fixed point of scaling, rotation and flip, in pixels of the input.
        meta: identifies the sample: `image_id`, `person_id`, `path`, `box_score`.
        segmentations: of all people in the image, if the dataset has them.
        people_mask: (H, W) uint8, 255 on people; None before `Warp` or without segmentations.
        known_mask: (H, W) uint8, 0 where there may be unlabelled joints; None before `Warp` or
            without segmentations.
    """

    image: np.ndarray
    box_xywh: np.ndarray
    keypoints: np.ndarray
    matrix: np.ndarray = field(default_factory=lambda: np.eye(3))
    size_wh: tuple[int, int] = (0, 0)
    pivot_xy: tuple[float, float] = (0.0, 0.0)
    meta: dict[str, Any] = field(default_factory=dict)
    segmentations: tuple[Segmentation, ...] = ()
    people_mask: np.ndarray | None = None
    known_mask: np.ndarray | None = None
