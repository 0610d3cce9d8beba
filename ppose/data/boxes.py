"""Person boxes from JSON files: results of a detector, annotations, or `poses.json`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from ppose.data.coco_json import as_float, as_id, float_column, read_json
from ppose.data.problems import DataError, Problems

PERSON = 1  # category of people in COCO

_KINDS = (
    "a list of {image_id or file_name, bbox, score}, COCO annotations, or poses.json of ppose infer"
)


class BoxFile:
    """Person boxes by image, from one of the files that `read_box_entries` takes.

    `bbox` is [x, y, width, height]. COCO's results format fits: an `image_id` refers to the image
    whose file name is that number, as in 000000000139.jpg. A `file_name` with folders refers to
    images whose path ends so. Entries of other categories are counted and ignored.

    Args:
        path: JSON file.
        min_score: boxes with a lower score are left out.
        category_id: category of people; entries without a category are people. Of annotations
            those with keypoints, or of the category "person", are people.

    Attributes:
        path: the file.
        problems: boxes that were skipped because they are invalid or not of people.

    Raises:
        DataError: the file does not exist, is not JSON, or has a malformed entry, which is named.
    """

    def __init__(self, path: str | Path, min_score: float = 0.0, category_id: int = PERSON):
        self.path = Path(path)
        self.problems = Problems()
        entries, people = read_box_entries(self.path)
        people = people or {category_id}
        by_image: dict[str | int, list[np.ndarray]] = defaultdict(list)
        for index, entry in enumerate(entries):
            key, box, score = self._read(index, entry)
            category = entry.get("category_id", category_id)
            if not (isinstance(category, int | float) and category in people):
                kind = "box of another category than people"
                self.problems.add("skipped", kind, [f"entry {index}: {short(category)}"], str)
            elif self._is_usable(index, entry, box, score) and score >= min_score:
                by_image[key].append(np.append(box, np.float32(score)))
        self._boxes = {key: np.stack(boxes) for key, boxes in by_image.items()}

    def of(self, image: Path) -> np.ndarray:
        """(P, 5) float32 x, y, width, height, score in 0..1 of the people in one image."""
        keys: list[str | int] = [*path_ends(image)]
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


def read_box_entries(path: Path) -> tuple[list[Any], set[int]]:
    """The boxes of a file, each as {file_name or image_id, category_id, bbox, score}.

    Args:
        path: a list of such entries, as `ppose detect` and other detectors write it; a COCO
            annotation file, whose crowds are left out; or the `poses.json` of `ppose infer`, whose
            people's scores become those of the boxes.

    Returns:
        the entries, which are not validated, and the categories of people, if the file tells.

    Raises:
        DataError: the file cannot be read, or is of another kind.
    """
    data = read_json(path, "bbox_file")
    people: set[int] = set()
    if isinstance(data, list):
        entries = data
    elif isinstance(data, dict) and isinstance(data.get("annotations"), list):
        entries = _annotated(data)
        people = _people_categories(data.get("categories"))
    elif isinstance(data, dict) and isinstance(data.get("images"), list):
        entries = _posed(path, data["images"])
    else:
        raise DataError(f"bbox_file: {path} has no boxes; expected {_KINDS}")
    objects = [entry for entry in entries if isinstance(entry, dict)]
    if objects and not any("bbox" in entry for entry in objects) and "keypoints" in objects[0]:
        raise DataError(
            f"bbox_file: {path} has keypoints but no bbox, as files of pose results; expected "
            f"{_KINDS}"
        )
    scores = float_column([entry.get("score") for entry in objects])
    above = np.flatnonzero(scores > 1)
    if 2 * len(above) > len(objects):
        raise DataError(
            f"bbox_file: {len(above)} of {len(objects)} scores in {path} are above 1, such as "
            f"{scores[above[0]]:g}; scores are from 0 to 1: are these percent?"
        )
    return entries, people


def path_ends(path: Path) -> list[str]:
    """The names by which a file may be meant: its own, and with its folders, up to the root."""
    parts = path.absolute().parts
    ends = ["/".join(parts[i:]) for i in range(len(parts) - 1, 0, -1)]
    return [*ends, *{str(path), str(path.absolute())}.difference(ends)]


def _annotated(data: dict[str, Any]) -> list[Any]:
    images = data.get("images")
    names = {
        as_id(image.get("id")): image["file_name"]
        for image in (images if isinstance(images, list) else [])
        if isinstance(image, dict) and isinstance(image.get("file_name"), str)
    }
    return [
        _named(entry, names.get(as_id(entry.get("image_id")))) if isinstance(entry, dict) else entry
        for entry in data["annotations"]
        if not (isinstance(entry, dict) and as_float(entry.get("iscrowd", 0)) > 0)
    ]


def _named(annotation: dict[str, Any], name: str | None) -> dict[str, Any]:
    kept = {k: annotation[k] for k in ("image_id", "category_id", "bbox") if k in annotation}
    return kept | {"score": 1.0} | ({} if name is None else {"file_name": name})


def _people_categories(categories: Any) -> set[int]:
    listed = [c for c in categories if isinstance(c, dict)] if isinstance(categories, list) else []
    with_joints = [c for c in listed if c.get("keypoints")]
    people = with_joints or [c for c in listed if c.get("name") == "person"]
    return {as_id(category.get("id")) for category in people}


def _posed(path: Path, images: list[Any]) -> list[Any]:
    entries = []
    for index, image in enumerate(images):
        people = image.get("people") if isinstance(image, dict) else None
        if not isinstance(people, list):
            raise DataError(f"bbox_file: {path} has no boxes of image {index}; expected {_KINDS}")
        about = {"file_name": image.get("image"), "image_id": image.get("image_id")}
        about = {key: value for key, value in about.items() if value is not None}
        for person in people:
            known = person if isinstance(person, dict) else {}
            entries.append(about | {"bbox": known.get("box_xywh"), "score": known.get("score")})
    return entries


def _float32(values: Any) -> np.ndarray:
    """The numbers of a list; NaN for other values, infinity for numbers that are too large."""
    with np.errstate(over="ignore"):
        return np.array([*map(as_float, values if isinstance(values, list) else [])], np.float32)
