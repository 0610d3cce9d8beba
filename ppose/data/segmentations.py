"""Compact storage of the segmentations of many annotations: polygons and run lengths."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ppose.data.coco_json import as_floats, as_id
from ppose.structures.segmentation import MAX_COORDINATE, Segmentation

_MAX_PIXELS = 2**31 - 1  # of an image with run lengths; pycocotools counts with 32 bits


class Segmentations:
    """COCO's `segmentation` of many annotations, packed into a few arrays to save memory.

    Polygons with at least three corners, all finite, are kept, and run lengths that add up to
    their `size`. Anything else counts as no segmentation.

    Args:
        entries: polygons as lists or arrays of numbers, run lengths, or anything else.
    """

    def __init__(self, entries: Iterable[Any] = ()):
        self._coordinates, self._polygon_ends, self._row_ends = array("f"), array("q"), array("q")
        self._counts, self._count_ends = bytearray(), array("q")
        self._run_rows, self._run_sizes = array("q"), array("q")
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._row_ends)

    def add(self, segmentation: Any) -> None:
        """Appends the segmentation of the next annotation."""
        if isinstance(segmentation, list):
            self._add_polygons(segmentation)
        elif isinstance(segmentation, dict) and (runs := _run_lengths(segmentation)):
            self._counts += runs["counts"]
            self._count_ends.append(len(self._counts))
            self._run_rows.append(len(self))
            self._run_sizes.extend(runs["size"])
        self._row_ends.append(len(self._polygon_ends))

    def _add_polygons(self, polygons: list[Any]) -> None:
        for polygon in polygons:
            if isinstance(polygon, list | array) and len(polygon) >= 6 and len(polygon) % 2 == 0:
                corners = as_floats(polygon)
                if isfinite(sum(corners)):
                    self._coordinates.extend(corners)
                    self._polygon_ends.append(len(self._coordinates) // 2)

    def points(self) -> np.ndarray:
        """(M, 2) float32 corners of all polygons; nothing can be added after this call."""
        return np.frombuffer(self._coordinates, np.float32).reshape(-1, 2)

    def polygon_ends(self) -> np.ndarray:
        """(Q,) int64 end of each polygon in `points`."""
        return np.frombuffer(self._polygon_ends, np.int64)

    def row_ends(self) -> np.ndarray:
        """(R,) int64 end of each annotation's polygons in `polygon_ends`."""
        return np.frombuffer(self._row_ends, np.int64)

    def runs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All run lengths.

        Returns:
            (C,) indices of the annotations with run lengths, (C, 2) heights and widths, (C,) end
            of each in the bytes, and the bytes, in pycocotools' compressed form.
        """
        return (
            np.frombuffer(self._run_rows, np.int64),
            np.frombuffer(self._run_sizes, np.int64).reshape(-1, 2),
            np.frombuffer(self._count_ends, np.int64),
            np.frombuffer(self._counts, np.uint8),
        )


class SegmentationTable:
    """Sequence of the `Segmentation` of each annotation, created on access.

    Args:
        segmentations: COCO's `segmentation` of each annotation.
        sizes_wh: (A, 2) width and height of each annotation's image.
        boxes_xywh: (A, 4) boxes that replace missing or invalid segmentations.
        labelled, crowd: (A,) bool, see `Segmentation`.
        rows: (A,) index of each annotation in `segmentations`; None for the same order.

    Attributes:
        replaced: (A,) bool, whether the box replaces the segmentation.
    """

    def __init__(
        self,
        segmentations: Segmentations | Sequence[Any],
        sizes_wh: np.ndarray,
        boxes_xywh: np.ndarray,
        labelled: np.ndarray,
        crowd: np.ndarray,
        rows: np.ndarray | None = None,
    ):
        if not isinstance(segmentations, Segmentations):
            segmentations = Segmentations(segmentations)
        self._boxes, self._labelled, self._crowd = boxes_xywh, labelled, crowd
        rows = np.arange(len(segmentations)) if rows is None else rows
        self._rows = rows.astype(np.int32)
        self._points = segmentations.points()
        self._polygon_ends = segmentations.polygon_ends()
        self._row_ends = segmentations.row_ends()
        run_rows, self._run_sizes, self._count_ends, self._counts = segmentations.runs()
        self._run = self._match_runs(run_rows, sizes_wh)
        has_polygons = np.diff(self._row_ends, prepend=0) > 0
        self.replaced = (self._run < 0) & ~has_polygons[self._rows]

    def _match_runs(self, run_rows: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
        """(A,) int32 index of each annotation's run lengths; -1 if none has its image's size."""
        of_row = np.full(len(self._row_ends), -1, np.int32)
        of_row[run_rows] = np.arange(len(run_rows))
        run = of_row[self._rows]
        found = np.flatnonzero(run >= 0)
        wrong = (self._run_sizes[run[found]] != sizes_wh[found, ::-1]).any(1)
        run[found[wrong]] = -1
        return run

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Segmentation:
        labelled, crowd = bool(self._labelled[index]), bool(self._crowd[index])
        if self._run[index] >= 0:
            return Segmentation((), self._runs(self._run[index]), labelled, crowd)
        if self.replaced[index]:
            return Segmentation((_box_corners(self._boxes[index]),), None, labelled, crowd)
        row = self._rows[index]
        first = self._row_ends[row - 1] if row else 0
        ends = self._polygon_ends[first : self._row_ends[row]]
        start = self._polygon_ends[first - 1] if first else 0
        polygons = np.split(self._points[start : ends[-1]], ends[:-1] - start)
        return Segmentation(tuple(polygons), None, labelled, crowd)

    def _runs(self, run: int) -> dict[str, Any]:
        start = self._count_ends[run - 1] if run else 0
        counts = self._counts[start : self._count_ends[run]].tobytes()
        return {"size": self._run_sizes[run].tolist(), "counts": counts}


def _box_corners(box_xywh: np.ndarray) -> np.ndarray:
    x, y, width, height = box_xywh.tolist()
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    return np.clip(corners, -MAX_COORDINATE, MAX_COORDINATE).astype(np.float32)


def _run_lengths(segmentation: dict[str, Any]) -> dict[str, Any] | None:
    """pycocotools' compressed form; None if the runs do not add up to the given size."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2:
        return None
    height, width = map(as_id, size)
    if height < 1 or width < 1 or height * width > _MAX_PIXELS:
        return None
    if isinstance(counts, list):
        whole = all(isinstance(count, int) and count >= 0 for count in counts)
        if not whole or sum(counts) != width * height:
            return None
        return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if not isinstance(counts, str):
        return None
    runs = {"size": [height, width], "counts": counts.encode(errors="surrogatepass")}
    return runs if _is_valid(runs) else None


def _is_valid(runs: dict[str, Any]) -> bool:
    """Whether pycocotools can decode compressed runs; it does not check its input itself."""
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
