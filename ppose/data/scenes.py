"""COCO keypoint data for bottom-up training: everybody in a picture at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ppose.data.coco import CocoDataset
from ppose.registry import register
from ppose.skeleton import Skeleton
from ppose.structures import Sample


@register
class CocoScenes(CocoDataset):
    """Pictures with all of their people, from the annotations alone.

    A sample is a picture seen from one person, the centre, who stands first among its
    `keypoints`; all other people with a labelled joint follow, and the outlines of everybody
    tell where joints may be that nobody labelled.

    The people of the attributes (`image_index`, `keypoints`, …) are the centres.

    Args:
        image_dir, anno_path, skeleton: see `CocoDataset`.
        per_picture: one sample for each picture, for crops that show the whole of it; else one
            for each person who fulfils what follows.
        min_joints: labelled joints of a centre; 5 as published with SimplePose and OpenPose.
        min_area: of its outline in square pixels; 32² as published.
        spacing: a centre lies further from those before it in the same picture than this part
            of the longer side of their boxes; 0.3 as published.

    Raises:
        DataError: as `CocoDataset`; nobody fulfils this.
    """

    needs_outlines = True

    def __init__(
        self,
        image_dir: str,
        anno_path: str,
        skeleton: Skeleton,
        per_picture: bool = False,
        min_joints: int = 5,
        min_area: float = 1024.0,
        spacing: float = 0.3,
    ):
        for name, value in (("min_joints", min_joints), ("min_area", min_area)):
            if value < 0:
                raise ValueError(f"{name} has to be at least 0, found {value}")
        if spacing < 0:
            raise ValueError(f"spacing has to be at least 0, found {spacing}")
        self._per_picture = per_picture
        self._min_joints = min_joints
        self._min_area = min_area
        self._spacing = spacing
        super().__init__(image_dir, anno_path, skeleton)

    def __getitem__(self, index: int) -> Sample:
        """One picture with everybody in it, its centre first.

        Raises:
            ImageError: the picture cannot be used.
        """
        found = self._annotations
        # Of the column's own type, or the whole column would be converted for each sample.
        pictures = self.image_index[index] + np.arange(2, dtype=found.image_index.dtype)
        first, last = np.searchsorted(found.image_index, pictures)
        rows = np.arange(first, last)
        people = rows[(found.labelled[rows] > 0) & ~found.crowd[rows]]
        centre_first = np.argsort(found.ids[people] != self.person_ids[index], kind="stable")
        assert found.outlines is not None
        return replace(
            super().__getitem__(index),
            keypoints=found.keypoints_of(people[centre_first]),
            outlines=tuple(found.outlines[i] for i in rows.tolist()),
        )

    def summary(self) -> str:
        """Counts of samples, and a line for each kind of problem."""
        people = int((~self._annotations.crowd & (self._annotations.labelled > 0)).sum())
        pictures = len(np.unique(self.image_index))
        counts = f"samples: {len(self)} of {pictures} pictures with {people} people in all"
        return "\n  ".join([counts, *str(self.problems).splitlines()])

    def _nothing_left(self, bbox_file: str | None, min_score: float) -> str:
        if self._usable and not self._per_picture:
            return (
                f"train_dataset: none of {self._usable} labelled people is a centre: expected "
                f"min_joints {self._min_joints} and min_area {self._min_area:g}, or per_picture"
            )
        return super()._nothing_left(bbox_file, min_score)

    def _samples(self, rows: np.ndarray, boxes_xywh: np.ndarray) -> np.ndarray:
        self._usable = len(rows)
        if self._per_picture:
            return np.unique(self._annotations.image_index[rows], return_index=True)[1]
        return self._centres(rows, boxes_xywh)

    def _centres(self, rows: np.ndarray, boxes_xywh: np.ndarray) -> np.ndarray:
        found = self._annotations
        image_index = found.image_index[rows]
        large = found.areas[rows].astype(np.float32) >= self._min_area
        fitting = np.flatnonzero((found.labelled[rows] >= self._min_joints) & large)
        middles = boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2
        reach = self._spacing * boxes_xywh[:, 2:].max(1, initial=0)
        kept: list[int] = []
        for picture in np.split(fitting, np.flatnonzero(np.diff(image_index[fitting])) + 1):
            before: list[int] = []
            for i in picture.tolist():
                distances = np.linalg.norm(middles[before] - middles[i], axis=1)
                if (distances > reach[before]).all():
                    before.append(i)
            kept += before
        return np.array(kept, np.int64)
