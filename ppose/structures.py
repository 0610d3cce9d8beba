"""What flows through ppose: a `Sample` into the network, `Poses` out of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ppose.data.outlines import Outline
    from ppose.skeleton import Skeleton


@dataclass
class Sample:
    """One picture on its way to the network, with what is known of the people in it.

    Transforms before `Warp` leave `image` as it is and only multiply `matrix`; `Warp` then moves
    image and keypoints together, and from there on they are in pixels of the network's input.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        box_xywh: (4,) float32 box of the first person, pixels of the original image.
        keypoints: (P, K, 3) float32 x, y, COCO visibility (0 unlabelled, 1 occluded, 2 visible).
        matrix: (3, 3) float64, pixels of the original image → pixels of the network's input.
        size_wh: width and height of the network's input; (0, 0) until a crop has set it.
        pivot_xy: point of the input about which scale, rotation and flip turn.
        meta: what identifies the sample: image_id, annotation id, file, box score.
        outlines: of everybody in the picture, where the data set gives them.
        people_mask: (H, W) uint8, 255 on people; None without outlines and until `Warp`.
        known_mask: (H, W) uint8, 0 where joints may be that nobody labelled; None likewise.
    """

    image: np.ndarray
    box_xywh: np.ndarray
    keypoints: np.ndarray
    matrix: np.ndarray = field(default_factory=lambda: np.eye(3))
    size_wh: tuple[int, int] = (0, 0)
    pivot_xy: tuple[float, float] = (0.0, 0.0)
    meta: dict[str, Any] = field(default_factory=dict)
    outlines: tuple[Outline, ...] = ()
    people_mask: np.ndarray | None = None
    known_mask: np.ndarray | None = None


@dataclass(frozen=True)
class Poses:
    """The people found in one image.

    Attributes:
        keypoints: (P, K, 3) float32 x, y in pixels of the image and the joint's score in 0..1.
            Every joint is there; thresholds belong to drawing.
        scores: (P,) float32 score of each person in 0..1.
        boxes_xywh: (P, 4) float32 box that each person was looked for in, or around its joints if
            no boxes were used.
        box_source: where the boxes came from, e.g. "ground truth" or a detector's file; an AP
            is comparable only with one from the same boxes.
        skeleton: names and order of the joints.
        image_id: id of the image in its data set, if it has one.
        file: the image's file, if it has one.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    boxes_xywh: np.ndarray
    box_source: str
    skeleton: Skeleton
    image_id: int | None = None
    file: Path | None = None

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
        """Nobody."""
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
        """The chosen people: an index, a slice, or an array of indices or booleans."""
        keep = np.atleast_1d(np.arange(len(self))[people])
        return replace(
            self,
            keypoints=self.keypoints[keep],
            scores=self.scores[keep],
            boxes_xywh=self.boxes_xywh[keep],
        )

    def __iter__(self) -> Iterator[Poses]:
        return (self[i] for i in range(len(self)))

    def joint(self, name: str) -> np.ndarray:
        """(P, 3) x, y, score of one joint by name, e.g. `poses.joint("left_wrist")`."""
        return self.keypoints[:, self.skeleton.index(name)]

    def draw(self, image: np.ndarray, *, min_score: float = 0.3) -> np.ndarray:
        """A copy of the (H, W, 3) uint8 RGB image with the people drawn on it."""
        from ppose.visualize import draw_poses

        return draw_poses(image, self, min_score=min_score)

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
