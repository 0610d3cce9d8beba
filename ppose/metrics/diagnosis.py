"""What scores rest on, and likely causes of scores of 0: notes for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ppose.metrics.oks import oks
from ppose.structures import Poses
from ppose.structures.geometry import AREA_OF_BOX, iou
from ppose.structures.skeleton import Skeleton

LEAST_OKS = 0.5  # at which COCO begins to count a pose as right
_SMALLEST_SIGMA = 0.01  # COCO's are 0.025 to 0.107
_LARGEST_AREA = 1e10  # in pixels²; COCOeval ignores people above it
_MOST_IMAGES = 500  # that are looked at

Entry = dict[str, Any]


def area_notes(people: Sequence[Entry]) -> list[str]:
    """Notes about areas that cannot be those of segmentations.

    Args:
        people: annotations that are scored, with `bbox` and `area`.
    """
    notes = []
    estimated = sum(a.get("area_estimated", False) for a in people)
    if estimated:
        notes.append(
            f"areas of {estimated} of {len(people)} people are not annotated and were estimated "
            f"as {AREA_OF_BOX:g} of their boxes: not comparable with scores on annotated areas"
        )
    given = [a for a in people if not a.get("area_estimated")]
    boxes = np.array([a["bbox"][2:] for a in given], np.float64).reshape(-1, 2).prod(1)
    shares = np.array([a["area"] for a in given], np.float64) / np.maximum(boxes, 1e-9)
    low, high = "are below 5% of the boxes, so scores are too low", "are larger than the boxes"
    for found, what in (
        (
            np.abs(shares - 1) <= 0.01,
            "are those of the boxes: scores are higher than on areas of segmentations",
        ),
        (shares > 1.5, f"{high}, so scores are too high: are they square pixels?"),
        (shares < 0.05, f"{low}: are they square pixels?"),
    ):
        if found.sum() > len(people) / 2:
            notes.append(f"annotated areas of {found.sum()} of {len(people)} people {what}")
    return notes


def zero_notes(
    annotations: Iterable[Entry], people: Sequence[Entry], poses: Sequence[Poses]
) -> list[str]:
    """Likely causes of an AP of 0 or none, most likely first.

    Args:
        annotations: all annotations of the scored categories.
        people: those that are scored: no crowds, with labelled joints.
        poses: of each image that has any.
    """
    if not people:
        return [_nobody(list(annotations))]
    found = [one for one in poses if len(one)]
    if not found:
        return ["no poses were found: without a detector's or annotated boxes there are none"]
    by_image = defaultdict(list)
    for person in people:
        by_image[person["image_id"]].append(person)
    met = [one for one in found if one.image_id in by_image]
    if not met:
        return [
            f"none of the {len(found)} images with poses has annotated people: are image ids or "
            "boxes those of another dataset?"
        ]
    pairs = [(one, by_image[one.image_id]) for one in met[:_MOST_IMAGES]]
    skeleton = met[0].skeleton
    return [
        *_about_people(people, skeleton),
        *_about_poses(met[:_MOST_IMAGES]),
        *_about_distances(pairs, skeleton),
    ]


def _nobody(annotations: list[Entry]) -> str:
    crowds = sum(bool(a.get("iscrowd")) for a in annotations)
    return (
        f"no people are annotated in these images, so there are no scores: of {len(annotations)} "
        f"annotations {crowds} are crowds, and {len(annotations) - crowds} have no labelled joint"
    )


def _about_people(people: Sequence[Entry], skeleton: Skeleton) -> list[str]:
    notes = []
    small = skeleton.sigmas < _SMALLEST_SIGMA
    if small.any():
        worst = int(skeleton.sigmas.argmin())
        notes.append(
            f"sigmas of {small.sum()} of {len(skeleton)} joints of skeleton '{skeleton.name}' are "
            f"below {_SMALLEST_SIGMA:g} ({skeleton.joint_names[worst]}: "
            f"{skeleton.sigmas[worst]:g}; COCO's are 0.025 to 0.107), so a joint a pixel away "
            "counts as wrong"
        )
    ignored = sum(a["area"] > _LARGEST_AREA for a in people)
    if ignored:
        notes.append(
            f"areas of {ignored} of {len(people)} people are above {_LARGEST_AREA:g} square "
            "pixels, which COCO ignores; are they square pixels?"
        )
    return notes


def _about_poses(poses: Sequence[Poses]) -> list[str]:
    notes = []
    joints = np.concatenate([one.keypoints for one in poses])
    scores = np.concatenate([one.scores for one in poses])
    if not scores.any():
        notes.append(f"all {len(scores)} poses score 0: are the weights trained, and box scores 0?")
    spread = np.ptp(joints[..., :2], axis=1).max(1)
    still = int((spread <= 2).sum())
    if np.abs(joints[..., :2]).max() <= 2:
        notes.append("all joints of the poses are within 2 pixels of 0, 0: not in pixels?")
    elif still > len(joints) / 2:
        notes.append(
            f"all joints of {still} of {len(joints)} poses are at one place: are the weights "
            "trained, and is the input large enough?"
        )
    return notes


def _about_distances(pairs: list[tuple[Poses, list[Entry]]], skeleton: Skeleton) -> list[str]:
    """How near the poses are to the people, as they are and after what may have been mistaken."""
    overlaps = [
        iou(np.array([a["bbox"] for a in people])[:, None], one.boxes_xywh).max(1)
        for one, people in pairs
    ]
    overlap = float(np.median(np.concatenate(overlaps)))
    if overlap < 0.1:
        return [
            f"the boxes ({pairs[0][0].box_source}) do not overlap those of the annotated people "
            f"(median IoU {overlap:.2f}): are they of these images, in pixels, and x, y, width, "
            "height?"
        ]
    order = np.arange(len(skeleton))
    as_found = _best(pairs, skeleton, order)
    notes = [
        f"the best OKS of a pose and a person is {as_found.max():.3f}, the median of all "
        f"{len(as_found)} people {np.median(as_found):.3f}, and poses count from {LEAST_OKS:g}"
    ]
    mirrored = _best(pairs, skeleton, skeleton.mirror_index)
    turned = _best(pairs, skeleton, order, flip_xy=True)
    for values, what in (
        (mirrored, "left and right are exchanged"),
        (turned, "x and y are exchanged"),
    ):
        if np.median(values) > max(LEAST_OKS, 2 * float(np.median(as_found))):
            notes.append(f"{what}: with both exchanged the median OKS is {np.median(values):.2f}")
    if len(notes) == 1 and as_found.max() < LEAST_OKS:
        notes.append(
            "if the poses look right when drawn (ppose infer), look at areas and sigmas; if not, "
            "at weights, skeleton and boxes"
        )
    return notes


def _best(
    pairs: list[tuple[Poses, list[Entry]]],
    skeleton: Skeleton,
    order: np.ndarray,
    flip_xy: bool = False,
) -> np.ndarray:
    """(P,) OKS of each person with the nearest pose of the image."""
    best = []
    for poses, people in pairs:
        truth = np.array([a["keypoints"] for a in people]).reshape(len(people), -1, 3)
        areas = np.array([a["area"] for a in people])
        joints = poses.keypoints[:, order, :2]
        joints = joints[..., ::-1] if flip_xy else joints
        best.append(oks(truth, joints, areas, skeleton.sigmas, truth[..., 2] > 0).max(1))
    return np.concatenate(best)
