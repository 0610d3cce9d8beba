"""JSON of the COCO family: read leanly, turned into columns, whatever stands in it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from reprlib import repr as short
from typing import Annotated, Any

import msgspec
import numpy as np

from ppose.data.json_file import as_float, as_floats, explained, used_keys
from ppose.data.json_text import JsonText
from ppose.data.problems import Problems

NO_ID = -(2**62)  # stands for an id that is missing or no whole number
Id = Annotated[int, msgspec.Meta(gt=NO_ID, lt=-NO_ID)]


@contextmanager
def opened_json(path: Path, argument: str, outlines: bool) -> Iterator[JsonText]:
    """A JSON file to be read in pieces; see `read_json`.

    Lists under `keypoints` beside an `image_id`, and the polygons of outlines, become arrays of
    float32, with NaN for what is not a number.

    Args:
        outlines: keep `segmentation` of annotations.
    """
    hook = _used_with_outlines if outlines else used_keys
    with explained(path, argument), path.open(encoding="utf-8-sig") as file:
        yield JsonText(file, hook)


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


def as_id(value: Any) -> int:
    """`NO_ID` for what is not a whole number below 2^62."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and abs(value) < -NO_ID else NO_ID


def _used_with_outlines(node: dict[str, Any]) -> dict[str, Any]:
    used = used_keys(node) | {key: node[key] for key in ("counts", "size") if key in node}
    outline = node.get("segmentation")
    if isinstance(outline, list):
        outline = [as_floats(polygon) for polygon in outline if isinstance(polygon, list)]
    return used if outline is None else used | {"segmentation": outline}
