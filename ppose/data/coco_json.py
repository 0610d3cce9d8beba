"""Reading COCO JSON files: error messages, a streaming parser, and conversion to columns.

`JsonStream` is written by hand because no streaming JSON reader reports the line and column of an
error as `json.loads` does, keeps float32 columns instead of Python numbers, and reads COCO's
annotations as fast (benchmarks/annotations.py).
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from reprlib import repr as short
from typing import Any, BinaryIO, cast

import numpy as np

from ppose.data.images import nearest_path
from ppose.data.problems import DataError, Problems

NO_ID = -(2**62)  # stands for an id that is missing or not an integer

# All other keys are dropped while parsing.
_USED_KEYS = {
    *("images", "annotations", "categories", "id", "name", "file_name", "width", "height"),
    *("image_id", "category_id", "bbox", "area", "iscrowd", "keypoints", "score", "caption"),
    *("image", "people", "box_xywh"),  # of poses.json
}
_CHUNK_SIZE = 2**20  # characters
_CUT_NUMBER = 2  # characters after the 1 in 1e+, which may continue in the next chunk
_WHITESPACE = re.compile(r"[ \t\n\r]*")


# Files


def read_json(path: Path, argument: str) -> Any:
    """The content of a JSON file; objects keep only the keys that a dataset needs.

    Args:
        path: the file.
        argument: name of the argument that holds the path, for error messages.

    Raises:
        DataError: the file does not exist, is empty, or is not JSON (with line and column).
    """
    with _json_errors(path, argument):
        return json.loads(path.read_text("utf-8-sig"), object_hook=_keep_used_keys)


@contextmanager
def open_json(path: Path, argument: str, segmentations: bool) -> Iterator[JsonStream]:
    """Opens a JSON file for streaming; arguments and errors as in `read_json`.

    Lists under `keypoints` next to an `image_id`, and the polygons of segmentations, become arrays
    of float32, with NaN for values that are not numbers.

    Args:
        path: the file.
        argument: name of the argument that holds the path, for error messages.
        segmentations: keep `segmentation` of annotations.
    """
    hook = _keep_used_keys_and_segmentation if segmentations else _keep_used_keys
    with _json_errors(path, argument), path.open(encoding="utf-8-sig") as file:
        yield JsonStream(file, hook)


def is_drawn(path: str | Path) -> bool:
    """Whether `ppose synthetic` wrote a keypoint file, which then begins with its recipe.

    False for a file that cannot be read: whoever needs its content reports that.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            stream = JsonStream(file)
            info = stream.value() if next(stream.members(), None) == "info" else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(info, dict) and "recipe" in info


def filter_objects(entries: Any, what: str, problems: Problems) -> list[dict[str, Any]]:
    """The entries that are JSON objects; the others are counted as skipped."""
    found = entries if isinstance(entries, list) else [entries]
    wrong = [entry for entry in found if not isinstance(entry, dict)]
    problems.add("skipped", f"{what} that is not an object", wrong, short)
    return [entry for entry in found if isinstance(entry, dict)]


@contextmanager
def _json_errors(path: Path, argument: str) -> Iterator[None]:
    """Turns errors of reading or parsing `path` into a DataError that names the file."""
    if path.is_dir():
        raise DataError(f"{argument}: {path} is a folder, expected a file")
    if not path.is_file():
        raise DataError(f"{argument}: file {path} does not exist: {nearest_path(path)}")
    if path.stat().st_size == 0:
        raise DataError(f"{argument}: {path} is empty; download it again")
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
            f"{argument}: {path} is not valid JSON: {error.msg} in line {error.lineno}, column "
            f"{error.colno}; if the file is truncated, download it again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{argument}: {path} cannot be read as JSON: {error}") from None


def _keep_used_keys(node: dict[str, Any]) -> dict[str, Any]:
    """Object hook of `json.loads`: drops unused keys; `keypoints` become an array."""
    node = {key: value for key, value in node.items() if key in _USED_KEYS}
    keypoints = node.get("keypoints")
    if isinstance(keypoints, list) and "image_id" in node:
        node["keypoints"] = as_floats(keypoints)
    return node


def _keep_used_keys_and_segmentation(node: dict[str, Any]) -> dict[str, Any]:
    used = _keep_used_keys(node) | {key: node[key] for key in ("counts", "size") if key in node}
    segmentation = node.get("segmentation")
    if isinstance(segmentation, list):
        segmentation = [as_floats(polygon) for polygon in segmentation if isinstance(polygon, list)]
    return used if segmentation is None else used | {"segmentation": segmentation}


# Streaming parser


