"""Boxes of people from a JSON file, for pictures that belong to no data set."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from ppose.errors import PposeError


class BoxFile:
    """A list of {"file_name" or "image_id", "bbox": [x, y, w, h], "score"} by picture.

    COCO's results format is one case: an `image_id` stands for the picture whose name is that
    number, as in 000000000139.jpg. Entries of another category than `category_id` are left out.

    Args:
        path: JSON file.
        min_score: boxes with a lower score are left out.
        category_id: of people; entries without one are people.

    Raises:
        FileNotFoundError: no such file.
        PposeError: not JSON or not of that form; names the entry.
    """

    def __init__(self, path: str | Path, min_score: float = 0.0, category_id: int = 1):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no box file {self.path.resolve()}")
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise PposeError(f"{path}: not JSON: {error}") from None
        if not isinstance(entries, list):
            raise PposeError(f"{path}: expected a list of boxes, found a {type(entries).__name__}")
        by_picture: dict[str | int, list[list[float]]] = defaultdict(list)
        for place, entry in enumerate(entries):
            key, box, score = self._read(place, entry)
            if score >= min_score and entry.get("category_id", category_id) == category_id:
                by_picture[key].append([*box, score])
        self._boxes = {k: np.array(v, np.float32) for k, v in by_picture.items()}

    def of(self, picture: Path) -> np.ndarray:
        """(P, 5) x, y, width, height, score of the people in one picture."""
        keys: list[str | int] = [picture.name, str(picture)]
        if picture.stem.isdigit():
            keys.append(int(picture.stem))
        found = [self._boxes[key] for key in keys if key in self._boxes]
        return np.concatenate(found) if found else np.zeros((0, 5), np.float32)

    def _read(self, place: int, entry: object) -> tuple[str | int, list[float], float]:
        wrong = f"{self.path}: entry {place}"
        if not isinstance(entry, dict):
            raise PposeError(f"{wrong}: expected an object, found {entry!r}")
        key = entry.get("file_name", entry.get("image_id"))
        if not isinstance(key, str | int):
            raise PposeError(f"{wrong}: needs a file_name or an image_id")
        box, score = entry.get("bbox"), entry.get("score", 1.0)
        if not (
            isinstance(box, list) and len(box) == 4 and np.isfinite([*map(_number, box)]).all()
        ):
            raise PposeError(f"{wrong}: bbox has to be [x, y, width, height], found {box!r}")
        if not np.isfinite(_number(score)):
            raise PposeError(f"{wrong}: score has to be a number, found {score!r}")
        return key, box, score


def _number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return float("nan")
