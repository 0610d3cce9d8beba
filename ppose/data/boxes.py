"""Boxes of people from a JSON file, for pictures that belong to no data set."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from ppose.data.json_file import as_float, read_json
from ppose.data.problems import DataError, Problems


class BoxFile:
    """A list of {"file_name" or "image_id", "bbox": [x, y, w, h], "score"} by picture.

    COCO's results format is one case: an `image_id` stands for the picture whose name is that
    number, as in 000000000139.jpg. Entries of another category than `category_id` are left out.

    Args:
        path: JSON file.
        min_score: boxes with a lower score are left out.
        category_id: of people; entries without one are people.

    Attributes:
        path: the file.
        problems: boxes of people that cannot be used and are left out.

    Raises:
        DataError: no such file, not JSON, or not of that form; names the entry.
    """

    def __init__(self, path: str | Path, min_score: float = 0.0, category_id: int = 1):
        self.path = Path(path)
        self.problems = Problems()
        entries = read_json(self.path, "bbox_file")
        if not isinstance(entries, list):
            raise DataError(f"{path}: expected a list of boxes, found a {type(entries).__name__}")
        by_picture: dict[str | int, list[np.ndarray]] = defaultdict(list)
        for place, entry in enumerate(entries):
            key, box, score = self._read(place, entry)
            is_person = entry.get("category_id", category_id) == category_id
            if is_person and self._is_usable(place, entry, box, score) and score >= min_score:
                by_picture[key].append(np.append(box, np.float32(score)))
        self._boxes = {key: np.stack(boxes) for key, boxes in by_picture.items()}

    def of(self, picture: Path) -> np.ndarray:
        """(P, 5) float32 x, y, width, height, score in 0..1 of the people in one picture."""
        keys: list[str | int] = [picture.name]
        if str(picture) != picture.name:
            keys.append(str(picture))
        if picture.stem.isdecimal():
            keys.append(int(picture.stem))
        found = [self._boxes[key] for key in keys if key in self._boxes]
        return np.concatenate(found) if found else np.zeros((0, 5), np.float32)

    def _read(self, place: int, entry: Any) -> tuple[str | int, np.ndarray, float]:
        wrong = f"{self.path}: entry {place}"
        if not isinstance(entry, dict):
            raise DataError(f"{wrong}: expected an object, found {short(entry)}")
        key = entry.get("file_name", entry.get("image_id"))
        if not isinstance(key, str | int):
            raise DataError(f"{wrong}: needs a file_name or an image_id")
        box = _float32(entry.get("bbox"))
        if box.shape != (4,) or not np.isfinite(box).all():
            raise DataError(
                f"{wrong}: bbox has to be [x, y, width, height], found {short(entry.get('bbox'))}"
            )
        score = as_float(entry.get("score", 1.0))
        if not np.isfinite(score):
            raise DataError(f"{wrong}: score has to be a number, found {short(entry['score'])}")
        return key, box, score

    def _is_usable(self, place: int, entry: dict[str, Any], box: np.ndarray, score: float) -> bool:
        if not (box[2:] > 0).all():
            kind, value = "box without a width or height", f"bbox {short(entry['bbox'])}"
        elif not 0 <= score <= 1:
            kind, value = "box score outside 0..1", f"score {score:g}"
        else:
            return True
        self.problems.add("skipped", kind, [f"entry {place}: {value}"], str)
        return False


def _float32(values: Any) -> np.ndarray:
    """A list's numbers; NaN for what is none, infinity for what is too large."""
    with np.errstate(over="ignore"):
        return np.array([*map(as_float, values if isinstance(values, list) else [])], np.float32)