class JsonStream:
    """Reads a JSON document in one pass, with about one chunk of its text in memory.

    Values and errors, with line and column, are those of `json.loads` for the whole text.

    Args:
        file: the text, opened with an encoding that skips a byte order mark.
        object_hook: see `json.loads`.

    Raises:
        json.JSONDecodeError: from every method, with the position in the file.
        UnicodeDecodeError: from every method; `start` is the byte offset in the file.
    """

    def __init__(
        self, file: TextIOWrapper, object_hook: Callable[[dict[str, Any]], Any] | None = None
    ):
        self._file, self._bytes = file, cast(BinaryIO, file.buffer)
        self._scan = json.JSONDecoder(object_hook=object_hook).raw_decode
        self._text, self._at = "", 0
        self._lines, self._column = 0, 0  # before the text in memory

    def peek(self) -> str:
        """The next non-whitespace character, without consuming it; "" at the end."""
        while True:
            whitespace = _WHITESPACE.match(self._text, self._at)
            assert whitespace is not None
            self._at = whitespace.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_chunk():
                return ""

    def value(self) -> Any:
        """The next value, of any type."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._read_chunk():
                    continue
                raise self._with_position(error) from None
            if end + _CUT_NUMBER < len(self._text) or not self._read_chunk():
                self._at = end
                return value

    def members(self) -> Iterator[str]:
        """The keys of the next object; the caller reads the value after each key."""
        self._expect("{", "Expecting value")
        if self._accept("}"):
            return
        while True:
            if self.peek() != '"':
                raise self._error("Expecting property name enclosed in double quotes")
            key = self.value()
            self._expect(":", "Expecting ':' delimiter")
            yield key
            if self._accept("}"):
                return
            self._expect(",", "Expecting ',' delimiter")

    def elements(self, fast_decoder: Callable[[str], Any] | None = None) -> Iterator[Any]:
        """The elements of the next list.

        Args:
            fast_decoder: text of an object → its value; tried first on objects. What it rejects by
                a ValueError or RecursionError is read as by `value`.
        """
        self._expect("[", "Expecting value")
        if self._accept("]"):
            return
        while True:
            is_object = self.peek() == "{"
            entry = self._decode_fast(fast_decoder) if fast_decoder and is_object else None
            yield self.value() if entry is None else entry
            if self._accept("]"):
                return
            self._expect(",", "Expecting ',' delimiter")

    def finish(self) -> None:
        """Raises if anything follows."""
        if self.peek():
            raise self._error("Extra data")

    def _decode_fast(self, decode: Callable[[str], Any]) -> Any:
        """The object up to the next closing brace, or None.

        If that brace closes an inner object or is part of a string, the text before it is not a
        complete object, and the decoder rejects it.
        """
        end = self._text.find("}", self._at) + 1
        if not end:
            return None
        try:
            entry = decode(self._text[self._at : end])
        except (ValueError, RecursionError):
            return None
        self._at = end
        return entry

    def _accept(self, character: str) -> bool:
        if self.peek() != character:
            return False
        self._at += 1
        return True

    def _expect(self, character: str, message: str) -> None:
        if not self._accept(character):
            raise self._error(message)

    def _read_chunk(self) -> bool:
        """Reads more text and drops what was consumed; False at the end of the file.

        Reads at least as much as is unconsumed, so that a long value is not scanned too often.
        """
        try:
            chunk = self._file.read(max(_CHUNK_SIZE, len(self._text) - self._at))
        except UnicodeDecodeError as error:
            error.start += self._bytes.tell() - len(error.object)
            raise
        if not chunk:
            return False
        consumed, rest = self._text[: self._at], self._text[self._at :]
        self._lines += consumed.count("\n")
        line = consumed.rfind("\n") + 1
        self._column = len(consumed) - line + (0 if line else self._column)
        self._text, self._at = rest + chunk, 0
        return True

    def _error(self, message: str) -> json.JSONDecodeError:
        return self._with_position(json.JSONDecodeError(message, self._text, self._at))

    def _with_position(self, error: json.JSONDecodeError) -> json.JSONDecodeError:
        if error.lineno == 1:
            error.colno += self._column
        error.lineno += self._lines
        return error


# Columns


def float_column(values: Sequence[Any]) -> np.ndarray:
    """(N,) float64; NaN for values that are not numbers."""
    try:
        return np.array(array("d", values))
    except (TypeError, OverflowError):
        return np.array([as_float(value) for value in values], np.float64)


def id_column(values: Sequence[Any]) -> np.ndarray:
    """(N,) int64; `NO_ID` for values that are not integers below 2^62."""
    try:
        column = np.array(array("q", values), np.int64)
    except (TypeError, OverflowError):
        column = np.array([as_id(value) for value in values], np.int64)
    column[(column <= NO_ID) | (column >= -NO_ID)] = NO_ID
    return column


def box_column(boxes: Sequence[Any]) -> np.ndarray:
    """(N, 4) float64; NaN for values that are not numbers, and for boxes without four values."""
    blank = [None] * 4
    fitting = [box if isinstance(box, list) and len(box) == 4 else blank for box in boxes]
    return float_column(list(chain.from_iterable(fitting))).reshape(-1, 4)


def as_id(value: Any) -> int:
    """`NO_ID` for a value that is not an integer below 2^62."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and abs(value) < -NO_ID else NO_ID


def as_float(value: Any) -> float:
    """NaN for a value that is not a number."""
    try:
        return float(value) if isinstance(value, int | float) else float("nan")
    except OverflowError:
        return float("inf")


def as_floats(values: list[Any] | array) -> array:
    """float32; NaN for values that are not numbers."""
    try:
        return array("f", values)
    except (TypeError, OverflowError):
        return array("f", map(as_float, values))
