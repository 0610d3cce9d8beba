"""Outlines of people: kept compactly, drawn as masks in pixels of the network's input."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ppose import geometry

_BITS = 4  # binary digits of a pixel's fraction in which polygons are drawn
_FAR = 2.0**20  # pixels; what lies further out is pulled in before it is drawn


@dataclass(frozen=True)
class Outline:
    """The region of one annotation in its picture.

    Attributes:
        polygons: (M, 2) float32 corners each, x, y.
        runs: COCO's run-length encoding, for what polygons do not describe.
        labelled: whether a joint is labelled.
        crowd: whether it is a group rather than one person.
    """

    polygons: tuple[np.ndarray, ...]
    runs: dict[str, Any] | None
    labelled: bool
    crowd: bool

    def draw(self, mask: np.ndarray, matrix: np.ndarray, value: int) -> None:
        """Sets the region to `value` in a (H, W) uint8 mask, through a (3, 3) matrix."""
        if self.runs is not None:
            region = coco_mask.decode(self.runs)
            size = (mask.shape[1], mask.shape[0])
            region = cv2.warpAffine(region, matrix[:2], size, flags=cv2.INTER_NEAREST)
            mask[region > 0] = value
        for polygon in self.polygons:
            corners = np.clip(geometry.transform_points(matrix, polygon), -_FAR, _FAR)
            fixed = np.round(corners * 2**_BITS).astype(np.int32)
            cv2.fillPoly(mask, [fixed], (value,), shift=_BITS)


class OutlineTable:
    """The outlines of many annotations in a few arrays, as polygons take the most memory.

    Args:
        segmentations: COCO's `segmentation` of each annotation: polygons, or run lengths.
        sizes_wh: (A, 2) width and height of each annotation's picture.
        boxes_xywh: (A, 4) stand in for what is missing or malformed.
        labelled, crowd: (A,) bool, see `Outline`.

    Attributes:
        replaced: (A,) bool, whether the box stands in.
    """

    def __init__(
        self,
        segmentations: Sequence[Any],
        sizes_wh: np.ndarray,
        boxes_xywh: np.ndarray,
        labelled: np.ndarray,
        crowd: np.ndarray,
    ):
        self._labelled, self._crowd = labelled, crowd
        self.replaced = np.zeros(len(segmentations), bool)
        self._runs: dict[int, dict[str, Any]] = {}
        coordinates, polygon_ends, ends = array("f"), array("q"), array("q")
        for i, segmentation in enumerate(segmentations):
            if (runs := _run_lengths(segmentation, sizes_wh[i])) is not None:
                self._runs[i] = runs
            else:
                polygons = _polygons(segmentation)
                self.replaced[i] = not polygons
                for polygon in polygons or [_corners(boxes_xywh[i])]:
                    coordinates.extend(polygon)
                    polygon_ends.append(len(coordinates) // 2)
            ends.append(len(polygon_ends))
        self._points = np.array(coordinates, np.float32).reshape(-1, 2)
        self._polygon_ends = np.array(polygon_ends, np.int64)
        self._ends = np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Outline:
        labelled, crowd = bool(self._labelled[index]), bool(self._crowd[index])
        if index in self._runs:
            return Outline((), self._runs[index], labelled, crowd)
        first = self._ends[index - 1] if index else 0
        ends = self._polygon_ends[first : self._ends[index]]
        start = self._polygon_ends[first - 1] if first else 0
        polygons = np.split(self._points[start : ends[-1]], ends[:-1] - start)
        return Outline(tuple(polygons), None, labelled, crowd)


def _polygons(segmentation: Any) -> list[array]:
    """The polygons with at least three finite corners."""
    if not isinstance(segmentation, list):
        return []
    arrays = [p for p in segmentation if isinstance(p, array)]
    return [p for p in arrays if len(p) >= 6 and len(p) % 2 == 0 and np.isfinite(p).all()]


def _corners(box_xywh: np.ndarray) -> array:
    x, y, width, height = box_xywh.tolist()
    return array("f", [x, y, x + width, y, x + width, y + height, x, y + height])


def _run_lengths(segmentation: Any, size_wh: np.ndarray) -> dict[str, Any] | None:
    """pycocotools' compressed form; None for what does not fill its picture."""
    if not isinstance(segmentation, dict):
        return None
    width, height = (int(side) for side in size_wh)
    counts = segmentation.get("counts")
    if segmentation.get("size") != [height, width]:
        return None
    if isinstance(counts, list):
        whole = all(isinstance(count, int) and count >= 0 for count in counts)
        if not whole or sum(counts) != width * height:
            return None
        return coco_mask.frPyObjects(segmentation, height, width)
    if not isinstance(counts, str):
        return None
    runs = {"size": [height, width], "counts": counts.encode()}
    return runs if _fills(runs) else None


def _fills(runs: dict[str, Any]) -> bool:
    """Whether pycocotools, which trusts its input, can decode text from a file."""
    total, value, shift = 0, 0, 0
    counts: list[int] = []
    for byte in runs["counts"]:
        digit = byte - 48
        if not 0 <= digit < 64 or shift > 30:
            return False
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        if value < 0:
            return False
        total += value
        value, shift = 0, 0
    return shift == 0 and total == runs["size"][0] * runs["size"][1]
