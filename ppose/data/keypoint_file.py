"""COCO keypoint files as columns: what stands in them, not yet judged."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ppose.data.coco_json import Id, as_id, box_column, opened_json
from ppose.data.json_file import as_float
from ppose.data.json_text import JsonText
from ppose.data.outlines import Segmentations
from ppose.data.pictures import ImageTable, PlainImage, read_images
from ppose.data.problems import DataError, Problems

Entry = dict[str, Any]

_KEYPOINT_FILE = "expected a keypoint file such as person_keypoints_val2017.json"


class PlainPerson(msgspec.Struct, gc=False):
    """An entry of `annotations` as it should be."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    keypoints: list[float]
    area: int | float | None = None
    iscrowd: int = 0


class OutlinedPerson(PlainPerson, gc=False):
    segmentation: list[list[float]] | None = None


class AnnotationRows:
    """The objects under `annotations`, one row each, in the file's order.

    Args:
        entries: `PlainPerson`, `OutlinedPerson`, or whatever else stands in the list.
        joints: K, of the skeleton.
        outlines: keep `segmentation`.

    Attributes:
        ids, image_ids, category_ids: (R,) int64; `NO_ID` for what is not a whole number.
        boxes: (R, 4) float64; NaN for what is not a number or not four.
        areas: (R,) float64, NaN for what is not a number.
        crowd: (R,) bool.
        joint_counts: (R,) float64, a third of the length of `keypoints`: 0 if they are no list,
            NaN if there are none.
        keypoints: (L, K, 3) float32, of the rows that have K joints which are not all zeros.
        keypoint_index: (R,) int32 index into `keypoints`; -1 where there are none.
        segmentations: None unless asked for.
        no_objects: entries that are none, and have no row.
        has_keypoints, has_captions: whether any entry has such a key.
    """

    def __init__(self, entries: Iterable[Any], joints: int, outlines: bool):
        self._joints = joints
        self._ids, self._image_ids, self._category_ids = array("q"), array("q"), array("q")
        self._boxes, self._areas, self._joint_counts = array("d"), array("d"), array("d")
        self._crowd = array("b")
        self._keypoints, self._keypoint_index = array("f"), array("i")
        # Entries that the columns do not hold as they are; messages show their values.
        self._odd: dict[int, Entry] = {}
        self.segmentations = Segmentations() if outlines else None
        self.no_objects: list[Any] = []
        self.has_keypoints = self.has_captions = False
        for entry in entries:
            if isinstance(entry, PlainPerson):
                self._add_plain(entry)
            elif isinstance(entry, dict):
                self._add(entry)
            else:
                self.no_objects.append(entry)
        self.ids = np.frombuffer(self._ids, np.int64)
        self.image_ids = np.frombuffer(self._image_ids, np.int64)
        self.category_ids = np.frombuffer(self._category_ids, np.int64)
        self.boxes = np.frombuffer(self._boxes).reshape(-1, 4)
        self.areas = np.frombuffer(self._areas)
        self.joint_counts = np.frombuffer(self._joint_counts)
        self.crowd = np.frombuffer(self._crowd, bool)
        self.keypoints = np.frombuffer(self._keypoints, np.float32).reshape(-1, joints, 3)
        self.keypoint_index = np.frombuffer(self._keypoint_index, np.int32)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def has_entries(self) -> bool:
        """Whether the list has any, objects or not."""
        return bool(len(self) or self.no_objects)

    def entry(self, row: int) -> Entry:
        """What stands in the file, as far as messages show it."""
        plain = {
            "id": self._ids[row],
            "image_id": self._image_ids[row],
            "category_id": self._category_ids[row],
        }
        return self._odd.get(row, plain)

    def _add_plain(self, entry: PlainPerson) -> None:
        area = as_float(entry.area)
        fits = len(entry.keypoints) == 3 * self._joints
        if not (fits and 0 < area < inf):
            self._odd[len(self)] = {
                "id": entry.id,
                "image_id": entry.image_id,
                "category_id": entry.category_id,
                "area": entry.area,
                "keypoints": None if fits else array("f", entry.keypoints),
            }
        self.has_keypoints = True
        self._ids.append(entry.id)
        self._image_ids.append(entry.image_id)
        self._category_ids.append(entry.category_id)
        self._boxes.extend(entry.bbox)
        self._areas.append(area)
        self._crowd.append(entry.iscrowd > 0)
        self._joint_counts.append(len(entry.keypoints) / 3)
        self._add_keypoints(entry.keypoints if fits else [])
        if isinstance(entry, OutlinedPerson) and self.segmentations is not None:
            self.segmentations.add(entry.segmentation)

    def _add(self, entry: Entry) -> None:
        keypoints = entry.get("keypoints")
        count = float("nan") if keypoints is None else 0.0
        if isinstance(keypoints, array):
            count = len(keypoints) / 3
        self.has_keypoints |= "keypoints" in entry
        self.has_captions |= "caption" in entry
        self._odd[len(self)] = entry
        self._ids.append(as_id(entry.get("id")))
        self._image_ids.append(as_id(entry.get("image_id")))
        self._category_ids.append(as_id(entry.get("category_id")))
        self._boxes.extend(box_column([entry.get("bbox")])[0])
        self._areas.append(as_float(entry.get("area")))
        self._crowd.append(as_float(entry.get("iscrowd", 0)) > 0)
        self._joint_counts.append(count)
        self._add_keypoints(keypoints if count == self._joints else [])
        if self.segmentations is not None:
            self.segmentations.add(entry.pop("segmentation", None))

    def _add_keypoints(self, keypoints: Any) -> None:
        if not any(keypoints):
            self._keypoint_index.append(-1)
            return
        self._keypoint_index.append(len(self._keypoints) // (3 * self._joints))
        self._keypoints.extend(keypoints)


@dataclass
class KeypointFile:
    """The parts of a keypoint file.

    Attributes:
        images: the usable ones.
        annotations: none in files of COCO's test sets.
        categories: whatever stands there.
    """

    images: ImageTable
    annotations: AnnotationRows
    categories: Any


def read_keypoint_file(
    path: Path,
    image_dir: Path,
    joints: int,
    problems: Problems,
    annotated: bool = True,
    outlines: bool = False,
) -> KeypointFile:
    """Reads a file in pieces; not much more is held than the columns take.

    Args:
        path: the file.
        image_dir: folder of its pictures.
        joints: of the skeleton.
        problems: gets what is wrong with pictures.
        annotated: whether it has to have annotations.
        outlines: keep `segmentation`.

    Raises:
        DataError: see `read_json` and `read_images`, or what it is instead of a keypoint file.
    """

    def part(key: str, text: JsonText) -> Any:
        is_list = text.peek() == "["
        if key == "images" and is_list:
            plain = msgspec.json.Decoder(PlainImage)
            return read_images(text.elements(plain), image_dir, problems)
        if key == "annotations" and is_list:
            person = msgspec.json.Decoder(OutlinedPerson if outlines else PlainPerson)
            return AnnotationRows(text.elements(person), joints, outlines)
        value = text.value()
        return value if key in ("annotations", "categories") else None

    with opened_json(path, "anno_path", outlines) as text:
        start = text.peek()
        if start == "[":
            raise DataError(_list_error(path, text))
        parts: dict[str, Any] = {}
        if start == "{":
            for key in text.members():
                parts[key] = part(key, text)
        else:
            text.value()
        text.finish()
    _check(path, parts.get("images"), parts.get("annotations"), annotated)
    annotations = parts.get("annotations")
    if annotations is None:
        annotations = AnnotationRows([], joints, outlines)
    return KeypointFile(parts["images"], annotations, parts.get("categories"))


def _check(path: Path, images: Any, annotations: Any, annotated: bool) -> None:
    """DataError that says what the file is if it is no keypoint file."""
    if not isinstance(images, ImageTable):
        raise DataError(f"anno_path: {path} has no list of images; {_KEYPOINT_FILE}")
    if annotations is None and annotated:
        raise DataError(
            f"anno_path: {path} has no annotations, as files of COCO's test sets; "
            f"{_KEYPOINT_FILE}, or give a bbox_file"
        )
    if annotations is not None and not isinstance(annotations, AnnotationRows):
        raise DataError(f"anno_path: annotations in {path} are no list; {_KEYPOINT_FILE}")
    if annotations is not None and annotations.has_entries and not annotations.has_keypoints:
        captions = annotations.has_captions
        kind = "captions" if captions else "boxes and outlines as in instances_*.json"
        raise DataError(f"anno_path: {path} has no keypoints but {kind}; {_KEYPOINT_FILE}")


def _list_error(path: Path, text: JsonText) -> str:
    first: Any = None
    for place, entry in enumerate(text.elements()):
        first = first if place else entry
    text.finish()
    is_results = isinstance(first, dict) and "score" in first and "image_id" in first
    hint = "; a detector's results belong into bbox_file" if is_results else ""
    return f"anno_path: {path} is a list; {_KEYPOINT_FILE}{hint}"
