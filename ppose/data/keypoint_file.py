"""Parsing COCO keypoint files into columns, without validating the values."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ppose.data.coco_json import JsonStream, as_float, as_id, box_column, open_json
from ppose.data.image_table import Id, ImageEntry, ImageTable, read_image_table
from ppose.data.problems import DataError, Problems
from ppose.data.segmentations import Segmentations

Entry = dict[str, Any]

_KEYPOINT_FILE = "expected a keypoint file such as person_keypoints_val2017.json"


class PersonEntry(msgspec.Struct, gc=False):
    """Schema of a valid entry of `annotations`."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    keypoints: list[float]
    area: int | float | None = None
    iscrowd: int = 0


class SegmentedPersonEntry(PersonEntry, gc=False):
    """Schema of a valid entry of `annotations` with polygons."""

    segmentation: list[list[float]] | None = None


class AnnotationRows:
    """The objects under `annotations`, one row each, in the order of the file.

    Args:
        entries: `PersonEntry`, `SegmentedPersonEntry`, or any other content of the list.
        joints: K, the number of joints of the skeleton.
        segmentations: keep `segmentation`.

    Attributes:
        ids, image_ids, category_ids: (R,) int64; `NO_ID` for values that are not integers.
        boxes: (R, 4) float64; NaN for values that are not numbers, or not four.
        areas: (R,) float64; NaN for values that are not numbers.
        crowd: (R,) bool.
        joint_counts: (R,) float64, a third of the length of `keypoints`: 0 if it is not a list,
            NaN if it is missing.
        keypoints: (L, K, 3) float32, of the rows with K joints that are not all zero.
        keypoint_index: (R,) int32 index into `keypoints`; -1 for other rows.
        segmentations: None unless requested.
        non_objects: entries that are not objects, and have no row.
        has_keypoints, has_captions: whether any entry has such a key.
    """

    def __init__(self, entries: Iterable[Any], joints: int, segmentations: bool):
        self._joints = joints
        self._ids, self._image_ids, self._category_ids = array("q"), array("q"), array("q")
        self._boxes, self._areas, self._joint_counts = array("d"), array("d"), array("d")
        self._crowd = array("b")
        self._keypoints, self._keypoint_index = array("f"), array("i")
        # Entries that the columns do not store exactly; messages show their values.
        self._irregular: dict[int, Entry] = {}
        self.segmentations = Segmentations() if segmentations else None
        self.non_objects: list[Any] = []
        self.has_keypoints = self.has_captions = False
        for entry in entries:
            if isinstance(entry, PersonEntry):
                self._add_valid(entry)
            elif isinstance(entry, dict):
                self._add_irregular(entry)
            else:
                self.non_objects.append(entry)
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
        """Whether the list is non-empty, including entries that are not objects."""
        return bool(len(self) or self.non_objects)

    def entry(self, row: int) -> Entry:
        """The entry of a row, as far as messages need it."""
        valid = {
            "id": self._ids[row],
            "image_id": self._image_ids[row],
            "category_id": self._category_ids[row],
        }
        return self._irregular.get(row, valid)

    def _add_valid(self, entry: PersonEntry) -> None:
        area = as_float(entry.area)
        fits = len(entry.keypoints) == 3 * self._joints
        if not (fits and 0 < area < inf):
            self._irregular[len(self)] = {
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
        if isinstance(entry, SegmentedPersonEntry) and self.segmentations is not None:
            self.segmentations.add(entry.segmentation)

    def _add_irregular(self, entry: Entry) -> None:
        keypoints = entry.get("keypoints")
        count = float("nan") if keypoints is None else 0.0
        if isinstance(keypoints, array):
            count = len(keypoints) / 3
        self.has_keypoints |= "keypoints" in entry
        self.has_captions |= "caption" in entry
        self._irregular[len(self)] = entry
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
        images: the usable images.
        annotations: empty for files of COCO's test sets.
        categories: content of `categories`, not validated.
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
    segmentations: bool = False,
) -> KeypointFile:
    """Parses a file as a stream; peak memory is little more than the columns.

    Args:
        path: the file.
        image_dir: folder of its images.
        joints: number of joints of the skeleton.
        problems: receives problems of images.
        annotated: whether the file must have annotations.
        segmentations: keep `segmentation`.

    Raises:
        DataError: see `read_json` and `read_image_table`; or the file is of another kind, which
            the message names.
    """

    def read_part(key: str, stream: JsonStream) -> Any:
        is_list = stream.peek() == "["
        if key == "images" and is_list:
            image = msgspec.json.Decoder(ImageEntry)
            return read_image_table(stream.elements(image.decode), image_dir, problems)
        if key == "annotations" and is_list:
            person = msgspec.json.Decoder(SegmentedPersonEntry if segmentations else PersonEntry)
            return AnnotationRows(stream.elements(person.decode), joints, segmentations)
        value = stream.value()
        return value if key in ("annotations", "categories") else None

    with open_json(path, "anno_path", segmentations) as stream:
        start = stream.peek()
        if start == "[":
            raise DataError(_list_error(path, stream))
        parts: dict[str, Any] = {}
        if start == "{":
            for key in stream.members():
                parts[key] = read_part(key, stream)
        else:
            stream.value()
        stream.finish()
    _check(path, parts.get("images"), parts.get("annotations"), annotated)
    annotations = parts.get("annotations")
    if annotations is None:
        annotations = AnnotationRows([], joints, segmentations)
    return KeypointFile(parts["images"], annotations, parts.get("categories"))


def _check(path: Path, images: Any, annotations: Any, annotated: bool) -> None:
    """Raises DataError if the file is not a keypoint file, and says what it is instead."""
    if not isinstance(images, ImageTable):
        raise DataError(f"anno_path: {path} has no list of images; {_KEYPOINT_FILE}")
    if annotations is None and annotated:
        raise DataError(
            f"anno_path: {path} has no annotations, like the files of COCO's test sets; "
            f"{_KEYPOINT_FILE}, or give a bbox_file"
        )
    if annotations is not None and not isinstance(annotations, AnnotationRows):
        raise DataError(f"anno_path: annotations in {path} are not a list; {_KEYPOINT_FILE}")
    if annotations is not None and annotations.has_entries and not annotations.has_keypoints:
        captions = annotations.has_captions
        kind = "captions" if captions else "boxes and segmentations, as in instances_*.json,"
        raise DataError(f"anno_path: {path} has {kind} but no keypoints; {_KEYPOINT_FILE}")


def _list_error(path: Path, stream: JsonStream) -> str:
    first: Any = None
    for index, entry in enumerate(stream.elements()):
        first = first if index else entry
    stream.finish()
    is_results = isinstance(first, dict) and "score" in first and "image_id" in first
    hint = "; pass detection results as bbox_file" if is_results else ""
    return f"anno_path: {path} is a list; {_KEYPOINT_FILE}{hint}"
