"""COCO keypoint data: one person a sample, pictures one by one, and the ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from ppose.data.annotations import Annotations, read_people
from ppose.data.coco_json import NO_ID, box_column, float_column, id_column, objects
from ppose.data.images import read_image
from ppose.data.json_file import read_json
from ppose.data.keypoint_file import read_keypoint_file
from ppose.data.pictures import ImageRecord, ImageTable
from ppose.data.problems import DataError, Fate, Problems
from ppose.registry import register
from ppose.skeleton import Skeleton
from ppose.structures import Sample


@register
class CocoDataset:
    """People of a COCO keypoint file, with any set of joints, or in a detector's boxes.

    Annotated people are used if they are no crowd and have a labelled joint and a box with an
    area; the box is cut to the image as HRNet and PaddleDetection do. A detector's boxes are
    used as they are. People stand image by image, in the order of the file's images.

    Args:
        image_dir: folder that `file_name` of the images starts from.
        anno_path: JSON with `images`, `annotations` and `categories`. With a `bbox_file`
            it may lack annotations, as COCO's test sets do.
        skeleton: the annotated joints.
        bbox_file: a detector's results, a list of {image_id, category_id, bbox, score}, to look
            for people in; None takes the annotated boxes.
        min_box_score: boxes with a lower score are left out; annotated boxes have 1.

    Attributes:
        images: the usable images, also those without people, in the file's order.
        image_index: (N,) int32 index into `images` for each person, ascending.
        boxes_xywh: (N, 4) float32.
        box_scores: (N,) float32 in 0..1; 1 for annotated boxes.
        keypoints: (N, K, 3) float32 x, y, COCO visibility; zeros with a `bbox_file`.
        areas: (N,) float32 of the annotated outline or of the detector's box, square pixels.
        person_ids: (N,) int64 annotation ids; -1 with a `bbox_file`.
        category_id: of people.
        min_box_score: as given.
        box_source: "ground truth" or the name of the `bbox_file`.
        problems: what was skipped or put right.

    Raises:
        DataError: a file or folder that is not there or not of this form, joints that are not
            the skeleton's, or not one person left.
    """

    needs_outlines = False

    def __init__(
        self,
        image_dir: str,
        anno_path: str,
        skeleton: Skeleton,
        bbox_file: str | None = None,
        min_box_score: float = 0.0,
    ):
        self.skeleton = skeleton
        self.min_box_score = min_box_score
        self.problems = Problems()
        self._image_dir = Path(image_dir)
        self._anno_path = Path(anno_path)
        table = self._read(annotated=bbox_file is None)
        self.images: Sequence[ImageRecord] = table.records
        self.category_id: int = int(self._annotations.category["id"])
        if bbox_file is None:
            self.box_source = "ground truth"
            self._take_annotated_people(table)
        else:
            self.box_source = Path(bbox_file).name
            self._take_boxes(Path(bbox_file), table, min_box_score)
        if not len(self):
            raise DataError(self._nothing_left(bbox_file, min_box_score))

    def __len__(self) -> int:
        return len(self.image_index)

    def __getitem__(self, index: int) -> Sample:
        """One person, with the picture read.

        Raises:
            ImageError: the picture cannot be used.
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
        """Every usable image once, with the (P,) indices of its people."""
        ends = np.searchsorted(self.image_index, np.arange(len(self.images)), side="right")
        people = np.split(np.arange(len(self)), ends[:-1])
        yield from zip(self.images, people, strict=True)

    def ground_truth(self) -> dict[str, Any]:
        """The usable images and all their well-formed annotations, as a COCO dict.

        Boxes stand as annotated, and crowds, unlabelled people and people without a usable box
        are there too: pycocotools needs them to ignore what is found on them. Outlines are left
        out; keypoint scores do not use them.
        """
        found = self._annotations
        columns = (
            found.ids,
            found.image_index,
            found.boxes_xywh,
            found.areas,
            found.crowd,
            found.labelled,
            found.keypoints_of(np.arange(len(found.ids))).reshape(-1, 3 * len(self.skeleton)),
        )
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
            "annotations": [
                {
                    "id": annotation_id,
                    "image_id": self.images[image_index].image_id,
                    "category_id": self.category_id,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                    "num_keypoints": labelled,
                    "keypoints": keypoints,
                }
                for annotation_id, image_index, box, area, crowd, labelled, keypoints in zip(
                    *(column.tolist() for column in columns), strict=True
                )
            ],
            "categories": [found.category],
        }

    def summary(self) -> str:
        """Counts of images and people, and a line for each kind of problem."""
        busy = len(np.unique(self.image_index))
        what = "people" if self.box_source == "ground truth" else f"boxes of {self.box_source}"
        counts = f"{what}: {len(self)} on {busy} of {len(self.images)} images"
        return "\n  ".join([counts, *str(self.problems).splitlines()])

    def _read(self, annotated: bool) -> ImageTable:
        file = read_keypoint_file(
            self._anno_path,
            self._image_dir,
            len(self.skeleton),
            self.problems,
            annotated=annotated,
            outlines=self.needs_outlines,
        )
        try:
            self._annotations = read_people(file, self.skeleton, self.problems)
        except DataError as error:
            raise DataError(f"{self._anno_path}: {error}") from None
        return file.images

    def _take_annotated_people(self, table: ImageTable) -> None:
        found = self._annotations
        people = np.flatnonzero(~found.crowd & (found.labelled > 0))
        sizes = table.records.sizes_wh[found.image_index[people]]
        boxes = _cut_boxes(found.boxes_xywh[people], sizes)
        usable = (boxes[:, 2:] > 0).all(1)
        self.problems.add(
            "skipped",
            "box without area in its image",
            people[~usable].tolist(),
            lambda i: _box_of(found, self.images, i),
        )
        rows, boxes = people[usable], boxes[usable].astype(np.float32)
        chosen = self._samples(rows, boxes)
        rows = rows[chosen]
        self.image_index = found.image_index[rows]
        self.boxes_xywh = boxes[chosen]
        self.box_scores = np.ones(len(rows), np.float32)
        self.keypoints = found.keypoints_of(rows)
        self.areas = found.areas[rows].astype(np.float32)
        self.person_ids = found.ids[rows]

    def _samples(self, rows: np.ndarray, boxes_xywh: np.ndarray) -> np.ndarray:
        """Which of the usable people are samples, as indices into what is given.

        Args:
            rows: (N,) their places in the annotations.
            boxes_xywh: (N, 4) float32, cut to the images.
        """
        return np.arange(len(rows))

    def _take_boxes(self, path: Path, table: ImageTable, min_score: float) -> None:
        entries, boxes, scores = _detections(path, self.category_id, min_score, self.problems)
        image_index = table.index_of([e.get("image_id") for e in entries])
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
                lambda i: f"{table.where(entries[i])}: bbox {short(entries[i].get('bbox'))}",
            )
        rows = np.flatnonzero(usable & (image_index >= 0))
        rows = rows[np.argsort(image_index[rows], kind="stable")]
        self.image_index = image_index[rows]
        self.boxes_xywh = boxes[rows].astype(np.float32)
        self.box_scores = scores[rows].astype(np.float32)
        self.keypoints = np.zeros((len(rows), len(self.skeleton), 3), np.float32)
        self.areas = self.boxes_xywh[:, 2:].prod(1)
        self.person_ids = np.full(len(rows), -1, np.int64)

    def _nothing_left(self, bbox_file: str | None, min_score: float) -> str:
        if not self.images:
            head = f"{self._anno_path}: no image to use in {self._image_dir}"
        elif bbox_file:
            head = (
                f"{bbox_file}: no box of a person (category {self.category_id}) with a score of "
                f"at least {min_score} on an image of {self._anno_path}"
            )
        else:
            head = f"{self._anno_path}: no person with a box and a labelled joint"
        return "\n  ".join([head, *str(self.problems).splitlines()])


