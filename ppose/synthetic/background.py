"""Backgrounds: shared code of outdoor and indoor scenes, with anti-aliased drawing."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from ppose.synthetic.look import Colour

_SHIFT = 4


@dataclass(frozen=True)
class Background:
    """An empty scene.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        horizon: row of the horizon; indoors above the edge of the floor.
        floor: first row of the ground.
        sunny: hardness of shadows in 0..1.
    """

    image: np.ndarray
    horizon: float
    floor: float
    sunny: float


class Painter:
    """Draws anti-aliased shapes in units of the image height."""

    def __init__(self, rng: np.random.Generator, size_wh: tuple[int, int]):
        width, height = size_wh
        self.rng = rng
        self.image = np.empty((height, width, 3), np.uint8)
        self.unit = float(height)
        self.aspect = width / height

    def _fixed(self, points: ArrayLike) -> np.ndarray:
        return np.rint((np.asarray(points) * self.unit - 0.5) * 2**_SHIFT).astype(np.int32)

    def gradient(self, top: float, bottom: float, first: Colour, second: Colour) -> None:
        """Fills the rows from `top` to `bottom` with a vertical gradient."""
        low, high = round(top * self.unit), round(bottom * self.unit)
        share = np.linspace(0, 1, max(1, high - low))[:, None, None]
        rows = ((1 - share) * first + share * np.array(second)).astype(np.uint8)
        self.image[low:high] = cv2.resize(rows, (self.image.shape[1], len(rows)))

    def polygon(self, points: ArrayLike, colour: Colour) -> None:
        cv2.fillPoly(self.image, [self._fixed(points)], colour, cv2.LINE_AA, _SHIFT)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        x0, x1 = (round(x * self.unit) for x in (left, right))
        y0, y1 = (round(y * self.unit) for y in (top, bottom))
        if x1 > 0 and y1 > 0:
            self.image[max(0, y0) : y1, max(0, x0) : x1] = colour

    def disc(self, x: float, y: float, radius: float, colour: Colour, flat: float = 1.0) -> None:
        centre = tuple(int(v) for v in self._fixed(np.array([x, y])))
        axes = (int(radius * self.unit * 2**_SHIFT), int(flat * radius * self.unit * 2**_SHIFT))
        cv2.ellipse(self.image, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA, _SHIFT)

    def stroke(self, points: ArrayLike, width: float, colour: Colour) -> None:
        """Draws a line through (N, 2) points, at least one pixel wide."""
        thickness = max(1, round(width * self.unit))
        path = [self._fixed(points)]
        cv2.polylines(self.image, path, False, colour, thickness, cv2.LINE_AA, _SHIFT)

    def ridge(self, base: float, rise: float, waves: int, colour: Colour, bottom: float) -> None:
        """Fills the area below a smooth skyline: `waves` sines of height `rise` about `base`."""
        x = np.linspace(0, self.aspect, 40)
        u = self.rng.uniform
        y = np.full_like(x, base)
        for wave in range(1, waves + 1):
            y -= rise / wave * np.sin(x * wave * u(2, 5) + u(0, 6.3))
        corners = [[self.aspect, bottom], [0, bottom]]
        self.polygon(np.concatenate([np.stack([x, y], axis=1), corners]), colour)

    def texture(self, top: float, bottom: float, strength: float, cells: float) -> None:
        """Adds smooth noise to the rows from `top` to `bottom`, with `cells` per image height."""
        low, high = round(top * self.unit), round(bottom * self.unit)
        if high - low < 2:
            return
        width = self.image.shape[1]
        rows = max(2, round(cells * (bottom - top)))
        columns = max(2, round(cells * self.aspect * 0.6))
        grain = self.rng.integers(0, round(2 * strength) + 1, (rows, columns), np.uint8)
        grain = cv2.resize(grain, (width, high - low), interpolation=cv2.INTER_LINEAR)
        area = self.image[low:high]
        lifted = cv2.add(area, cv2.cvtColor(grain, cv2.COLOR_GRAY2RGB))
        self.image[low:high] = cv2.subtract(lifted, np.full(4, strength))


def tint(rng: np.random.Generator, colour: Colour, spread: float = 9) -> Colour:
    r, g, b = np.clip(np.add(colour, rng.normal(0, spread, 3)), 0, 255)
    return (float(r), float(g), float(b))


# Colours at zenith and horizon, and strength of the sun.
SKIES: list[tuple[Colour, Colour, float]] = [
    ((116, 172, 222), (214, 232, 242), 1.0),
    ((92, 150, 210), (196, 222, 238), 1.0),
    ((168, 184, 200), (222, 226, 228), 0.15),
    ((196, 200, 206), (232, 230, 226), 0.0),
    ((126, 146, 192), (248, 212, 182), 0.7),
    ((140, 190, 210), (250, 236, 206), 0.8),
]
