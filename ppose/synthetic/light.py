"""Lighting of a flat drawing: shading, shadows on the ground, and camera effects."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np

from ppose.synthetic.canvas import BACKGROUND, FLAT_PROP, PROP, Part, label

# Radius in metres of the rounded edge of a part.
_ROUNDNESS = {
    Part.TORSO: 0.11,
    Part.HIPS: 0.1,
    Part.SKIRT: 0.1,
    Part.HEAD: 0.07,
    Part.HAIR: 0.07,
    Part.BAG: 0.06,
}
_LIMB_ROUNDNESS = 0.05


@dataclass(frozen=True)
class Light:
    """The light of a scene.

    Attributes:
        direction: (3,) unit vector to the light: right, down, towards the camera.
        contrast: 0 for flat light, about 0.5 for strong light.
        shadow: darkness of shadows on the ground in 0..1.
        shadow_shear: shift of a shadow to the right per metre of height, in metres.
        shadow_length: height of a shadow in the image relative to the person's; negative falls
            towards the camera.
        gains: (3,) factors of R, G, B.
        gamma: exponent of the final tone curve.
    """

    direction: np.ndarray
    contrast: float
    shadow: float
    shadow_shear: float
    shadow_length: float
    gains: np.ndarray
    gamma: float

    @classmethod
    def random(cls, rng: np.random.Generator, sunny: float) -> Light:
        """Light from above; `sunny` 0..1 makes shadows hard and dark."""
        u = rng.uniform
        across = u(-0.8, 0.8)
        direction = np.array([across, -u(0.45, 0.9), u(0.5, 0.9)])
        warm = rng.normal(0, 0.04)
        return cls(
            direction=direction / np.linalg.norm(direction),
            contrast=u(0.3, 0.5),
            shadow=0.2 + 0.22 * sunny,
            shadow_shear=-across * u(0.3, 1.0),
            shadow_length=u(-0.25, 0.3),
            gains=u(0.9, 1.07) * np.array([1 + warm, 1.0, 1 - warm]),
            gamma=u(0.88, 1.16),
        )


def roundness(scales: list[float], prop_scale: float) -> np.ndarray:
    """(256,) float32 radius in pixels of the rounded edge of each label.

    Args:
        scales: pixels per metre of each person.
        prop_scale: pixels per metre of props.
    """
    table = np.full(256, 1.0, np.float32)
    for person, scale in enumerate(scales):
        for part in Part:
            table[label(person, part)] = _ROUNDNESS.get(part, _LIMB_ROUNDNESS) * scale
    table[PROP] = 0.07 * prop_scale
    table[FLAT_PROP] = 0.02 * prop_scale
    return np.maximum(table, 1.0)


def relief(labels: np.ndarray, radius: np.ndarray, light: Light) -> np.ndarray:
    """(H, W) float32 brightness that makes each part of a flat drawing look round.

    The distance to the nearest edge between labels is inflated to a quarter circle, and the
    resulting surface has Lambertian shading ("inflation" as in Johnston, Lumo, 2002).

    Args:
        labels: (H, W) uint8 label of each pixel.
        radius: (256,) from `roundness`.
        light: its direction and contrast are used.
    """
    brightness = np.ones(labels.shape, np.float32)
    x, y, width, height = cv2.boundingRect((labels != BACKGROUND).view(np.uint8))
    if width:
        area = slice(y, y + height), slice(x, x + width)
        # Smooths the edges of the labels, which are not anti-aliased.
        sigma = max(1.0, len(labels) / 200)
        brightness[area] = _relief(labels[area], radius, light, sigma)
    return brightness


def _relief(labels: np.ndarray, radius: np.ndarray, light: Light, sigma: float) -> np.ndarray:
    edges = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    inside = (edges == 0).view(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    curve = cv2.LUT(labels, radius)
    inner = np.maximum(1 - (distance + 0.5) / curve, 0)
    rise = cv2.sqrt(1 - inner * inner)
    height = cv2.GaussianBlur(rise * curve, (2 * ceil(2 * sigma) + 1,) * 2, sigma)
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=1 / 8)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=1 / 8)
    right, down, front = (float(v) for v in light.direction)
    facing = cv2.addWeighted(slope_x, -right, slope_y, -down, front)
    facing /= cv2.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    crease = cv2.addWeighted(np.maximum(facing, -0.2), 1.0, rise, 0.12, -0.12 - front)
    crease *= light.contrast
    return 1 + crease * (labels != BACKGROUND)


def shadows(
    labels: np.ndarray,
    people: list[tuple[tuple[float, float], float]],
    props: list[tuple[tuple[float, float], float]],
    floor: float,
    light: Light,
) -> np.ndarray:
    """(H, W) float32 brightness of the ground; 1 without shadow.

    Each silhouette is sheared onto the ground about its ground point, with a soft contact shadow
    below each person and prop.

    Args:
        labels: (H, W) uint8.
        people, props: ground point (x, y) and pixels per metre of each.
        floor: first row of the ground.
        light: its shadow fields are used.
    """
    height, width = labels.shape
    cast = np.zeros((height, width), np.uint8)
    spots = np.zeros((height, width), np.uint8)
    shear, length = light.shadow_shear, light.shadow_length
    for person, ((_, y), _) in enumerate(people):
        first = label(person, Part.TORSO)
        body = cv2.inRange(labels, first, first + len(Part) - 1)
        matrix = np.array([[1.0, -shear, shear * y], [0.0, length, y * (1 - length)]])
        cv2.max(cast, cv2.warpAffine(body, matrix, (width, height)), dst=cast)
    for (x, y), scale in people + props:
        axes = (max(1, round(0.3 * scale)), max(1, round(0.07 * scale)))
        cv2.ellipse(spots, (round(x), round(y)), axes, 0, 0, 360, 255, -1)
    blur = height / 160
    soft = cv2.GaussianBlur(cast, (0, 0), blur) * np.float32(light.shadow / 255)
    contact = cv2.GaussianBlur(spots, (0, 0), 1.5 * blur) * np.float32(0.3 / 255)
    dark = np.maximum(soft, contact)
    dark[: max(0, round(floor))] = 0
    dark[labels != BACKGROUND] = 0
    return 1 - dark


def expose(
    image: np.ndarray,
    brightness: np.ndarray,
    light: Light,
    blur: float,
    noise: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Applies lighting and camera effects: tone curve, blur and noise.

    Args:
        image: (H, W, 3) uint8 RGB.
        brightness: (H, W) float32 factors.
        light: its gains and gamma are used.
        blur: standard deviation in pixels; no blur below 0.2.
        noise: standard deviation in grey levels.
        rng: source of the noise.
    """
    lit = cv2.multiply(image, cv2.merge([brightness] * 3), dtype=cv2.CV_8U)
    ramp = np.arange(256) / 255
    curves = np.clip(ramp[:, None] ** light.gamma * light.gains * 255, 0, 255)
    lit = cv2.LUT(lit, np.rint(curves).astype(np.uint8)[None])
    if blur >= 0.2:
        lit = cv2.GaussianBlur(lit, (0, 0), blur)
    # The sum of two uniform bytes approximates a normal distribution and is much faster to draw.
    grain = rng.integers(0, 256, (2, *image.shape[:2]), np.uint8).astype(np.float32)
    grain = (grain[0] + grain[1] - 255) * np.float32(noise / 104.5)
    return cv2.add(lit, cv2.merge([grain] * 3), dtype=cv2.CV_8U)