def _detections(
    path: Path, category_id: int, min_score: float, problems: Problems
) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray]:
    """Entries, (N, 4) boxes and (N,) scores in 0..1 of people from a detector's results."""
    data = read_json(path, "bbox_file")
    if not isinstance(data, list):
        raise DataError(
            f"bbox_file: {path} is no list; expected a detector's results, a list of "
            "{image_id, category_id, bbox, score}"
        )

    def describe(i: int) -> str:
        return f"{path.name}, entry {i}: score {short(entries[i].get('score'))}"

    entries = objects(data, "box", problems)
    categories = id_column([e.get("category_id", category_id) for e in entries])
    scores = float_column([e.get("score") for e in entries])
    is_person = categories == category_id
    absent, clipped = np.isnan(scores), (scores < 0) | (scores > 1)
    kinds: list[tuple[Fate, str, np.ndarray]] = [
        ("skipped", "box of no category", categories == NO_ID),
        ("skipped", "box without a score", is_person & absent),
        ("repaired", "box score outside 0..1, clipped", is_person & clipped),
    ]
    for fate, kind, wrong in kinds:
        problems.add(fate, kind, np.flatnonzero(wrong).tolist(), describe)
    scores = np.clip(scores, 0, 1)
    rows = np.flatnonzero(is_person & (scores >= min_score))
    entries = [entries[i] for i in rows]
    return entries, box_column([e.get("bbox") for e in entries]), scores[rows]


def _cut_boxes(boxes_xywh: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """(N, 4) boxes within (N, 2) images, as published: a box spans pixels x to x + w − 1."""
    start = np.maximum(boxes_xywh[:, :2], 0)
    end = np.minimum(sizes_wh - 1, start + np.maximum(boxes_xywh[:, 2:] - 1, 0))
    return np.concatenate([start, end - start], 1)


def _box_of(found: Annotations, images: Sequence[ImageRecord], i: int) -> str:
    record = images[found.image_index[i]]
    return (
        f"{record.path.name}, image {record.image_id}, annotation {found.ids[i]}: "
        f"bbox {found.boxes_xywh[i].tolist()}"
    )
