"""JSON of the COCO family: read leanly, turned into columns, whatever stands in it."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from ppose.data.images import nearest_path
from ppose.data.problems import DataError, Problems

NO_ID = -(2**62)  # stands for an id that is missing or no whole number

# All else, outlines above all, is dropped while it is read: that halves the memory that COCO's
# train2017 takes.
_USED_KEYS = {
    *("images", "annotations", "categories", "id", "name", "file_name", "width", "height"),
    *("image_id", "category_id", "bbox", "area", "iscrowd", "keypoints", "score", "caption"),
}


def read_json(path: Path, argument: str, outlines: bool = False) -> Any:
    """The content of a JSON file; of objects only the keys that a data set needs.

    Lists under `keypoints` beside an `image_id`, and the polygons of outlines, become arrays of
    float32, with NaN for what is not a number.

    Args:
        path: the file.
        argument: the argument that named it, for messages.
        outlines: keep `segmentation` of annotations.

    Raises:
        DataError: no such file, empty, or not JSON (with line and column).
    """
    if not path.is_file():
        raise DataError(f"{argument}: there is no file {path}: {nearest_path(path)}")
    if path.stat().st_size == 0:
        raise DataError(f"{argument}: {path} is empty; fetch it again")
    used = _used_with_outlines if outlines else _used
    try:
        return json.loads(path.read_text("utf-8-sig"), object_hook=used)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{argument}: {path} is not a text file (byte {error.start}); if it is an archive, "
            "unpack it"
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{argument}: {path} is not JSON: {error.msg} in line {error.lineno}, column "
            f"{error.colno}; a file that was cut short has to be fetched again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{argument}: {path} cannot be read as JSON: {error}") from None


def objects(entries: Any, what: str, problems: Problems) -> list[dict[str, Any]]:
    """The entries that are JSON objects; the others are counted as skipped."""
    found = entries if isinstance(entries, list) else [entries]
    wrong = [entry for entry in found if not isinstance(entry, dict)]
    problems.add("skipped", f"{what} that is no object", wrong, short)
    return [entry for entry in found if isinstance(entry, dict)]


def float_column(values: Sequence[Any]) -> np.ndarray:
    """(N,) float64; NaN for what is not a number."""
    try:
        return np.array(array("d", values))
    except (TypeError, OverflowError):
        return np.array([as_float(value) for value in values], np.float64)


def id_column(values: Sequence[Any]) -> np.ndarray:
    """(N,) int64; `NO_ID` for what is not a whole number below 2^62."""
    try:
        column = np.array(array("q", values), np.int64)
    except (TypeError, OverflowError):
        column = np.array([as_id(value) for value in values], np.int64)
    column[(column <= NO_ID) | (column >= -NO_ID)] = NO_ID
    return column


def box_column(boxes: Sequence[Any]) -> np.ndarray:
    """(N, 4) float64; NaN for what is not a number, all four where there are not four."""
    blank = [None] * 4
    fitting = [box if isinstance(box, list) and len(box) == 4 else blank for box in boxes]
    return float_column(list(chain.from_iterable(fitting))).reshape(-1, 4)


def as_float(value: Any) -> float:
    """NaN for what is not a number."""
    try:
        return float(value) if isinstance(value, int | float) else float("nan")
    except OverflowError:
        return float("inf")


def as_id(value: Any) -> int:
    """`NO_ID` for what is not a whole number below 2^62."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and abs(value) < -NO_ID else NO_ID


def _used_with_outlines(node: dict[str, Any]) -> dict[str, Any]:
    used = _used(node) | {key: node[key] for key in ("counts", "size") if key in node}
    outline = node.get("segmentation")
    if isinstance(outline, list):
        outline = [_floats(polygon) for polygon in outline if isinstance(polygon, list)]
    return used if outline is None else used | {"segmentation": outline}


def _used(node: dict[str, Any]) -> dict[str, Any]:
    node = {key: value for key, value in node.items() if key in _USED_KEYS}
    keypoints = node.get("keypoints")
    if isinstance(keypoints, list) and "image_id" in node:
        node["keypoints"] = _floats(keypoints)
    return node


def _floats(values: list[Any]) -> array:
    try:
        return array("f", values)
    except (TypeError, OverflowError):
        return array("f", map(as_float, values))
