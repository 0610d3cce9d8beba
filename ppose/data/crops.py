"""Crops: transforms from an image to the network's input, in training and at test time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np

from ppose.config import register, renamed
from ppose.config.ranges import Grey, Length, Padding, Range, Side, Size
from ppose.data.transforms import Transform, warp
from ppose.structures import Sample, geometry

_Scale = Annotated[float, Range(above=0, most=16)]


@dataclass(frozen=True)
class View:
    """One input of the network.

    Attributes:
        matrix: (3, 3) from image pixels to input pixels.
        size_wh: width and height of the input.
        content_wh: width and height of the image's part of the input, from the top left corner;
            the rest is padding.
        border: grey level outside the image.
    """

    matrix: np.ndarray
    size_wh: tuple[int, int]
    content_wh: tuple[int, int]
    border: int = 0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(h, w, 3) input: the image warped by `matrix`."""
        return warp(image, self.matrix, self.size_wh, self.border)


class Crop(ABC):
    """Base class of the crops that `crop:` in a config can select.

    Attributes:
        uses_boxes: whether the input is a person's box (top-down) or the image (bottom-up).
        views_per_region: number of views per region, whose maps are averaged.
    """

    uses_boxes: bool
    views_per_region: int = 1

    @abstractmethod
    def views(
        self, size_wh: tuple[int, int], boxes_xywh: np.ndarray | None, multiple: int
    ) -> list[tuple[View, ...]]:
        """The network inputs for one image.

        Args:
            size_wh: width and height of the image.
            boxes_xywh: (P, 4) boxes in the image, if the crop uses boxes.
            multiple: width and height of an input must be multiples of this.

        Returns:
            the views of each region; their maps are averaged on the grid of the first view.
        """


@register
class BoxCrop(Transform, Crop):
    """Top-down crop: the box, expanded to the input's aspect ratio and padded, fills the input.

    Args:
        size_wh: width and height of the input in pixels.
        padding: scale factor of the box; 1.25 as published for all networks here.
        udp: unbiased data processing, see `geometry.pivot`.
    """

    augments = False
    stage = "crop"
    uses_boxes = True

    def __init__(self, size_wh: Size, padding: Padding = 1.25, udp: bool = False):
        self.size_wh = size_wh
        self.padding = padding
        self.udp = udp

    def matrix(self, box_xywh: np.ndarray) -> np.ndarray:
        """(3, 3) matrix from image to input pixels for one box (4,)."""
        box = geometry.fit_box(box_xywh, self.size_wh, self.padding)
        return geometry.box_to_input(box, self.size_wh, self.udp)

    def views(
        self, size_wh: tuple[int, int], boxes_xywh: np.ndarray | None, multiple: int
    ) -> list[tuple[View, ...]]:
        """One view per box."""
        if boxes_xywh is None:
            raise ValueError("BoxCrop needs boxes_xywh")
        return [(View(self.matrix(box), self.size_wh, self.size_wh),) for box in boxes_xywh]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return replace(
            sample,
            matrix=self.matrix(sample.box_xywh),
            size_wh=self.size_wh,
            pivot_xy=geometry.pivot(self.size_wh, self.udp),
        )


@register
@renamed("PictureCrop")
class ImageCrop(Crop):
    """Bottom-up crop at test time: the whole image, padded on the right and at the bottom.

    Args:
        size: length in pixels to which `side` of the image is resized.
        side: "short" as in HigherHRNet and MMPose, "height" as in SimplePose, "long" to bound
            both sides.
        scales: factors of `size`; the maps of all scales are averaged on the finest grid.
        max_side: maximum length of a side, which bounds memory for panoramas.
        border: grey level of the padding in 0..255; use the value of `Warp` in training.
    """

    uses_boxes = False

    def __init__(
        self,
        size: Side = 512,
        side: Literal["short", "height", "long"] = "short",
        scales: Annotated[tuple[_Scale, ...], Length(1, 16)] = (1.0,),
        max_side: Side = 2048,
        border: Grey = 0,
    ):
        if max_side < size:
            raise ValueError(f"max_side: expected at least the size, {size}, found {max_side}")
        self.size = size
        self.side = side
        self.scales = tuple(sorted(scales, reverse=True))
        self.views_per_region = len(self.scales)
        self.max_side = max_side
        self.border = border

    def views(
        self, size_wh: tuple[int, int], boxes_xywh: np.ndarray | None, multiple: int
    ) -> list[tuple[View, ...]]:
        """One region, the whole image, with one view per scale."""
        return [tuple(self._view(size_wh, scale, multiple) for scale in self.scales)]

    def _view(self, size_wh: tuple[int, int], scale: float, multiple: int) -> View:
        measured = {"short": min(size_wh), "height": size_wh[1], "long": max(size_wh)}[self.side]
        factor = min(scale * self.size / measured, self.max_side / max(size_wh))
        width, height = (max(round(side * factor), 1) for side in size_wh)
        padded = -(-width // multiple) * multiple, -(-height // multiple) * multiple
        return View(geometry.resizing(factor), padded, (width, height), self.border)


@register
@renamed("PictureFit")
class ImageFit(Transform):
    """Bottom-up crop in training: the whole image, centred in the input.

    Args:
        size_wh: width and height of the input in pixels.
    """

    augments = False
    stage = "crop"

    def __init__(self, size_wh: Size):
        self.size_wh = size_wh

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
    """Bottom-up crop in training: the image around one person, who is centred in the input.

    As in the training of SimplePose and OpenPose.

    Args:
        size_wh: width and height of the input in pixels.
        person_height: height of the person's box relative to the input's; 0.6 as published.
    """

    augments = False
    stage = "crop"

    def __init__(self, size_wh: Size, person_height: _Scale = 0.6):
        self.size_wh = size_wh
        self.person_height = person_height

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
