"""Annotations of people in a COCO keypoint file, validated and repaired."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field, replace
from reprlib import repr as short
from typing import Any

import numpy as np

from ppose.data.categories import Wanted, choose_categories
from ppose.data.coco_json import NO_ID, filter_objects, id_column
from ppose.data.coordinates import BEYOND_IMAGE, beyond_image, box_mistake, keypoint_mistake
from ppose.data.image_table import ImageTable
from ppose.data.keypoint_file import AnnotationRows, KeypointFile
from ppose.data.problems import Action, DataError, Problems
from ppose.data.segmentations import SegmentationTable
from ppose.structures.geometry import AREA_OF_BOX
from ppose.structures.skeleton import Skeleton

Entry = dict[str, Any]

_MOST_CHECKED = 10_000  # people, evenly from the file, whose coordinates are compared


@dataclass(frozen=True)
class Annotations:
    """All valid annotations of people, including unlabelled people and crowds, sorted by image.

    Attributes:
        categories: the used entries of `categories`, with the skeleton's joints.
        ids: (A,) int64, unique.
        category_ids: (A,) int64, of `categories`.
        image_index: (A,) int32 index into the usable images, ascending.
        boxes_xywh: (A, 4) float64, finite, as annotated.
        areas: (A,) float64 area of the person's segmentation, in square pixels.
        area_estimated: (A,) bool, whether it was not annotated and is `AREA_OF_BOX` of the box.
        crowd: (A,) bool.
        keypoints: (L, K, 3) float32 x, y, COCO visibility, in the order of the file; annotations
            whose keypoints are all zero are left out.
        keypoint_index: (A,) int32 index into `keypoints`; -1 if all are zero.
        labelled: (A,) int64 number of labelled joints.
        segmentations: of each annotation; None unless requested.
    """

    categories: list[Entry]
    ids: np.ndarray
    category_ids: np.ndarray
    image_index: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    area_estimated: np.ndarray
    crowd: np.ndarray
    keypoints: np.ndarray
    keypoint_index: np.ndarray
    labelled: np.ndarray
    segmentations: SegmentationTable | None = field(default=None, kw_only=True)

    def keypoints_of(self, rows: np.ndarray) -> np.ndarray:
        """(N, K, 3) float32 x, y, COCO visibility of the given annotations."""
        return _keypoints_at(self.keypoints, self.keypoint_index[rows])


def read_people(
    file: KeypointFile, skeleton: Skeleton, problems: Problems, categories: Wanted = None
) -> Annotations:
    """Validates and repairs the annotations of people on usable images.

    Args:
        file: the parsed file; its annotation columns are modified in place.
        skeleton: the joints that the annotations must have.
        problems: receives what was skipped or repaired.
        categories: see `choose_categories`.

    Raises:
        DataError: the annotated joints differ from the skeleton's, or a category does not exist.
    """
    reader = _PeopleReader(file.annotations, file.images, skeleton, problems)
    return reader.read(file.categories, categories)


class _PeopleReader:
    """Validation of annotations: each step drops unusable rows or repairs a column."""

    def __init__(
        self, rows: AnnotationRows, table: ImageTable, skeleton: Skeleton, problems: Problems
    ):
        self._rows = rows
        self._table = table
        self._skeleton = skeleton
        self._problems = problems
        self._fits = rows.joint_counts == len(skeleton)

    def read(self, listed: Any, wanted: Wanted) -> Annotations:
        self._problems.add(
            "skipped", "annotation that is not an object", self._rows.non_objects, short
        )
        entries = filter_objects(listed or [], "category", self._problems)
        fitting = self._rows.category_ids[self._fits]
        categories = choose_categories(entries, fitting, self._skeleton, wanted, self._problems)
        chosen = self._filter_categories(categories, entries)
        chosen = self._filter_images(chosen)
        chosen = self._filter_joints(chosen)
        chosen = self._filter_boxes(chosen)

        image_index = self._table.index_of(self._rows.image_ids[chosen])
        boxes = self._rows.boxes[chosen]
        self._repair_keypoints(chosen, image_index)
        self._check_coordinates(chosen, image_index, boxes)
        areas, estimated = self._repair_areas(chosen, boxes)
        ids, unique = self._repair_ids(chosen, image_index, boxes)

        order = np.flatnonzero(unique)
        order = order[np.argsort(image_index[order], kind="stable")]
        chosen = chosen[order]
        keypoint_index = self._rows.keypoint_index[chosen]
        counts = (self._rows.keypoints[:, :, 2] > 0).sum(1)
        category_ids = self._rows.category_ids[chosen]
        found = Annotations(
            categories,
            ids=ids[order],
            category_ids=np.where(category_ids == NO_ID, categories[0]["id"], category_ids),
            image_index=image_index[order],
            boxes_xywh=boxes[order],
            areas=areas[order],
            area_estimated=estimated[order],
            crowd=self._rows.crowd[chosen],
            keypoints=self._rows.keypoints,
            keypoint_index=keypoint_index,
            labelled=np.append(counts, 0)[keypoint_index],
        )
        return self._add_segmentations(found, chosen)

    def _add_segmentations(self, found: Annotations, rows: np.ndarray) -> Annotations:
        if self._rows.segmentations is None:
            return found
        segmentations = SegmentationTable(
            self._rows.segmentations,
            self._table.records.sizes_wh[found.image_index],
            found.boxes_xywh,
            found.labelled > 0,
            found.crowd,
            rows,
        )
        self._report(
            "repaired", "no usable segmentation, using the box", segmentations.replaced, rows
        )
        return replace(found, segmentations=segmentations)

    def _filter_categories(self, chosen: list[Entry], entries: list[Entry]) -> np.ndarray:
        """Keeps the chosen categories, and annotations without a category if their joints match."""
        ids = self._rows.category_ids
        kept = np.isin(ids, [c["id"] for c in chosen])
        known = id_column([c.get("id") for c in entries])
        adopted = (ids == NO_ID) & self._fits
        other = np.isin(ids, known[known != NO_ID]) & ~kept
        everything = np.arange(len(ids))
        self._report("repaired", "no category_id, but matching joints", adopted, everything)
        kind = "category with other joints, or not one of `categories`"
        self._report("skipped", kind, other, everything, "category_id")
        unknown = ~(kept | other | adopted)
        self._report("skipped", "unknown category", unknown, everything, "category_id")
        return np.flatnonzero(kept | adopted)

    def _filter_images(self, rows: np.ndarray) -> np.ndarray:
        at = self._table.index_of(self._rows.image_ids[rows])
        self._report("skipped", "annotation of an unknown image", at == -2, rows)
        self._report("skipped", "annotation of a skipped image", at == -1, rows)
        return rows[at >= 0]

    def _filter_joints(self, rows: np.ndarray) -> np.ndarray:
        absent, fits = np.isnan(self._rows.joint_counts[rows]), self._fits[rows]
        wrong = ~absent & ~fits
        if wrong.any() and not fits.any():
            raise DataError(self._length_difference(rows[wrong]))
        self._report("repaired", "no keypoints, treated as unlabelled", absent, rows)
        self._report("skipped", "keypoints of the wrong length", wrong, rows, "keypoints")
        return rows[~wrong]

    def _filter_boxes(self, rows: np.ndarray) -> np.ndarray:
        finite = np.isfinite(self._rows.boxes[rows]).all(1)
        self._report("skipped", "box that is not four finite numbers", ~finite, rows, "bbox")
        return rows[finite]

    def _repair_keypoints(self, rows: np.ndarray, image_index: np.ndarray) -> None:
        """Sets visibility to 0, 1 or 2, and to 0 where a number is not finite."""
        at = self._rows.keypoint_index[rows]
        sizes = np.zeros((len(self._rows.keypoints), 2), np.float32)
        sizes[at[at >= 0]] = self._table.records.sizes_wh[image_index[at >= 0]]
        found = np.zeros((3, len(sizes) + 1), bool)  # last: no keypoints
        for joint in range(len(self._skeleton)):  # all at once would double the memory
            found[:, :-1] |= _repair_joint(self._rows.keypoints[:, joint], sizes)
        kinds: list[tuple[Action, str]] = [
            ("repaired", "keypoint that is not finite, treated as unlabelled"),
            ("repaired", "visibility other than 0, 1 or 2, rounded up and clipped"),
            ("kept", "labelled keypoint outside its image"),
        ]
        for (action, kind), people in zip(kinds, found, strict=True):
            self._report(action, kind, people[at], rows)

    def _check_coordinates(
        self, rows: np.ndarray, image_index: np.ndarray, boxes: np.ndarray
    ) -> None:
        """Raises DataError if most boxes or keypoints are in another format than COCO's."""
        at = self._rows.keypoint_index[rows]
        people = np.flatnonzero((at >= 0) & ~self._rows.crowd[rows] & (boxes[:, 2:] > 0).all(1))
        people = people[:: len(people) // _MOST_CHECKED + 1]
        sizes = self._table.records.sizes_wh[image_index[people]]
        joints = self._rows.keypoints[at[people]]
        labelled = joints[..., 2] > 0
        person, _ = np.nonzero(labelled)
        mistake = keypoint_mistake(joints[labelled], sizes[person])
        enough = labelled.sum(1) >= 3
        mistake = mistake or box_mistake(
            boxes[people][enough], sizes[enough], _joint_boxes(joints[enough], labelled[enough])
        )
        if mistake:
            raise DataError(mistake)
        beyond = beyond_image(boxes, self._table.records.sizes_wh[image_index])
        beyond &= ~self._rows.crowd[rows]
        self._report("kept", BEYOND_IMAGE, beyond, rows)
        hidden = np.append((self._rows.keypoints[:, :, 2] <= 0).all(1), False)
        kind = "keypoints that all have visibility 0, so unlabelled"
        self._report("kept", kind, hidden[at], rows)
        zero = (self._rows.keypoints[:, :, :2] == 0).all(2) & (self._rows.keypoints[:, :, 2] > 0)
        several = np.append(zero.sum(1) > 1, False)
        self._report("kept", "several labelled keypoints at 0, 0", several[at], rows)

    def _repair_areas(self, rows: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(A,) areas, and (A,) bool whether they are estimated."""
        areas = self._rows.areas[rows]
        wrong = ~((areas > 0) & np.isfinite(areas))
        kind = f"no area above 0, estimated as {AREA_OF_BOX:g} of the box"
        self._report("repaired", kind, wrong, rows, "area")
        estimates = AREA_OF_BOX * np.maximum(boxes[:, 2:], 0).prod(1)
        return np.where(wrong, estimates, areas), wrong

    def _repair_ids(
        self, rows: np.ndarray, image_index: np.ndarray, boxes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(A,) unique ids, and (A,) bool annotations to keep, which drops duplicates."""
        ids = self._rows.ids[rows]
        _, first, group = np.unique(ids, return_index=True, return_inverse=True)
        earlier = first[group]
        again = (earlier != np.arange(len(ids))) & (ids != NO_ID)
        one, other = np.flatnonzero(again), earlier[again]
        joints, at = self._rows.keypoints, self._rows.keypoint_index[rows]
        duplicate = again.copy()
        duplicate[one] = (
            (image_index[one] == image_index[other])
            & (boxes[one] == boxes[other]).all(1)
            & (_keypoints_at(joints, at[one]) == _keypoints_at(joints, at[other])).all((1, 2))
        )
        replaced = again & ~duplicate | (ids == NO_ID)
        ids[replaced] = ids.max(initial=0) + 1 + np.arange(replaced.sum())
        self._report("skipped", "duplicate annotation", duplicate, rows)
        self._report("repaired", "annotation id missing or already used, replaced", replaced, rows)
        repeated = self._repeated(rows, image_index, boxes) & ~duplicate
        self._report("kept", "same box and keypoints as another annotation", repeated, rows)
        return ids, ~duplicate

    def _repeated(self, rows: np.ndarray, image_index: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """(A,) bool, whether an earlier annotation has the same image, box and keypoints."""
        at = self._rows.keypoint_index[rows]
        seen: set[int] = set()
        repeated = np.zeros(len(rows), bool)
        for i in np.flatnonzero(at >= 0):
            same = image_index[i], *boxes[i], self._rows.keypoints[at[i]].tobytes()
            key = hash(same)
            repeated[i] = key in seen
            seen.add(key)
        return repeated

    def _length_difference(self, rows: np.ndarray) -> str:
        skeleton = self._skeleton
        found = Counter(self._rows.joint_counts[rows].tolist()).most_common(1)[0][0]
        return (
            f"the annotations have {found:g} joints, but skeleton '{skeleton.name}' has "
            f"{len(skeleton)} (keypoints: {short(self._rows.entry(rows[0])['keypoints'])}); use "
            "the skeleton of the annotations"
        )

    def _report(
        self, action: Action, kind: str, found: np.ndarray, rows: np.ndarray, key: str = ""
    ) -> None:
        """Counts the rows marked in `found`; examples show the value of `key`."""

        def describe(row: int) -> str:
            entry = self._rows.entry(row)
            location = self._table.describe(entry)
            return f"{location}: {key} {_format_value(entry.get(key))}" if key else location

        self._problems.add(action, kind, rows[found].tolist(), describe)


def _keypoints_at(keypoints: np.ndarray, index: np.ndarray) -> np.ndarray:
    """(N, K, 3) keypoints at an (N,) index; zeros at -1."""
    found = (
        keypoints[index]
        if len(keypoints)
        else np.zeros((len(index), *keypoints.shape[1:]), np.float32)
    )
    found[index < 0] = 0
    return found


def _joint_boxes(keypoints: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """(N, 4) boxes around the labelled joints of (N, K, 3) keypoints."""
    xy, labelled = keypoints[..., :2].astype(np.float64), labelled[..., None]
    low = np.where(labelled, xy, np.inf).min(1)
    return np.concatenate([low, np.where(labelled, xy, -np.inf).max(1) - low], 1)


def _repair_joint(joint: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """Sets visibility to 0, 1 or 2, and to 0 where a number is not finite.

    Args:
        joint: (L, 3) one joint of all people, modified in place.
        sizes_wh: (L, 2) sizes of their images.

    Returns:
        (3, L) bool: a number was not finite; visibility was another value; the joint is labelled
        and outside its image.
    """
    broken = ~np.isfinite(joint).all(1)
    joint[broken] = 0
    visibility = np.clip(np.ceil(joint[:, 2]), 0, 2)
    odd = visibility != joint[:, 2]
    joint[:, 2] = visibility
    xy = joint[:, :2]
    outside = ((xy < 0) | (xy > sizes_wh)).any(1) & (visibility > 0)
    return np.stack([broken, odd, outside])


def _format_value(value: Any) -> str:
    return short(value.tolist() if isinstance(value, array) else value)
