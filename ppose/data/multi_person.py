"""COCO keypoint dataset for bottom-up training: all people of an image per sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np

from ppose.config import register, renamed
from ppose.config.ranges import Range
from ppose.data.categories import Wanted
from ppose.data.coco import CocoDataset
from ppose.structures import Sample
from ppose.structures.skeleton import Skeleton


@register
@renamed("CocoScenes", per_picture="per_image")
class CocoMultiPerson(CocoDataset):
    """COCO keypoint dataset for bottom-up training, with annotated people only.

    A sample is an image with one main person, who comes first in `keypoints`, followed by all
    other people with a labelled joint. The segmentations of all annotations tell where there may
    be unlabelled joints.

    The attributes (`image_index`, `keypoints`, …) refer to the main persons.

    Args:
        image_dir, anno_path, skeleton, categories: see `CocoDataset`.
        per_image: one sample per image, for crops that show the whole image; else one sample
            per person who meets the following criteria.
        min_joints: minimum number of labelled joints; 5 as published with SimplePose and OpenPose.
        min_area: minimum area of the segmentation in square pixels; 32² as published.
        spacing: minimum distance to the main persons before it in the same image, relative to
            the longer side of their boxes; 0.3 as published.

    Raises:
        DataError: see `CocoDataset`; or no person meets the criteria.
    """

    needs_segmentations = True

    def __init__(
        self,
        image_dir: str,
        anno_path: str,
        skeleton: Skeleton,
        per_image: bool = False,
        min_joints: Annotated[int, Range(least=0, most=1000)] = 5,
        min_area: Annotated[float, Range(least=0, most=1e9)] = 1024.0,
        spacing: Annotated[float, Range(least=0, most=1000)] = 0.3,
        categories: Wanted = None,
    ):
        self._per_image = per_image
        self._min_joints = min_joints
        self._min_area = min_area
        self._spacing = spacing
        super().__init__(image_dir, anno_path, skeleton, categories=categories)

    def __getitem__(self, index: int) -> Sample:
        """An image with all of its people, the main person first.

        Raises:
            ImageError: the image cannot be used.
        """
        found = self._annotations
        # The dtype of the column, as the whole column would be converted for each sample.
        images = self.image_index[index] + np.arange(2, dtype=found.image_index.dtype)
        first, last = np.searchsorted(found.image_index, images)
        rows = np.arange(first, last)
        people = rows[(found.labelled[rows] > 0) & ~found.crowd[rows]]
        main_first = np.argsort(found.ids[people] != self.person_ids[index], kind="stable")
        assert found.segmentations is not None
        return replace(
            super().__getitem__(index),
            keypoints=found.keypoints_of(people[main_first]),
            segmentations=tuple(found.segmentations[i] for i in rows.tolist()),
        )

    def summary(self) -> str:
        """Number of samples, and one line per kind of problem."""
        people = int((~self._annotations.crowd & (self._annotations.labelled > 0)).sum())
        images = len(np.unique(self.image_index))
        counts = f"samples: {len(self)} from {images} images with {people} people in total"
        return "\n  ".join([counts, *self._by_category(), *str(self.problems).splitlines()])

    def _empty_message(self, bbox_file: str | None, min_score: float) -> str:
        if self._usable and not self._per_image:
            return (
                f"train_dataset: none of {self._usable} labelled people has at least min_joints "
                f"{self._min_joints} and min_area {self._min_area:g}; lower them or use per_image"
            )
        return super()._empty_message(bbox_file, min_score)

    def _choose_samples(self, rows: np.ndarray, boxes_xywh: np.ndarray) -> np.ndarray:
        self._usable = len(rows)
        if self._per_image:
            return np.unique(self._annotations.image_index[rows], return_index=True)[1]
        return self._main_persons(rows, boxes_xywh)

    def _main_persons(self, rows: np.ndarray, boxes_xywh: np.ndarray) -> np.ndarray:
        found = self._annotations
        image_index = found.image_index[rows]
        large = found.areas[rows].astype(np.float32) >= self._min_area
        fitting = np.flatnonzero((found.labelled[rows] >= self._min_joints) & large)
        middles = boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2
        reach = self._spacing * boxes_xywh[:, 2:].max(1, initial=0)
        kept: list[int] = []
        for candidates in np.split(fitting, np.flatnonzero(np.diff(image_index[fitting])) + 1):
            before: list[int] = []
            for i in candidates.tolist():
                distances = np.linalg.norm(middles[before] - middles[i], axis=1)
                if (distances > reach[before]).all():
                    before.append(i)
            kept += before
        return np.array(kept, np.int64)
