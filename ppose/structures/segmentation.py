"""Segmentation of one annotation, rasterized as a mask in pixels of the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ppose.structures import geometry

MAX_COORDINATE = 2.0**20  # pixels; coordinates are clipped to ± this before drawing
_BITS = 4  # fractional bits of the coordinates that polygons are drawn with


@dataclass(frozen=True)
class Segmentation:
    """Segmentation of one annotation, as polygons or run lengths.

    Attributes:
        polygons: (M, 2) float32 corners x, y of each polygon; empty with run lengths.
        runs: COCO's run-length encoding (RLE), or None.
        labelled: whether the annotation has a labelled joint.
        crowd: whether it is a crowd (COCO's `iscrowd`) rather than one person.
    """

    polygons: tuple[np.ndarray, ...]
    runs: dict[str, Any] | None
    labelled: bool
    crowd: bool

    def draw(self, mask: np.ndarray, matrix: np.ndarray, value: int) -> None:
        """Fills the region with `value` in a (H, W) uint8 mask, transformed by a (3, 3) matrix."""
        if self.runs is not None:
            region = coco_mask.decode(self.runs)
            size = (mask.shape[1], mask.shape[0])
            region = cv2.warpAffine(region, matrix[:2], size, flags=cv2.INTER_NEAREST)
            mask[region > 0] = value
        for polygon in self.polygons:
            corners = geometry.transform_points(matrix, polygon)
            corners = np.clip(corners, -MAX_COORDINATE, MAX_COORDINATE)
            fixed = np.round(corners * 2**_BITS).astype(np.int32)
            cv2.fillPoly(mask, [fixed], (value,), shift=_BITS)
