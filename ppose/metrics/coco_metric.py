"""COCO keypoint metric, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ppose.config import register
from ppose.metrics.diagnosis import area_notes, zero_notes
from ppose.structures import Poses
from ppose.structures.skeleton import Skeleton
from ppose.utils.errors import PposeError
from ppose.utils.files import write_json

# The order of COCOeval.stats for keypoints.
_NAMES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


class MetricError(PposeError, ValueError):
    """Poses and ground truth do not match."""


@dataclass(frozen=True)
class CocoScores:
    """COCO keypoint scores in 0..1, for up to 20 people per image.

    A score is NaN if no people, or no people of that size, are annotated.

    Attributes:
        ap, ar: mean over the OKS thresholds 0.50:0.05:0.95.
        ap50, ap75, ar50, ar75: at a single threshold.
        apm, apl, arm, arl: medium people of 32² to 96² pixels, and large people.
        images: number of images in the ground truth.
        people: number of annotated people with labelled joints that are not a crowd.
        detections: number of scored poses.
        box_source: where the boxes came from; only scores with the same boxes are comparable.
        left_out: number of images that could not be read and were excluded.
        estimated_areas: number of annotated people whose area, by which OKS measures distances, is
            estimated from the box.
        notes: what else the scores rest on, and if they are 0 or NaN likely causes, each a line.
    """

    ap: float
    ap50: float
    ap75: float
    apm: float
    apl: float
    ar: float
    ar50: float
    ar75: float
    arm: float
    arl: float
    images: int
    people: int
    detections: int
    box_source: str
    left_out: int = 0
    estimated_areas: int = 0
    notes: tuple[str, ...] = ()

    @property
    def are_zero(self) -> bool:
        """Whether the AP is printed as 0.0, or there is none."""
        return not round(self.ap, 3) > 0

    def numbers(self) -> dict[str, float]:
        """The ten scores by their COCO names: AP, AP50 … ARL."""
        return {name: getattr(self, name.lower()) for name in _NAMES}

    def table(self) -> str:
        """Table of the scores in percent, for printing."""
        cells = [
            (name, "n/a" if math.isnan(score) else f"{100 * score:.1f}")
            for name, score in self.numbers().items()
        ]
        lines = [
            "  ".join(f"{name:>5}" for name, _ in cells),
            "  ".join(f"{score:>5}" for _, score in cells),
            f"boxes: {self.box_source}; {self.images} images, {self.people} people annotated, "
            f"{self.detections} poses",
        ]
        if self.left_out:
            lines.append(f"{self.left_out} images could not be read and were left out")
        return "\n".join([*lines, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """JSON-serializable dict; NaN scores become None."""
        rest = {k: v for k, v in asdict(self).items() if k.upper() not in _NAMES}
        return {k: None if math.isnan(v) else v for k, v in self.numbers().items()} | rest


@register
class CocoMetric:
    """Collects poses and scores them against COCO annotations.

    Poses are not modified; rescoring and NMS are part of `Postprocess`. The OKS constants are those
    of the poses' skeleton.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self, category_ids: Sequence[int] = (1,)) -> None:
        """Removes all poses.

        Args:
            category_ids: categories in the annotations that are scored as if they were one. Saved
                results have the first of them where poses have none of their own.
        """
        self.category_ids = tuple(category_ids)
        self._poses: dict[int, Poses] = {}
        self._skeleton: Skeleton | None = None
        self._box_source: str | None = None

    def update(self, poses: Poses) -> None:
        """Adds the people of one image; call it once per image.

        Raises:
            MetricError: the image_id is missing or was added before, the skeleton or box source
                differs from earlier poses, or a coordinate or score is not finite.
        """
        image_id = poses.image_id
        if image_id is None:
            raise MetricError("the poses have no image_id; set it to the id in the annotations")
        if image_id in self._poses:
            raise MetricError(
                f"image {image_id}: poses were added before; add all people of an image at once, "
                "and call reset() between evaluations"
            )
        if not (np.isfinite(poses.keypoints).all() and np.isfinite(poses.scores).all()):
            raise MetricError(f"image {image_id}: keypoints or scores have NaN or infinity")
        if self._skeleton and self._skeleton.joints != poses.skeleton.joints:
            raise MetricError(
                f"image {image_id}: poses with {poses.skeleton!r}, but earlier poses with "
                f"{self._skeleton!r}"
            )
        if len(poses):
            if self._box_source not in (None, poses.box_source):
                raise MetricError(
                    f"image {image_id}: boxes from '{poses.box_source}', but earlier boxes from "
                    f"'{self._box_source}'; all boxes must have the same source"
                )
            self._box_source = poses.box_source
        self._skeleton = poses.skeleton
        self._poses[image_id] = poses

    def compute(self, ground_truth: dict[str, Any]) -> CocoScores:
        """Scores of all added poses.

        All images of the ground truth are evaluated; an image without poses has no detections.

        Args:
            ground_truth: `images`, `annotations` and `categories` as in a COCO keypoint file; not
                modified.

        Raises:
            MetricError: the ground truth lacks an image or the category, or has other joints.
        """
        self._check(ground_truth)
        people = self._labelled_people(ground_truth)
        with contextlib.redirect_stdout(io.StringIO()):
            stats = self._evaluate(ground_truth)
        scores: dict[str, Any] = {
            name.lower(): math.nan if value < 0 else float(value)
            for name, value in zip(_NAMES, stats, strict=True)
        }
        found = CocoScores(
            **scores,
            images=len(ground_truth["images"]),
            people=len(people),
            detections=sum(map(len, self._poses.values())),
            box_source=self._box_source or "none",
            estimated_areas=sum(a.get("area_estimated", False) for a in people),
            notes=tuple(area_notes(people)),
        )
        if not found.are_zero:
            return found
        causes = zero_notes(self._people(ground_truth), people, list(self._poses.values()))
        return replace(found, notes=(*found.notes, *causes))

    def results(self) -> list[dict[str, Any]]:
        """All poses in COCO's results format, with coordinates rounded to 1e-4 pixels.

        `compute` scores exactly these values.
        """
        return [
            {
                "image_id": image_id,
                "category_id": category_id,
                "keypoints": keypoints,
                "score": score,
            }
            for image_id, poses in self._poses.items()
            for category_id, keypoints, score in zip(
                self._categories_of(poses),
                poses.keypoints.reshape(len(poses), 3 * len(poses.skeleton))
                .astype(np.float64)
                .round(4)
                .tolist(),
                poses.scores.astype(np.float64).tolist(),
                strict=True,
            )
        ]

    def _categories_of(self, poses: Poses) -> list[int]:
        if poses.category_ids is None:
            return [self.category_ids[0]] * len(poses)
        return poses.category_ids.tolist()

    def save_results(self, path: str | Path) -> None:
        """Writes `results` as JSON for COCO's evaluation server and tools."""
        write_json(path, self.results())

    def _evaluate(self, ground_truth: dict[str, Any]) -> np.ndarray:
        # COCOeval modifies annotations, treats the id 0 as "no match", and finds no keypoints
        # without categories (useCats), so that all are put into one.
        one = {"category_id": self.category_ids[0]}
        people = self._people(ground_truth)
        annotations = [a | one | {"id": n} for n, a in enumerate(people, 1)]
        annotated = _index(ground_truth | {"annotations": annotations})
        results = [result | one for result in self.results()]
        # loadRes fails on an empty list.
        empty = ground_truth | {"annotations": []}
        found = annotated.loadRes(results) if results else _index(empty)
        evaluation = COCOeval(annotated, found, "keypoints")
        evaluation.params.catIds = [self.category_ids[0]]
        if self._skeleton:
            evaluation.params.kpt_oks_sigmas = self._skeleton.sigmas
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation.stats

    def _people(self, ground_truth: dict[str, Any]) -> list[dict[str, Any]]:
        return [a for a in ground_truth["annotations"] if a["category_id"] in self.category_ids]

    def _labelled_people(self, ground_truth: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            a
            for a in self._people(ground_truth)
            if a["num_keypoints"] > 0 and not a.get("iscrowd", 0)
        ]

    def _check(self, ground_truth: dict[str, Any]) -> None:
        categories = {c["id"]: c for c in ground_truth["categories"]}
        absent = [i for i in self.category_ids if i not in categories]
        if absent:
            raise MetricError(
                f"category_ids: the annotations have no category {absent[0]}; they have "
                + ", ".join(f"{i} ({c.get('name')})" for i, c in categories.items())
            )
        unknown = self._poses.keys() - {image["id"] for image in ground_truth["images"]}
        if unknown:
            raise MetricError(
                f"the annotations lack {len(unknown)} of {len(self._poses)} images with poses, "
                f"e.g. image_id {min(unknown)}; poses and annotations are of different datasets"
            )
        if self._skeleton:
            names = categories[self.category_ids[0]].get("keypoints")
            _check_joints(self._skeleton, names, self._people(ground_truth))


def _check_joints(
    skeleton: Skeleton, names: list[str] | None, annotations: list[dict[str, Any]]
) -> None:
    """Raises MetricError unless the annotations have the joints of the skeleton in this order."""
    wanted = len(skeleton)
    for annotation in annotations:
        if len(annotation["keypoints"]) != 3 * wanted:
            raise MetricError(
                f"skeleton: '{skeleton.name}' has {wanted} joints, but annotation "
                f"{annotation['id']} has {len(annotation['keypoints']) / 3:g}; evaluate with the "
                "skeleton of the annotations"
            )
    if names and set(names) == set(skeleton.joint_names) and (*names,) != skeleton.joint_names:
        raise MetricError(
            f"skeleton: '{skeleton.name}' has the annotated joints in a different order; "
            f"annotated: {', '.join(names)}; skeleton: {', '.join(skeleton.joint_names)}"
        )


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = {"info": {}} | dataset  # required by loadRes of pycocotools 2.0.9 and 2.0.10
    coco.createIndex()
    return coco
