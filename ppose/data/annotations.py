"""Pictures and people of a COCO keypoint file, with what is wrong named and put right."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from ppose.data.coco_json import NO_ID, as_id, box_column, float_column, id_column, objects
from ppose.data.images import ImageError, nearest_path, read_image
from ppose.data.outlines import OutlineTable
from ppose.data.problems import DataError, Fate, Problems
from ppose.skeleton import Skeleton

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One usable picture of a data set: id, file, and width and height in pixels."""

    image_id: int
    path: Path
    size_wh: tuple[int, int]


@dataclass(frozen=True)
class ImageTable:
    """The pictures of an annotation file.

    Attributes:
        records: the usable ones, in the file's order.
        position: image id → index into `records`, or -1 for a picture that was skipped.
    """

    records: list[ImageRecord]
    position: dict[int, int]

    def index_of(self, image_ids: list[Any]) -> np.ndarray:
        """(N,) int32 indices into `records`; -1 for skipped pictures, -2 for unknown ones."""
        found = [self.position.get(i, -2) for i in id_column(image_ids).tolist()]
        return np.array(found, np.int32)

    def where(self, entry: Entry) -> str:
        """Names the file, image and annotation of an entry with an `image_id`."""
        image_id = entry.get("image_id")
        at = self.position.get(as_id(image_id), -1)
        file = f"{self.records[at].path.name}, " if at >= 0 else ""
        own = f", annotation {short(entry['id'])}" if "id" in entry else ""
        return f"{file}image {short(image_id)}{own}"


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
        keypoints: (A, K, 3) float32 x, y, COCO visibility.
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
    labelled: np.ndarray
    outlines: OutlineTable | None = field(default=None, kw_only=True)


def read_images(data: Entry, image_dir: Path, problems: Problems) -> ImageTable:
    """The pictures whose files are there; folders are listed once, pictures are not opened.

    Raises:
        DataError: there is no such folder.
    """
    if not image_dir.is_dir():
        raise DataError(f"image_dir: there is no folder {image_dir}: {nearest_path(image_dir)}")
    folder = _Folder(image_dir)
    entries = objects(data["images"], "image", problems)
    table = ImageTable([], {})

    def skip(kind: str, entry: Entry) -> None:
        problems.add("skipped", kind, [entry], _image_name)

    for image_id, entry in zip(id_column([e.get("id") for e in entries]), entries, strict=True):
        image_id = int(image_id)
        if image_id == NO_ID:
            skip("image without a whole number as id", entry)
        elif table.position.get(image_id, -1) >= 0:
            skip("image id used twice", entry)
        elif fault := folder.fault(entry.get("file_name")):
            table.position[image_id] = -1
            skip(fault, entry)
        else:
            path = image_dir / entry["file_name"]
            size_wh = _size_wh(entry, path, problems)
            table.position[image_id] = len(table.records) if size_wh else -1
            if size_wh:
                table.records.append(ImageRecord(image_id, path, size_wh))
    return table


def read_people(
    data: Entry,
    table: ImageTable,
    skeleton: Skeleton,
    problems: Problems,
    outlines: bool = False,
) -> Annotations:
    """The annotations of people on usable pictures.

    Args:
        data: with lists `annotations` and `categories`, or without.
        table: the pictures.
        skeleton: the joints that the annotations have to have.
        problems: gets what was skipped or put right.
        outlines: keep them; `data` has to hold `segmentation` then.

    Raises:
        DataError: the joints are not those of the skeleton.
    """
    return _PeopleReader(table, skeleton, problems).read(data, outlines)


