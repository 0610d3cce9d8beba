"""Canvas that records the person and body part of each pixel in addition to its colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np
from numpy.typing import ArrayLike

from ppose.synthetic.look import Colour

SUPERSAMPLING = 2
_SHIFT = 4

_ANGLES = np.arange(14) * (2 * np.pi / 14)
CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


class Part(IntEnum):
    """Parts of a figure that occlude each other and are shaded separately."""

    TORSO = 0
    NECK = 1
    HEAD = 2
    HAIR = 3
    HIPS = 4
    SKIRT = 5
    BAG = 6
    LEFT_EAR = 7
    RIGHT_EAR = 8
    LEFT_ARM = 9
    RIGHT_ARM = 10
    LEFT_FOREARM = 11
    RIGHT_FOREARM = 12
    LEFT_LEG = 13
    RIGHT_LEG = 14
    LEFT_SHIN = 15
    RIGHT_SHIN = 16
    LEFT_SHOE = 17
    RIGHT_SHOE = 18

    def of(self, side: int) -> Part:
        """The part on the given side (0 left, 1 right); call it on the left part of a pair."""
        return Part(self + side)


BACKGROUND = 255
PROP = 254
FLAT_PROP = 253


def label(person: int, part: Part) -> int:
    """Label of the pixels of a part of a person."""
    return person * len(Part) + part


@dataclass(frozen=True)
class Shape:
    """A convex shape or a line in a plane parallel to the image, in metres.

    Attributes:
        points: (N, 2), x to the right, y up; the shape is their convex hull.
        colour: RGB 0..255.
        part: a `Part`, `PROP` or `FLAT_PROP`.
        thickness: thickness of the line through the points; 0 for the filled hull.
    """

    points: np.ndarray
    colour: Colour
    part: int
    thickness: float = 0.0


def capsule(centres: np.ndarray, radii: ArrayLike, colour: Colour, part: int) -> Shape:
    """Convex hull of circles with (N, 2 or 3) centres; only x and y are used."""
    circles = np.multiply.outer(np.asarray(radii), CIRCLE)
    points = centres[:, None, :2] + circles
    return Shape(points.reshape(-1, 2), colour, part)


class Canvas:
    """Colours and labels at `SUPERSAMPLING` times the size of the image.

    The label is the fourth channel, so that one call draws both. Lines are not anti-aliased, which
    keeps the labels exact; downsampling the finished canvas smooths the edges.

    Args:
        background: (H, W, 3) uint8 RGB.
    """

    def __init__(self, background: np.ndarray):
        rgba = cv2.cvtColor(background, cv2.COLOR_RGB2RGBA)
        height, width = background.shape[:2]
        size_wh = (width * SUPERSAMPLING, height * SUPERSAMPLING)
        self.pixels = cv2.resize(rgba, size_wh, interpolation=cv2.INTER_NEAREST)

    def draw(
        self, shapes: Sequence[Shape], origin_xy: tuple[float, float], scale: float, person: int
    ) -> None:
        """Draws the shapes of a person in order, at `scale` pixels per metre."""
        self._draw(shapes, origin_xy, scale, person * len(Part))

    def draw_prop(
        self, shapes: Sequence[Shape], origin_xy: tuple[float, float], scale: float
    ) -> None:
        """Draws shapes whose part is `PROP` or `FLAT_PROP`."""
        self._draw(shapes, origin_xy, scale, 0)

    def _draw(
        self,
        shapes: Sequence[Shape],
        origin_xy: tuple[float, float],
        scale: float,
        first_label: int,
    ) -> None:
        if not shapes:
            return
        factor = SUPERSAMPLING * 2**_SHIFT
        centre = (SUPERSAMPLING - 1) / 2 * 2**_SHIFT
        points = np.concatenate([shape.points for shape in shapes])
        points = points * (scale * factor, -scale * factor) + np.multiply(origin_xy, factor)
        points = np.rint(points + centre).astype(np.int32)
        start = 0
        for shape in shapes:
            end = start + len(shape.points)
            own = points[start:end]
            start = end
            value = shape.part if shape.part >= FLAT_PROP else first_label + shape.part
            colour = (*shape.colour, value)
            if shape.thickness:
                width = max(1, round(shape.thickness * scale * SUPERSAMPLING))
                cv2.polylines(self.pixels, [own], False, colour, width, cv2.LINE_8, _SHIFT)
            else:
                hull = cv2.convexHull(own)
                cv2.fillConvexPoly(self.pixels, hull, colour, cv2.LINE_8, _SHIFT)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 RGB image and (H, W) uint8 labels."""
        height, width = (n // SUPERSAMPLING for n in self.pixels.shape[:2])
        small = cv2.resize(self.pixels, (width, height), interpolation=cv2.INTER_AREA)
        middle = SUPERSAMPLING // 2
        labels = self.pixels[middle::SUPERSAMPLING, middle::SUPERSAMPLING, 3]
        return cv2.cvtColor(small, cv2.COLOR_RGBA2RGB), np.ascontiguousarray(labels)
