"""Poses: the people detected in one image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ppose.structures.skeleton import Skeleton
from ppose.structures.visualize import draw_people


@dataclass(frozen=True)
class Poses:
    """The people detected in one image.

    Attributes:
        keypoints: (P, K, 3) float32 x, y in pixels of the image and the joint's score in 0..1.
            No joint is left out; thresholds are applied when drawing.
        scores: (P,) float32 score of each person in 0..1.
        boxes_xywh: (P, 4) float32 input box of each person (top-down), or the box around its joints
            (bottom-up).
        box_source: where the boxes came from, e.g. "ground truth" or a detector's file; APs are
            only comparable if the boxes are the same.
        skeleton: names and order of the joints.
        image_id: id of the image in its dataset, or None.
        category_ids: (P,) int64 category of each person in its dataset, or None.
        file: file of the image, or None.
        image: (H, W, 3) uint8 RGB pixels of the image if they were requested, or None.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    boxes_xywh: np.ndarray
    box_source: str
    skeleton: Skeleton
    image_id: int | None = None
    file: Path | None = None
    image: np.ndarray | None = field(default=None, repr=False)
    category_ids: np.ndarray | None = None

    def __post_init__(self) -> None:
        people = len(self.keypoints)
        wanted = {
            "keypoints": (people, len(self.skeleton), 3),
            "scores": (people,),
            "boxes_xywh": (people, 4),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: expected {shape}, found {getattr(self, name).shape}")

    @classmethod
    def empty(cls, skeleton: Skeleton, **about: Any) -> Poses:
        """Poses of no people."""
        return cls(
            keypoints=np.zeros((0, len(skeleton), 3), np.float32),
            scores=np.zeros(0, np.float32),
            boxes_xywh=np.zeros((0, 4), np.float32),
            box_source=about.pop("box_source", "none"),
            skeleton=skeleton,
            **about,
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, people: Any) -> Poses:
        """Selects people by an index, a slice, or an array of indices or booleans."""
        keep = np.atleast_1d(np.arange(len(self))[people])
        return replace(
            self,
            keypoints=self.keypoints[keep],
            scores=self.scores[keep],
            boxes_xywh=self.boxes_xywh[keep],
            category_ids=None if self.category_ids is None else self.category_ids[keep],
        )

    def __iter__(self) -> Iterator[Poses]:
        return (self[i] for i in range(len(self)))

    def joint(self, name: str) -> np.ndarray:
        """(P, 3) x, y, score of the named joint, e.g. `poses.joint("left_wrist")`."""
        return self.keypoints[:, self.skeleton.index(name)]

    def draw(
        self, image: np.ndarray, *, min_score: float = 0.3, track_ids: np.ndarray | None = None
    ) -> np.ndarray:
        """Draws the people on a copy of the (H, W, 3) uint8 RGB image.

        Args:
            image: see above.
            min_score, track_ids: see `draw_people`.
        """
        return draw_people(
            image, self.keypoints, self.skeleton, min_score=min_score, track_ids=track_ids
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON."""
        return {
            "image": None if self.file is None else str(self.file),
            "image_id": self.image_id,
            "box_source": self.box_source,
            "people": [
                {
                    "box_xywh": _rounded(box),
                    "score": _rounded(score, 5),
                    "keypoints": _rounded(keypoints),
                }
                for box, score, keypoints in zip(
                    self.boxes_xywh, self.scores, self.keypoints, strict=True
                )
            ],
        }


def _rounded(values: np.ndarray, digits: int = 3) -> Any:
    return np.round(values.astype(np.float64), digits).tolist()
