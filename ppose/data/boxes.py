"""Person boxes from a JSON file, for images outside a dataset."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from ppose.data.coco_json import as_float, read_json
from ppose.data.problems import DataError, Problems


class BoxFile:
    """Person boxes by image, from a list of {"file_name" or "image_id", "bbox", "score"}.

    `bbox` is [x, y, width, height]. COCO's results format fits: an `image_id` refers to the image
    whose file name is that number, as in 000000000139.jpg. Entries of other categories are ignored.

    Args:
        path: JSON file.
        min_score: boxes with a lower score are left out.
        category_id: category of people; entries without a category are people.

    Attributes:
        path: the file.
        problems: person boxes that were skipped because they are invalid.

    Raises:
        DataError: the file does not exist, is not JSON, or has a malformed entry, which is named.
    """

    def __init__(self, path: str | Path, min_score: float = 0.0, category_id: int = 1):
        self.path = Path(path)
        self.problems = Problems()
        entries = read_json(self.path, "bbox_file")
        if not isinstance(entries, list):
            raise DataError(f"{path}: expected a list of boxes, found {type(entries).__name__}")
        by_image: dict[str | int, list[np.ndarray]] = defaultdict(list)
        for index, entry in enumerate(entries):
            key, box, score = self._read(index, entry)
            is_person = entry.get("category_id", category_id) == category_id
            if is_person and self._is_usable(index, entry, box, score) and score >= min_score:
                by_image[key].append(np.append(box, np.float32(score)))
        self._boxes = {key: np.stack(boxes) for key, boxes in by_image.items()}

    def of(self, image: Path) -> np.ndarray:
        """(P, 5) float32 x, y, width, height, score in 0..1 of the people in one image."""
        keys: list[str | int] = [image.name]
        if str(image) != image.name:
            keys.append(str(image))
        if image.stem.isdecimal():
            keys.append(int(image.stem))
        found = [self._boxes[key] for key in keys if key in self._boxes]
        return np.concatenate(found) if found else np.zeros((0, 5), np.float32)

    def _read(self, index: int, entry: Any) -> tuple[str | int, np.ndarray, float]:
        wrong = f"{self.path}: entry {index}"
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

    def _is_usable(self, index: int, entry: dict[str, Any], box: np.ndarray, score: float) -> bool:
        if not (box[2:] > 0).all():
            kind, value = "box without a width or height", f"bbox {short(entry['bbox'])}"
        elif not 0 <= score <= 1:
            kind, value = "box score outside 0..1", f"score {score:g}"
        else:
            return True
        self.problems.add("skipped", kind, [f"entry {index}: {value}"], str)
        return False


def _float32(values: Any) -> np.ndarray:
    """The numbers of a list; NaN for other values, infinity for numbers that are too large."""
    with np.errstate(over="ignore"):
        return np.array([*map(as_float, values if isinstance(values, list) else [])], np.float32)
