"""JSON files of the COCO family, and the numbers in them."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ppose.data.images import nearest_path
from ppose.data.problems import DataError

# All else is dropped while it is read.
_USED_KEYS = {
    *("images", "annotations", "categories", "id", "name", "file_name", "width", "height"),
    *("image_id", "category_id", "bbox", "area", "iscrowd", "keypoints", "score", "caption"),
}


def read_json(path: Path, argument: str) -> Any:
    """The content of a JSON file; of objects only the keys that a data set needs.

    Args:
        path: the file.
        argument: the argument that named it, for messages.

    Raises:
        DataError: no such file, empty, or not JSON (with line and column).
    """
    with explained(path, argument):
        return json.loads(path.read_text("utf-8-sig"), object_hook=used_keys)


@contextmanager
def explained(path: Path, argument: str) -> Iterator[None]:
    """Errors of a file that cannot be read become a DataError that names it."""
    if path.is_dir():
        raise DataError(f"{argument}: {path} is a folder; name a file in it")
    if not path.is_file():
        raise DataError(f"{argument}: there is no file {path}: {nearest_path(path)}")
    if path.stat().st_size == 0:
        raise DataError(f"{argument}: {path} is empty; fetch it again")
    try:
        yield
    except DataError:
        raise
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


def as_float(value: Any) -> float:
    """NaN for what is not a number."""
    try:
        return float(value) if isinstance(value, int | float) else float("nan")
    except OverflowError:
        return float("inf")


def as_floats(values: list[Any] | array) -> array:
    """float32; NaN for what is not a number."""
    try:
        return array("f", values)
    except (TypeError, OverflowError):
        return array("f", map(as_float, values))


def used_keys(node: dict[str, Any]) -> dict[str, Any]:
    """For `json.loads`: an object without keys that no data set needs; keypoints as an array."""
    node = {key: value for key, value in node.items() if key in _USED_KEYS}
    keypoints = node.get("keypoints")
    if isinstance(keypoints, list) and "image_id" in node:
        node["keypoints"] = as_floats(keypoints)
    return node
