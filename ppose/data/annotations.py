"""People of a COCO keypoint file, with what is wrong named and put right."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field, replace
from reprlib import repr as short
from typing import Any

import numpy as np

from ppose.data.coco_json import NO_ID, as_id, id_column, objects
from ppose.data.keypoint_file import AnnotationRows, KeypointFile
from ppose.data.outlines import OutlineTable
from ppose.data.pictures import ImageTable
from ppose.data.problems import DataError, Fate, Problems
from ppose.skeleton import Skeleton

Entry = dict[str, Any]


@dataclass(frozen=True)
class Annotations:
    """All well-formed annotations of people: labelled, unlabelled and crowds, image by image.

    Attributes:
        category: the `categories` entry of people, with the skeleton's joints.
        ids: (A,) int64, each once.
        image_index: (A,) int32 index into the usable images, ascending.
        boxes_xywh: (A, 4) float64, finite, as annotated.
        areas: (A,) float64 of the person's outline, in square pixels.
        crowd: (A,) bool.
        keypoints: (L, K, 3) float32 x, y, COCO visibility, of those who are not all zeros, in the
            file's order.
        keypoint_index: (A,) int32 index into `keypoints`; -1 for zeros.
        labelled: (A,) int64 number of labelled joints.
        outlines: of each annotation; None unless they were asked for.
    """

    category: Entry
    ids: np.ndarray
    image_index: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    keypoints: np.ndarray
    keypoint_index: np.ndarray
    labelled: np.ndarray
    outlines: OutlineTable | None = field(default=None, kw_only=True)

    def keypoints_of(self, rows: np.ndarray) -> np.ndarray:
        """(N, K, 3) float32 x, y, COCO visibility of some annotations."""
        return _keypoints_at(self.keypoints, self.keypoint_index[rows])


def read_people(file: KeypointFile, skeleton: Skeleton, problems: Problems) -> Annotations:
    """The annotations of people on usable pictures.

    Args:
        file: what was read; its columns of annotations are used up.
        skeleton: the joints that the annotations have to have.
        problems: gets what was skipped or put right.

    Raises:
        DataError: the joints are not those of the skeleton.
    """
    reader = _PeopleReader(file.annotations, file.images, skeleton, problems)
    return reader.read(file.categories)


class _PeopleReader:
    """Each step drops the rows that it cannot use, or puts a column right."""

    def __init__(
        self, rows: AnnotationRows, table: ImageTable, skeleton: Skeleton, problems: Problems
    ):
        self._rows = rows
        self._table = table
        self._skeleton = skeleton
        self._problems = problems
        self._fits = rows.joint_counts == len(skeleton)

    def read(self, categories: Any) -> Annotations:
        self._problems.add("skipped", "annotation that is no object", self._rows.no_objects, short)
        categories = objects(categories or [], "category", self._problems)
        fitting = self._rows.category_ids[self._fits]
        category = _person_category(categories, fitting, self._skeleton, self._problems)
        chosen = self._of_category(category, categories)
        chosen = self._on_usable_images(chosen)
        chosen = self._with_joints(chosen)
        chosen = self._with_boxes(chosen)

        image_index = self._table.index_of(self._rows.image_ids[chosen])
        boxes = self._rows.boxes[chosen]
        self._put_keypoints_right(chosen, image_index)
        areas = self._areas(chosen, boxes)
        ids, once = self._ids(chosen, image_index, boxes)

        order = np.flatnonzero(once)
        order = order[np.argsort(image_index[order], kind="stable")]
        chosen = chosen[order]
        keypoint_index = self._rows.keypoint_index[chosen]
        counts = (self._rows.keypoints[:, :, 2] > 0).sum(1)
        found = Annotations(
            category,
            ids=ids[order],
            image_index=image_index[order],
            boxes_xywh=boxes[order],
            areas=areas[order],
            crowd=self._rows.crowd[chosen],
            keypoints=self._rows.keypoints,
            keypoint_index=keypoint_index,
            labelled=np.append(counts, 0)[keypoint_index],
        )
        return self._with_outlines(found, chosen)

    def _with_outlines(self, found: Annotations, rows: np.ndarray) -> Annotations:
        if self._rows.segmentations is None:
            return found
        outlines = OutlineTable(
            self._rows.segmentations,
            self._table.records.sizes_wh[found.image_index],
            found.boxes_xywh,
            found.labelled > 0,
            found.crowd,
            rows,
        )
        self._report("repaired", "no usable outline, the box is taken", outlines.replaced, rows)
        return replace(found, outlines=outlines)

    def _of_category(self, category: Entry, categories: list[Entry]) -> np.ndarray:
        """Drops other known categories; what names none is judged by its joints."""
        ids = self._rows.category_ids
        known = [category["id"], *id_column([c.get("id") for c in categories])]
        known = [i for i in known if i != NO_ID]
        adopted = (ids == NO_ID) & self._fits
        unknown = ~np.isin(ids, known) & ~adopted
        everything = np.arange(len(ids))
        self._report("repaired", "no category_id, but fitting joints", adopted, everything)
        self._report("skipped", "unknown category", unknown, everything, "category_id")
        return np.flatnonzero((ids == category["id"]) | adopted)

    def _on_usable_images(self, rows: np.ndarray) -> np.ndarray:
        at = self._table.index_of(self._rows.image_ids[rows])
        self._report("skipped", "annotation of an unknown image", at == -2, rows)
        self._report("skipped", "annotation of a skipped image", at == -1, rows)
        return rows[at >= 0]

    def _with_joints(self, rows: np.ndarray) -> np.ndarray:
        absent, fits = np.isnan(self._rows.joint_counts[rows]), self._fits[rows]
        wrong = ~absent & ~fits
        if wrong.any() and not fits.any():
            raise DataError(self._length_difference(rows[wrong]))
        self._report("repaired", "no keypoints, taken as unlabelled", absent, rows)
        self._report("skipped", "keypoints of the wrong length", wrong, rows, "keypoints")
        return rows[~wrong]

    def _with_boxes(self, rows: np.ndarray) -> np.ndarray:
        finite = np.isfinite(self._rows.boxes[rows]).all(1)
        self._report("skipped", "box that is not four finite numbers", ~finite, rows, "bbox")
        return rows[finite]

    def _put_keypoints_right(self, rows: np.ndarray, image_index: np.ndarray) -> None:
        """Visibility becomes 0, 1 or 2, and 0 where a number is not finite."""
        at = self._rows.keypoint_index[rows]
        sizes = np.zeros((len(self._rows.keypoints), 2), np.float32)
        sizes[at[at >= 0]] = self._table.records.sizes_wh[image_index[at >= 0]]
        found = np.zeros((3, len(sizes) + 1), bool)  # the last one is of those who have none
        for joint in range(len(self._skeleton)):  # all at once would take twice the memory
            found[:, :-1] |= _put_right(self._rows.keypoints[:, joint], sizes)
        kinds: list[tuple[Fate, str]] = [
            ("repaired", "keypoint that is not finite, taken as unlabelled"),
            ("repaired", "visibility other than 0, 1 or 2, rounded up and clipped"),
            ("kept", "labelled keypoint outside its image"),
        ]
        for (fate, kind), people in zip(kinds, found, strict=True):
            self._report(fate, kind, people[at], rows)

    def _areas(self, rows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        areas = self._rows.areas[rows]
        wrong = ~((areas > 0) & np.isfinite(areas))
        self._report("repaired", "area not above 0, taken from the box", wrong, rows, "area")
        return np.where(wrong, np.maximum(boxes[:, 2:], 0).prod(1), areas)

    def _ids(
        self, rows: np.ndarray, image_index: np.ndarray, boxes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(A,) ids, each once, and which annotations to keep: one given twice counts once."""
        ids = self._rows.ids[rows]
        _, first, group = np.unique(ids, return_index=True, return_inverse=True)
        earlier = first[group]
        again = (earlier != np.arange(len(ids))) & (ids != NO_ID)
        one, other = np.flatnonzero(again), earlier[again]
        joints, at = self._rows.keypoints, self._rows.keypoint_index[rows]
        twice = again.copy()
        twice[one] = (
            (image_index[one] == image_index[other])
            & (boxes[one] == boxes[other]).all(1)
            & (_keypoints_at(joints, at[one]) == _keypoints_at(joints, at[other])).all((1, 2))
        )
        replaced = again & ~twice | (ids == NO_ID)
        ids[replaced] = ids.max(initial=0) + 1 + np.arange(replaced.sum())
        self._report("skipped", "annotation that stands in the file twice", twice, rows)
        self._report("repaired", "annotation id missing or taken, replaced", replaced, rows)
        return ids, ~twice

    def _length_difference(self, rows: np.ndarray) -> str:
        skeleton = self._skeleton
        found = Counter(self._rows.joint_counts[rows].tolist()).most_common(1)[0][0]
        return (
            f"the annotations have {found:g} joints, but skeleton '{skeleton.name}' has "
            f"{len(skeleton)} (keypoints: {short(self._rows.entry(rows[0])['keypoints'])}); the "
            "skeleton has to be that of the annotations"
        )

    def _report(
        self, fate: Fate, kind: str, found: np.ndarray, rows: np.ndarray, key: str = ""
    ) -> None:
        """Counts the rows marked in `found`; the examples show the value of `key`."""

        def describe(row: int) -> str:
            entry = self._rows.entry(row)
            where = self._table.where(entry)
            return f"{where}: {key} {_shown(entry.get(key))}" if key else where

        self._problems.add(fate, kind, rows[found].tolist(), describe)


