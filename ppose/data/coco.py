"""COCO keypoint dataset: one sample per person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from ppose.config import register
from ppose.config.ranges import Share
from ppose.data.annotations import Annotations, read_people
from ppose.data.boxes import path_ends, read_box_entries
from ppose.data.categories import Wanted
from ppose.data.coco_json import (
    NO_ID,
    box_column,
    filter_objects,
    float_column,
    id_column,
)
from ppose.data.coordinates import BEYOND_IMAGE, beyond_image, box_mistake
from ppose.data.image_table import ImageRecord, ImageTable
from ppose.data.images import read_image
from ppose.data.keypoint_file import read_keypoint_file
from ppose.data.problems import Action, DataError, Problems
from ppose.structures import Sample
from ppose.structures.skeleton import Skeleton


@register
class CocoDataset:
    """COCO keypoint dataset with any set of joints: one sample per person.

    Boxes are annotated or come from a detector. Annotated people are used if they are not a crowd
    and have a labelled joint and a box of non-zero area; the box is clipped to the image as in
    HRNet and PaddleDetection. Detected boxes are used unchanged. People are sorted by image, in
    the order of `images` in the file.

    Args:
        image_dir: folder that each image's `file_name` is relative to.
        anno_path: JSON with `images`, `annotations` and `categories`. With a `bbox_file`,
            annotations may be missing, as in COCO's test sets.
        skeleton: the annotated joints.
        bbox_file: detection results or another file of `read_box_entries`; None uses the annotated
            boxes.
        min_box_score: boxes with a lower score are left out; annotated boxes have score 1.
        categories: names or ids of the annotated categories to use, as if they were one, or "all";
            None uses those that list the skeleton's joints: in AP-10K each species.

    Attributes:
        images: the usable images, including those without people, in the order of the file.
        image_index: (N,) int32 index into `images` for each person, ascending.
        boxes_xywh: (N, 4) float32.
        box_scores: (N,) float32 in 0..1; 1 for annotated boxes.
        keypoints: (N, K, 3) float32 x, y, COCO visibility; zeros with a `bbox_file`.
        areas: (N,) float32 area of the annotated segmentation or detected box, in square pixels.
        person_ids: (N,) int64 annotation ids; -1 with a `bbox_file`.
        categories: ids and names of the categories that are used.
        category_ids: (N,) int64 category of each person.
        min_box_score: as given.
        box_source: "ground truth" or the name of the `bbox_file`.
        problems: what was skipped or repaired.

    Raises:
        DataError: a file or folder does not exist or is malformed, the joints differ from the
            skeleton's, a category does not exist, or no person is left.
    """

    needs_segmentations = False

    def __init__(
        self,
        image_dir: str,
        anno_path: str,
        skeleton: Skeleton,
        bbox_file: str | None = None,
        min_box_score: Share = 0.0,
        categories: Wanted = None,
    ):
        self.skeleton = skeleton
        self.min_box_score = min_box_score
        self.problems = Problems()
        self._image_dir = Path(image_dir)
        self._anno_path = Path(anno_path)
        table = self._read(bbox_file is None, categories)
        self.images: Sequence[ImageRecord] = table.records
        self.categories = {c["id"]: str(c["name"]) for c in self._annotations.categories}
        if bbox_file is None:
            self.box_source = "ground truth"
            self._take_annotated_people(table)
        else:
            self.box_source = Path(bbox_file).name
            self._take_boxes(Path(bbox_file), table, min_box_score)
        if not len(self):
            raise DataError(self._empty_message(bbox_file, min_box_score))

    def __len__(self) -> int:
        return len(self.image_index)

    def __getitem__(self, index: int) -> Sample:
        """One person and the pixels of the image.

        Raises:
            ImageError: the image cannot be used.
        """
        record = self.images[self.image_index[index]]
        return Sample(
            image=read_image(record.path, record.size_wh),
            box_xywh=self.boxes_xywh[index].copy(),
            keypoints=self.keypoints[index][None].copy(),
            meta={
                "image_id": record.image_id,
                "person_id": int(self.person_ids[index]),
                "path": record.path,
                "box_score": float(self.box_scores[index]),
            },
        )

    def by_image(self) -> Iterator[tuple[ImageRecord, np.ndarray]]:
        """Each usable image, with the (P,) indices of its people."""
        ends = np.searchsorted(self.image_index, np.arange(len(self.images)), side="right")
        people = np.split(np.arange(len(self)), ends[:-1])
        yield from zip(self.images, people, strict=True)

    def ground_truth(self) -> dict[str, Any]:
        """The usable images and all their valid annotations, as a COCO dict.

        Boxes are as annotated. Crowds, unlabelled people and people without a usable box are
        included: pycocotools needs them to ignore detections on them. Segmentations are left out,
        as keypoint scores do not use them. An area that was not annotated is marked by
        `area_estimated`.
        """
        found = self._annotations
        keypoints = found.keypoints_of(np.arange(len(found.ids)))
        image_ids = np.array([record.image_id for record in self.images], np.int64)
        columns = {
            "id": found.ids,
            "image_id": image_ids[found.image_index],
            "category_id": found.category_ids,
            "bbox": found.boxes_xywh,
            "area": found.areas,
            "iscrowd": found.crowd.astype(int),
            "num_keypoints": found.labelled,
            "keypoints": keypoints.reshape(-1, 3 * len(self.skeleton)),
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        annotations = [dict(zip(columns, row, strict=True)) for row in rows]
        for i in np.flatnonzero(found.area_estimated):
            annotations[i]["area_estimated"] = True
        return {
            "info": {"description": self._anno_path.name},
            "images": [
                {
                    "id": record.image_id,
                    "file_name": record.path.relative_to(self._image_dir).as_posix(),
                    "width": record.size_wh[0],
                    "height": record.size_wh[1],
                }
                for record in self.images
            ],
            "annotations": annotations,
            "categories": found.categories,
        }

    def summary(self) -> str:
        """Number of images and people, and one line per kind of problem."""
        images = len(np.unique(self.image_index))
        what = "people" if self.box_source == "ground truth" else f"boxes of {self.box_source}"
        counts = f"{what}: {len(self)} on {images} of {len(self.images)} images"
        return "\n  ".join([counts, *self._by_category(), *str(self.problems).splitlines()])

    def _by_category(self) -> list[str]:
        """A line of the number of people in each category, if there are several."""
        if len(self.categories) == 1:
            return []
        counts = Counter(self.category_ids.tolist())
        found = ", ".join(f"{self.categories[i]} {n}" for i, n in counts.most_common())
        unused = len(self.categories) - len(counts)
        return [f"by category: {found}" + (f"; {unused} others have none" if unused else "")]

    def _read(self, annotated: bool, categories: Wanted) -> ImageTable:
        file = read_keypoint_file(
            self._anno_path,
            self._image_dir,
            len(self.skeleton),
            self.problems,
            annotated=annotated,
            segmentations=self.needs_segmentations,
        )
        try:
            self._annotations = read_people(file, self.skeleton, self.problems, categories)
        except DataError as error:
            raise DataError(f"{self._anno_path}: {error}") from None
        return file.images

    def _take_annotated_people(self, table: ImageTable) -> None:
        found = self._annotations
        people = np.flatnonzero(~found.crowd & (found.labelled > 0))
        sizes = table.records.sizes_wh[found.image_index[people]]
        boxes = _clip_boxes(found.boxes_xywh[people], sizes)
        usable = (boxes[:, 2:] > 0).all(1)
        self.problems.add(
            "skipped",
            "box without area inside its image",
            people[~usable].tolist(),
            lambda i: _describe_box(found, self.images, i),
        )
        rows, boxes = people[usable], boxes[usable].astype(np.float32)
        chosen = self._choose_samples(rows, boxes)
        rows = rows[chosen]
        self.image_index = found.image_index[rows]
        self.boxes_xywh = boxes[chosen]
        self.box_scores = np.ones(len(rows), np.float32)
        self.keypoints = found.keypoints_of(rows)
        self.areas = found.areas[rows].astype(np.float32)
        self.person_ids = found.ids[rows]
        self.category_ids = found.category_ids[rows]

    def _choose_samples(self, rows: np.ndarray, boxes_xywh: np.ndarray) -> np.ndarray:
        """Indices of the usable people that become samples.

        Args:
            rows: (N,) indices of the people into the annotations.
            boxes_xywh: (N, 4) float32, clipped to the images.
        """
        return np.arange(len(rows))

    def _take_boxes(self, path: Path, table: ImageTable, min_score: float) -> None:
        entries, boxes, scores, category_ids = self._detections(path, min_score)
        image_index = _image_index(entries, table)
        usable = np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)
        for kind, wrong in (
            ("box of an unknown image", image_index == -2),
            ("box of a skipped image", image_index == -1),
            ("box without area, or not finite", (image_index >= 0) & ~usable),
        ):
            self.problems.add(
                "skipped",
                kind,
                np.flatnonzero(wrong).tolist(),
                lambda i: f"{table.describe(entries[i])}: bbox {short(entries[i].get('bbox'))}",
            )
        rows = np.flatnonzero(usable & (image_index >= 0))
        rows = rows[np.argsort(image_index[rows], kind="stable")]
        self.image_index = image_index[rows]
        self.boxes_xywh = boxes[rows]
        self.box_scores = scores[rows].astype(np.float32)
        self.keypoints = np.zeros((len(rows), len(self.skeleton), 3), np.float32)
        self.areas = self.boxes_xywh[:, 2:].prod(1)
        self.person_ids = np.full(len(rows), -1, np.int64)
        self.category_ids = category_ids[rows]
        sizes = table.records.sizes_wh[self.image_index]
        mistake = box_mistake(self.boxes_xywh, sizes)
        if mistake:
            raise DataError(f"bbox_file: {path}: {mistake}")
        self.problems.add(
            "kept",
            BEYOND_IMAGE,
            rows[beyond_image(self.boxes_xywh, sizes)].tolist(),
            lambda i: f"{table.describe(entries[i])}: bbox {short(entries[i].get('bbox'))}",
        )

    def _detections(
        self, path: Path, min_score: float
    ) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray, np.ndarray]:
        """Entries, (N, 4) boxes, (N,) scores in 0..1 and (N,) categories of people in a file."""

        def describe(i: int) -> str:
            score, category = short(entries[i].get("score")), entries[i].get("category_id")
            return f"{path.name}, entry {i}: score {score}, category_id {short(category)}"

        entries = filter_objects(read_box_entries(path)[0], "box", self.problems)
        used = list(self.categories)
        categories = id_column([e.get("category_id", used[0]) for e in entries])
        scores = float_column([e.get("score") for e in entries])
        is_person = np.isin(categories, used)
        absent, clipped = np.isnan(scores), (scores < 0) | (scores > 1)
        invalid = categories == NO_ID
        kinds: list[tuple[Action, str, np.ndarray]] = [
            ("skipped", "box with an invalid category_id", invalid),
            ("skipped", "box of a category that is not used", ~is_person & ~invalid),
            ("skipped", "box without a score", is_person & absent),
            ("repaired", "box score outside 0..1, clipped", is_person & clipped),
        ]
        for action, kind, wrong in kinds:
            self.problems.add(action, kind, np.flatnonzero(wrong).tolist(), describe)
        scores = np.clip(scores, 0, 1)
        rows = np.flatnonzero(is_person & (scores >= min_score))
        entries = [entries[i] for i in rows]
        with np.errstate(over="ignore"):  # infinite boxes are skipped
            boxes = box_column([e.get("bbox") for e in entries]).astype(np.float32)
        return entries, boxes, scores[rows], categories[rows]

    def _empty_message(self, bbox_file: str | None, min_score: float) -> str:
        named = ", ".join(map(str, self.categories))
        if not self.images:
            head = f"{self._anno_path}: no usable image in {self._image_dir}"
        elif bbox_file:
            head = (
                f"{bbox_file}: no person box (category {named}) with a score of at "
                f"least {min_score} on an image of {self._anno_path}"
            )
        else:
            found = self._annotations
            head = (
                f"{self._anno_path}: no person with a box and a labelled joint: of "
                f"{len(found.ids)} annotations {found.crowd.sum()} are crowds and "
                f"{(found.labelled == 0).sum()} have no labelled joint"
            )
        return "\n  ".join([head, *str(self.problems).splitlines()])


def _image_index(entries: list[dict[str, Any]], table: ImageTable) -> np.ndarray:
    """(N,) index of each entry's image, see `ImageTable.index_of`; by file name without an id."""
    index = table.index_of([entry.get("image_id") for entry in entries])
    unknown = [
        i for i in np.flatnonzero(index == -2) if isinstance(entries[i].get("file_name"), str)
    ]
    if unknown:
        by_name = {name: n for n, one in enumerate(table.records) for name in path_ends(one.path)}
        for i in unknown:
            names = path_ends(Path(entries[i]["file_name"]))
            index[i] = by_name.get(entries[i]["file_name"], by_name.get(names[0], -2))
    return index


def _clip_boxes(boxes_xywh: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """Clips (N, 4) boxes to (N, 2) images as in HRNet: a box spans pixels x to x + w − 1."""
    start = np.maximum(boxes_xywh[:, :2], 0)
    end = np.minimum(sizes_wh - 1, start + np.maximum(boxes_xywh[:, 2:] - 1, 0))
    return np.concatenate([start, end - start], 1)


def _describe_box(found: Annotations, images: Sequence[ImageRecord], i: int) -> str:
    record = images[found.image_index[i]]
    return (
        f"{record.path.name}, image {record.image_id}, annotation {found.ids[i]}: "
        f"bbox {found.boxes_xywh[i].tolist()}"
    )
