"""From a picture to the network's input: where a crop lies, in training and at test time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ppose import geometry
from ppose.data.transforms import Transform, positive, warp, within
from ppose.registry import register
from ppose.structures import Sample


@dataclass(frozen=True)
class View:
    """One input of the network.

    Attributes:
        matrix: (3, 3) from the picture to the input.
        size_wh: of the input.
        content_wh: the part of it, from the corner, in which people are looked for; the rest is
            padding.
        border: grey level outside the picture.
    """

    matrix: np.ndarray
    size_wh: tuple[int, int]
    content_wh: tuple[int, int]
    border: int = 0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(h, w, 3) pixels of the input."""
        return warp(image, self.matrix, self.size_wh, self.border)


class Crop(ABC):
    """Base class of what `crop:` in a config may name: the inputs that a picture becomes.

    Attributes:
        uses_boxes: whether people are looked for in boxes (top-down) or everywhere (bottom-up).
        views_each: views of a region, whose maps are averaged.
    """

    uses_boxes: bool
    views_each: int = 1

    @abstractmethod
    def views(
        self, size_wh: tuple[int, int], boxes_xywh: np.ndarray | None, multiple: int
    ) -> list[tuple[View, ...]]:
        """The inputs of one picture.

        Args:
            size_wh: of the picture.
            boxes_xywh: (P, 4) boxes in the picture, if the crop uses boxes.
            multiple: what the sides of an input have to be multiples of.

        Returns:
            for each region its views, whose maps are averaged on the grid of the first.
        """


@register
class BoxCrop(Transform, Crop):
    """Top-down crop: the box, grown to the input's shape and padded, fills the input.

    Args:
        size_wh: width and height of the input in pixels.
        padding: growth of the box; 1.25 as published for all networks here.
        udp: unbiased geometry, see `geometry.pivot`.
    """

    augments = False
    uses_boxes = True

    def __init__(self, size_wh: tuple[int, int], padding: float = 1.25, udp: bool = False):
        self.size_wh = _size(size_wh)
        self.padding = positive("padding", padding)
        self.udp = udp

    def matrix(self, box_xywh: np.ndarray) -> np.ndarray:
        """(3, 3) matrix from the image to the input for one box (4,)."""
        box = geometry.fit_box(box_xywh, self.size_wh, self.padding)
        return geometry.box_to_input(box, self.size_wh, self.udp)

    def views(
        self, size_wh: tuple[int, int], boxes_xywh: np.ndarray | None, multiple: int
    ) -> list[tuple[View, ...]]:
        """One view of each box."""
        if boxes_xywh is None:
            raise ValueError("a crop of boxes needs boxes_xywh")
        return [(View(self.matrix(box), self.size_wh, self.size_wh),) for box in boxes_xywh]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return replace(
            sample,
            matrix=self.matrix(sample.box_xywh),
            size_wh=self.size_wh,
            pivot_xy=geometry.pivot(self.size_wh, self.udp),
        )


@register
class PictureCrop(Crop):
    """Bottom-up crop at test time: the whole picture, padded to the right and below.

    Args:
        size: length in pixels to which `side` of the picture is brought.
        side: "short" as HigherHRNet and MMPose, "height" as SimplePose, "long" to bound both.
        scales: factors of `size`; the maps of all of them are averaged on the finest grid.
        max_side: no side becomes longer, which bounds memory for panoramas.
        border: grey level of the padding in 0..255; that of `Warp` in training.
    """

    uses_boxes = False

    def __init__(
        self,
        size: int = 512,
        side: Literal["short", "height", "long"] = "short",
        scales: tuple[float, ...] = (1.0,),
        max_side: int = 2048,
        border: int = 0,
    ):
        if size < 1 or max_side < size:
            raise ValueError(f"expected 1 <= size <= max_side, found {size} and {max_side}")
        if not scales:
            raise ValueError("scales: expected at least one factor")
        self.size = size
        self.side = side
        self.scales = tuple(sorted((positive("scales", s) for s in scales), reverse=True))
        self.views_each = len(self.scales)
        self.max_side = max_side
        self.border = int(within("border", border, 0, 255))

    def views(
        self, size_wh: tuple[int, int], boxes_xywh: np.ndarray | None, multiple: int
    ) -> list[tuple[View, ...]]:
        """One region, the picture, in one view for each scale."""
        return [tuple(self._view(size_wh, scale, multiple) for scale in self.scales)]

    def _view(self, size_wh: tuple[int, int], scale: float, multiple: int) -> View:
        measured = {"short": min(size_wh), "height": size_wh[1], "long": max(size_wh)}[self.side]
        factor = min(scale * self.size / measured, self.max_side / max(size_wh))
        width, height = (max(round(side * factor), 1) for side in size_wh)
        padded = -(-width // multiple) * multiple, -(-height // multiple) * multiple
        return View(geometry.resizing(factor), padded, (width, height), self.border)


@register
class PictureFit(Transform):
    """Bottom-up crop in training: the whole picture in the middle of the input.

    Args:
        size_wh: width and height of the input in pixels.
    """

    augments = False

    def __init__(self, size_wh: tuple[int, int]):
        self.size_wh = _size(size_wh)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.image.shape[:2]
        matrix = geometry.letterbox((width, height), self.size_wh)
        return replace(
            sample,
            matrix=matrix,
            size_wh=self.size_wh,
            pivot_xy=geometry.pivot(self.size_wh, udp=True),
        )


@register
class CentreCrop(Transform):
    """Bottom-up crop in training: one person in the middle, the others where they are.

    Source: the training of SimplePose and OpenPose.

    Args:
        size_wh: width and height of the input in pixels.
        person_height: height of the person's box as part of the input's; 0.6 as published.
    """

    augments = False

    def __init__(self, size_wh: tuple[int, int], person_height: float = 0.6):
        self.size_wh = _size(size_wh)
        self.person_height = positive("person_height", person_height)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        x, y, width, height = (float(value) for value in sample.box_xywh)
        pivot = geometry.pivot(self.size_wh, udp=True)
        scale = geometry.scaling(self.person_height * self.size_wh[1] / max(height, 1.0))
        to_middle = geometry.translation(-x - width / 2, -y - height / 2)
        return replace(
            sample,
            matrix=geometry.translation(*pivot) @ scale @ to_middle,
            size_wh=self.size_wh,
            pivot_xy=pivot,
        )


def _size(size_wh: tuple[int, int]) -> tuple[int, int]:
    if min(size_wh) < 1:
        raise ValueError(f"size_wh has to be above 0, found {size_wh}")
    return size_wh