def _keypoints_at(keypoints: np.ndarray, index: np.ndarray) -> np.ndarray:
    """(N, K, 3) those of an (N,) index, zeros at -1."""
    found = (
        keypoints[index]
        if len(keypoints)
        else np.zeros((len(index), *keypoints.shape[1:]), np.float32)
    )
    found[index < 0] = 0
    return found


def _put_right(joint: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """Makes visibility 0, 1 or 2, and 0 where a number is not finite.

    Args:
        joint: (L, 3) one joint of everybody, overwritten.
        sizes_wh: (L, 2) of the pictures.

    Returns:
        (3, L) bool, who had a number that is not finite, who another visibility, and whose
        joint is outside of the picture.
    """
    broken = ~np.isfinite(joint).all(1)
    joint[broken] = 0
    visibility = np.clip(np.ceil(joint[:, 2]), 0, 2)
    odd = visibility != joint[:, 2]
    joint[:, 2] = visibility
    places = joint[:, :2]
    outside = ((places < 0) | (places > sizes_wh)).any(1) & (visibility > 0)
    return np.stack([broken, odd, outside])


def _person_category(
    categories: list[Entry], fitting: np.ndarray, skeleton: Skeleton, problems: Problems
) -> Entry:
    """The category with the skeleton's joints, or the one that most people name.

    Args:
        fitting: category ids of the annotations with as many joints as the skeleton.
    """
    joints = list(skeleton.joint_names)
    named = [c for c in categories if c.get("keypoints")]
    right = [c for c in named if c["keypoints"] == joints]
    if named and not right:
        raise DataError(_joint_difference(named[0], skeleton))
    right = [c for c in right if as_id(c.get("id")) != NO_ID]
    if right:
        category = next((c for c in right if c.get("name") == "person"), right[0])
        others = [c for c in right if c["id"] != category["id"]]
        problems.add("skipped", "further category with the same joints", others, _category_name)
        return category

    by_id = {as_id(c.get("id")): c for c in categories}
    people = (i for i, c in by_id.items() if c.get("name") == "person")
    candidates = [*(i for i, _ in Counter(fitting.tolist()).most_common()), *people, *by_id, 1]
    chosen = next(i for i in candidates if i != NO_ID)
    category = {"name": "person"} | by_id.get(chosen, {}) | {"id": chosen, "keypoints": joints}
    problems.add(
        "repaired",
        "no category names its joints; the skeleton's are taken",
        [category],
        lambda c: f"{_category_name(c)}, skeleton '{skeleton.name}'",
    )
    return category


def _joint_difference(category: Entry, skeleton: Skeleton) -> str:
    annotated, wanted = category["keypoints"], skeleton.joint_names
    head = _category_name(category)
    if not (isinstance(annotated, list) and all(isinstance(name, str) for name in annotated)):
        return f"{head}: keypoints have to be the names of joints, found {short(annotated)}"
    extra = [name for name in annotated if name not in wanted]
    absent = [name for name in wanted if name not in annotated]
    pairs = zip(annotated, wanted, strict=False)
    moved = [f"{i}: '{a}', not '{b}'" for i, (a, b) in enumerate(pairs) if a != b]
    return "; ".join(
        [f"{head} has {len(annotated)} joints, skeleton '{skeleton.name}' has {len(wanted)}"]
        + ([f"only annotated: {', '.join(extra)}"] if extra else [])
        + ([f"only in the skeleton: {', '.join(absent)}"] if absent else [])
        + ([f"another order at {', '.join(moved[:3])}"] if not extra and not absent else [])
        + ["the skeleton has to name the annotated joints in their order"]
    )


def _category_name(category: Entry) -> str:
    return f"category {short(category.get('id'))} ({short(category.get('name'))})"


def _shown(value: Any) -> str:
    return short(value.tolist() if isinstance(value, array) else value)