class _PeopleReader:
    """Each step drops the entries that it cannot use, or puts a column right."""

    def __init__(self, table: ImageTable, skeleton: Skeleton, problems: Problems):
        self._table = table
        self._skeleton = skeleton
        self._problems = problems

    def read(self, data: Entry, outlines: bool) -> Annotations:
        entries = objects(data.get("annotations") or [], "annotation", self._problems)
        categories = objects(data.get("categories") or [], "category", self._problems)
        category = _person_category(categories, entries, self._skeleton, self._problems)
        entries = self._of_category(entries, category, categories)
        entries = self._on_usable_images(entries)
        entries = self._with_joints(entries)
        entries = self._with_boxes(entries)

        image_index = self._table.index_of([e["image_id"] for e in entries])
        boxes = box_column([e["bbox"] for e in entries])
        keypoints = self._keypoints(entries, image_index)
        areas = self._areas(entries, boxes)
        ids, once = self._ids(entries, (image_index, boxes, keypoints))
        crowd = float_column([e.get("iscrowd", 0) for e in entries]) > 0
        labelled = (keypoints[:, :, 2] > 0).sum(1)

        order = np.flatnonzero(once)
        order = order[np.argsort(image_index[order], kind="stable")]
        columns = (ids, image_index, boxes, areas, crowd, keypoints, labelled)
        found = Annotations(category, *(column[order] for column in columns))
        if not outlines:
            return found
        return replace(found, outlines=self._outlines([entries[i] for i in order], found))

    def _outlines(self, entries: list[Entry], found: Annotations) -> OutlineTable:
        sizes = np.array([r.size_wh for r in self._table.records]).reshape(-1, 2)
        outlines = OutlineTable(
            [entry.get("segmentation") for entry in entries],
            sizes[found.image_index],
            found.boxes_xywh,
            found.labelled > 0,
            found.crowd,
        )
        self._report("repaired", "no usable outline, the box is taken", outlines.replaced, entries)
        return outlines

    def _of_category(
        self, entries: list[Entry], category: Entry, categories: list[Entry]
    ) -> list[Entry]:
        """Drops other known categories; what names none is judged by its joints."""
        ids = id_column([e.get("category_id") for e in entries])
        known = [category["id"], *id_column([c.get("id") for c in categories])]
        known = [i for i in known if i != NO_ID]
        adopted = ids == NO_ID
        adopted[adopted] = [self._fits(entries[i]) for i in np.flatnonzero(adopted)]
        unknown = ~np.isin(ids, known) & ~adopted
        self._report("repaired", "no category_id, but fitting joints", adopted, entries)
        self._report("skipped", "unknown category", unknown, entries, "category_id")
        return _chosen(entries, (ids == category["id"]) | adopted)

    def _on_usable_images(self, entries: list[Entry]) -> list[Entry]:
        at = self._table.index_of([e.get("image_id") for e in entries])
        self._report("skipped", "annotation of an unknown image", at == -2, entries)
        self._report("skipped", "annotation of a skipped image", at == -1, entries)
        return _chosen(entries, at >= 0)

    def _with_joints(self, entries: list[Entry]) -> list[Entry]:
        absent = np.array([e.get("keypoints") is None for e in entries], bool)
        fits = np.array([self._fits(e) for e in entries], bool)
        wrong = ~absent & ~fits
        if wrong.any() and not fits.any():
            raise DataError(_length_difference(_chosen(entries, wrong), self._skeleton))
        self._report("repaired", "no keypoints, taken as unlabelled", absent, entries)
        for entry in _chosen(entries, absent):
            entry["keypoints"] = array("f", bytes(12 * len(self._skeleton)))
        self._report("skipped", "keypoints of the wrong length", wrong, entries, "keypoints")
        return _chosen(entries, ~wrong)

    def _with_boxes(self, entries: list[Entry]) -> list[Entry]:
        finite = np.isfinite(box_column([e.get("bbox") for e in entries])).all(1)
        self._report("skipped", "box that is not four finite numbers", ~finite, entries, "bbox")
        return _chosen(entries, finite)

    def _keypoints(self, entries: list[Entry], image_index: np.ndarray) -> np.ndarray:
        """(A, K, 3) float32; visibility is 0, 1 or 2, and 0 where a number is not finite."""
        content = bytearray().join(e["keypoints"] for e in entries)
        keypoints = np.frombuffer(content, np.float32).reshape(-1, len(self._skeleton), 3)
        broken = ~np.all(np.isfinite(keypoints), axis=2)
        keypoints[broken] = 0
        visibility = np.clip(np.ceil(keypoints[:, :, 2]), 0, 2)
        odd = visibility != keypoints[:, :, 2]
        keypoints[:, :, 2] = visibility
        sizes = np.array([r.size_wh for r in self._table.records], np.float32).reshape(-1, 2)
        points = keypoints[:, :, :2]
        outside = ((points < 0) | (points > sizes[image_index][:, None])).any(2) & (visibility > 0)
        kinds: list[tuple[Fate, str, np.ndarray]] = [
            ("repaired", "keypoint that is not finite, taken as unlabelled", broken),
            ("repaired", "visibility other than 0, 1 or 2, rounded up and clipped", odd),
            ("kept", "labelled keypoint outside its image", outside),
        ]
        for fate, kind, joints in kinds:
            self._report(fate, kind, np.any(joints, axis=1), entries)
        return keypoints

    def _areas(self, entries: list[Entry], boxes: np.ndarray) -> np.ndarray:
        areas = float_column([e.get("area") for e in entries])
        wrong = ~((areas > 0) & np.isfinite(areas))
        self._report("repaired", "area not above 0, taken from the box", wrong, entries, "area")
        return np.where(wrong, np.maximum(boxes[:, 2:], 0).prod(1), areas)

    def _ids(
        self, entries: list[Entry], content: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(A,) ids, each once, and which annotations to keep: one given twice counts once."""
        ids = id_column([e.get("id") for e in entries])
        _, first, group = np.unique(ids, return_index=True, return_inverse=True)
        earlier = first[group]
        again = (earlier != np.arange(len(ids))) & (ids != NO_ID)
        twice = again.copy()
        for column in content:
            same = column[again] == column[earlier[again]]
            twice[again] &= same.all(axis=tuple(range(1, same.ndim)))
        replaced = again & ~twice | (ids == NO_ID)
        ids[replaced] = ids.max(initial=0) + 1 + np.arange(replaced.sum())
        self._report("skipped", "annotation that stands in the file twice", twice, entries)
        self._report("repaired", "annotation id missing or taken, replaced", replaced, entries)
        return ids, ~twice

    def _fits(self, entry: Entry) -> bool:
        return _joints(entry) == len(self._skeleton)

    def _report(
        self, fate: Fate, kind: str, found: np.ndarray, entries: list[Entry], key: str = ""
    ) -> None:
        """Counts the entries marked in `found`; the examples show the value of `key`."""

        def describe(i: int) -> str:
            where = self._table.where(entries[i])
            return f"{where}: {key} {_shown(entries[i].get(key))}" if key else where

        self._problems.add(fate, kind, np.flatnonzero(found).tolist(), describe)


class _Folder:
    """The files of a folder, and those of its subfolders that are asked for."""

    def __init__(self, root: Path):
        self._root = root
        self._bytes: dict[str, dict[str, int]] = {}

    def fault(self, name: Any) -> str | None:
        """Why a picture cannot be used, as far as the folder tells."""
        if not isinstance(name, str) or not name:
            return "image without file_name"
        parent, _, file = name.rpartition("/")
        if name.startswith("/") or ".." in parent.split("/"):
            return "file_name that leads out of image_dir"
        if parent not in self._bytes:
            self._bytes[parent] = dict(_file_sizes(self._root, parent))
        size = self._bytes[parent].get(file)
        return "missing image" if size is None else None if size else "empty image file"


def _file_sizes(root: Path, folder: str) -> Iterator[tuple[str, int]]:
    try:
        with os.scandir(root / folder) as entries:
            yield from ((e.name, e.stat().st_size) for e in entries if e.is_file())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return  # what is not there is reported picture by picture


def _size_wh(entry: Entry, path: Path, problems: Problems) -> tuple[int, int] | None:
    """As annotated, or of the picture itself; None if that cannot be read."""
    width, height = _pixels(entry.get("width")), _pixels(entry.get("height"))
    if width and height:
        return width, height
    try:
        height, width, _ = read_image(path).shape
    except ImageError as error:
        message = str(error)
        problems.add("skipped", "unreadable image", [entry], lambda _: message)
        return None
    problems.add("repaired", "image without width or height, measured", [entry], _image_name)
    return width, height


def _pixels(value: Any) -> int:
    """0 for what is no number of pixels."""
    return int(value) if isinstance(value, int | float) and 1 <= value < 2**31 else 0


def _person_category(
    categories: list[Entry], entries: list[Entry], skeleton: Skeleton, problems: Problems
) -> Entry:
    """The category with the skeleton's joints, or the one that fitting keypoints name."""
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
    fitting = Counter(as_id(e.get("category_id")) for e in entries if _joints(e) == len(skeleton))
    people = (i for i, c in by_id.items() if c.get("name") == "person")
    candidates = [*(i for i, _ in fitting.most_common()), *people, *by_id, 1]
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


def _length_difference(entries: list[Entry], skeleton: Skeleton) -> str:
    found = Counter(map(_joints, entries)).most_common(1)[0][0]
    return (
        f"the annotations have {found:g} joints, but skeleton '{skeleton.name}' has "
        f"{len(skeleton)} (keypoints: {short(entries[0]['keypoints'])}); the skeleton has to be "
        "that of the annotations"
    )


def _joints(entry: Entry) -> float:
    """A third of the length of `keypoints`; 0 if they are no list."""
    keypoints = entry.get("keypoints")
    return len(keypoints) / 3 if isinstance(keypoints, array) else 0


def _chosen(entries: list[Entry], keep: np.ndarray) -> list[Entry]:
    return [entries[i] for i in np.flatnonzero(keep)]


def _category_name(category: Entry) -> str:
    return f"category {short(category.get('id'))} ({short(category.get('name'))})"


def _image_name(entry: Entry) -> str:
    name = entry.get("file_name")
    return f"{name if isinstance(name, str) else short(name)}, image {short(entry.get('id'))}"


def _shown(value: Any) -> str:
    return short(value.tolist() if isinstance(value, array) else value)
