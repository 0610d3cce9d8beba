"""Rendering a scene: an image of synthetic people with all annotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ppose.synthetic import light as lighting
from ppose.synthetic import props
from ppose.synthetic.background import Background
from ppose.synthetic.body import Body
from ppose.synthetic.canvas import Canvas, Part, Shape, label
from ppose.synthetic.figure import SHOWS, Figure, make_figure
from ppose.synthetic.indoors import indoors
from ppose.synthetic.look import CLOTH, Look
from ppose.synthetic.outdoors import outdoors
from ppose.synthetic.postures import random_pose

Difficulty = Literal["easy", "group", "normal", "hard"]

MIN_SIZE = 64
MAX_SIZE = 4096


@dataclass(frozen=True)
class Settings:
    """Parameters of a difficulty.

    Attributes:
        people: probabilities of 1, 2, … people in an image.
        occluder: probability of an object in front of a person.
        truncated: probability that a person is cut off at the image border.
        tries: positions tried for each person; the one farthest from others is used.
        height: minimum and maximum height of the nearest person relative to the image height.
        farthest: scale of the farthest person relative to the nearest.
        blur: maximum standard deviation in pixels, for an image height of 240.
        noise: maximum standard deviation in grey levels.
    """

    people: tuple[float, ...]
    occluder: float
    truncated: float
    tries: int
    height: tuple[float, float]
    farthest: float
    blur: float
    noise: float


SETTINGS: dict[Difficulty, Settings] = {
    "easy": Settings((0.7, 0.3), 0.0, 0.0, 12, (0.6, 0.9), 0.75, 0.3, 2.0),
    "group": Settings((0.0, 0.4, 0.35, 0.25), 0.0, 0.0, 12, (0.5, 0.85), 0.65, 0.3, 2.0),
    "normal": Settings(
        (0.36, 0.28, 0.18, 0.1, 0.05, 0.03), 0.2, 0.08, 8, (0.5, 0.92), 0.6, 0.6, 3.5
    ),
    "hard": Settings((0.1, 0.2, 0.2, 0.2, 0.15, 0.15), 0.6, 0.25, 2, (0.4, 1.3), 0.35, 1.4, 10.0),
}
MAX_PEOPLE = 6


@dataclass(frozen=True)
class Scene:
    """One rendered image with P visible people, the nearest last.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        keypoints: (P, 17, 3) float32 x, y, COCO visibility; x = y = 0 where it is 0.
        masks: (P, H, W) bool, the visible pixels of each person.
        boxes_xywh: (P, 4) float32 bounding boxes of the masks.
        yaw: (P,) float32 degrees in -180..180: 0 faces the camera, 90 the right image border.
        poses: name of each person's pose.
        jpeg_quality: quality for saving the image.
    """

    image: np.ndarray
    keypoints: np.ndarray
    masks: np.ndarray
    boxes_xywh: np.ndarray
    yaw: np.ndarray
    poses: tuple[str, ...]
    jpeg_quality: int


@dataclass(frozen=True)
class _Placed:
    """A figure or prop at a position in the image."""

    shapes: list[Shape]
    xy: tuple[float, float]
    scale: float
    figure: Figure | None = None


def check_size(size_wh: tuple[int, int]) -> None:
    """Raises ValueError for an unsupported image size."""
    if not all(MIN_SIZE <= n <= MAX_SIZE for n in size_wh):
        raise ValueError(
            f"size: expected width and height of {MIN_SIZE}..{MAX_SIZE} pixels, "
            f"found {size_wh[0]}x{size_wh[1]}"
        )


def render_scene(
    rng: np.random.Generator,
    size_wh: tuple[int, int] = (320, 240),
    difficulty: Difficulty = "normal",
    people: int | None = None,
) -> Scene:
    """Renders people in front of a background.

    Args:
        rng: the only source of randomness; the same state gives the same image.
        size_wh: width and height of the image, each in 64..4096.
        difficulty: controls crowding, occlusion, truncation, blur and noise.
        people: number of people, 1..6; None chooses it at random.

    Raises:
        ValueError: an argument is out of range.
    """
    check_size(size_wh)
    if difficulty not in SETTINGS:
        raise ValueError(f"difficulty: expected {', '.join(SETTINGS)}; found '{difficulty}'")
    if people is not None and not 1 <= people <= MAX_PEOPLE:
        raise ValueError(f"people: expected 1..{MAX_PEOPLE} or None, found {people}")
    settings = SETTINGS[difficulty]
    if people is None:
        people = int(rng.choice(len(settings.people), p=settings.people)) + 1
    inside = rng.random() < 0.4
    background = (indoors if inside else outdoors)(rng, size_wh)
    standing = _layout(rng, size_wh, background, settings, people)
    if rng.random() < settings.occluder:
        standing.append(_occluder(rng, standing, size_wh, inside))
    standing.sort(key=lambda placed: placed.scale)

    canvas = Canvas(background.image)
    crowd: list[_Placed] = []
    for placed in standing:
        if placed.figure is None:
            canvas.draw_prop(placed.shapes, placed.xy, placed.scale)
        else:
            canvas.draw(placed.shapes, placed.xy, placed.scale, len(crowd))
            crowd.append(placed)
    flat, labels = canvas.finish()
    image = _apply_light(rng, flat, labels, standing, background, settings)
    return _scene(image, labels, crowd, jpeg_quality=int(rng.integers(82, 96)))


def _layout(
    rng: np.random.Generator,
    size_wh: tuple[int, int],
    background: Background,
    settings: Settings,
    people: int,
) -> list[_Placed]:
    """Places people on the ground, smaller with distance."""
    width, height = size_wh
    u = rng.uniform
    nearest = height * u(*settings.height) / 1.75
    if people > 2:
        nearest *= 0.92
    foot = height * (u(1.0, 1.35) if rng.random() < settings.truncated else u(0.86, 0.97))
    camera_height = max(0.35, (foot - background.horizon) / nearest)
    # Nobody is placed behind the wall.
    least = max(
        settings.farthest,
        1.08 * (background.floor - background.horizon) / (foot - background.horizon),
    )
    placed: list[_Placed] = []
    taken: list[tuple[float, float]] = []
    for i in range(people):
        scale = nearest * (1.0 if i == 0 else u(min(least, 1.0), 1.0))
        distance = 1.25 * height / scale
        pitch = np.rad2deg(np.arctan2(camera_height - 0.9, distance))
        figure = _figure(rng, float(np.clip(pitch, -4, 14)))
        reach = figure.joints[:, 0] * scale
        x = _free_position(rng, width, reach, taken, settings)
        taken.append((x + reach.min(), x + reach.max()))
        y = background.horizon + camera_height * scale
        placed.append(_Placed(figure.shapes, (x, y), scale, figure))
    return placed


def _free_position(
    rng: np.random.Generator,
    width: int,
    reach: np.ndarray,
    taken: list[tuple[float, float]],
    settings: Settings,
) -> float:
    """The random position with the largest gap to the people placed before."""
    low, high = -reach.min() + 0.03 * width, 0.97 * width - reach.max()
    if rng.random() < settings.truncated:
        side = 1 if rng.random() < 0.5 else -1
        edge = 0.0 if side > 0 else width
        return float(edge + side * rng.uniform(-0.15, 0.3) * np.ptp(reach))
    if low > high:
        return width / 2
    tries = rng.uniform(low, high, settings.tries)
    gaps = [
        min((max(x + reach.min() - b, a - x - reach.max()) for a, b in taken), default=0.0)
        for x in tries
    ]
    return float(tries[int(np.argmax(gaps))])


def _figure(rng: np.random.Generator, pitch: float) -> Figure:
    views = ((0.0, 25.0), (0.0, 60.0), (90.0, 22.0), (-90.0, 22.0), (180.0, 35.0))
    middle, spread = views[rng.choice(len(views), p=(0.36, 0.16, 0.14, 0.14, 0.2))]
    yaw = (middle + rng.uniform(-spread, spread) + 180) % 360 - 180
    body, pose = Body.random(rng), random_pose(rng)
    look = Look.random(rng, body.child)
    if pose.name == "lie":
        yaw = float(rng.choice([-90, 90]) + rng.uniform(-30, 30))
    head_turn = (rng.normal(2, 6), rng.normal(0, 16), rng.normal(0, 4))
    r, g, b = 0.6 * CLOTH[rng.integers(len(CLOTH))] + 60
    return make_figure(body, pose, look, yaw, pitch, head_turn, (r, g, b))


def _occluder(
    rng: np.random.Generator, people: list[_Placed], size_wh: tuple[int, int], inside: bool
) -> _Placed:
    """A prop slightly nearer than a random person, with a random sideways offset."""
    kinds = props.INDOOR if inside else props.OUTDOOR
    person = people[rng.integers(len(people))]
    nearer = rng.uniform(1.03, 1.12)
    x = person.xy[0] + rng.uniform(-0.45, 0.45) * person.scale
    y = person.xy[1] + (nearer - 1) * 0.8 * person.scale
    return _Placed(kinds[rng.integers(len(kinds))](rng), (x, y), person.scale * nearer)


def _apply_light(
    rng: np.random.Generator,
    flat: np.ndarray,
    labels: np.ndarray,
    standing: list[_Placed],
    background: Background,
    settings: Settings,
) -> np.ndarray:
    lamp = lighting.Light.random(rng, background.sunny)
    people = [(placed.xy, placed.scale) for placed in standing if placed.figure]
    objects = [(placed.xy, placed.scale) for placed in standing if not placed.figure]
    scales = [scale for _, scale in people]
    radius = lighting.roundness(scales, max(scales))
    brightness = lighting.relief(labels, radius, lamp)
    brightness *= lighting.shadows(labels, people, objects, background.floor, lamp)
    blur = rng.uniform(0, settings.blur) * len(flat) / 240
    noise = rng.uniform(0.5, settings.noise)
    return lighting.expose(flat, brightness, lamp, blur, noise, rng)


def _scene(image: np.ndarray, labels: np.ndarray, crowd: list[_Placed], jpeg_quality: int) -> Scene:
    """Derives masks and visibility from the labels; drops people who are almost fully hidden."""
    height, width = labels.shape
    least = 0.0006 * width * height
    kept, masks = [], []
    keypoints = np.zeros((len(crowd), SHOWS.shape[0], 3), np.float32)
    for person, placed in enumerate(crowd):
        keypoints[person] = _keypoints(labels, person, placed)
        first = label(person, Part.TORSO)
        mask = (labels >= first) & (labels < first + len(Part))
        if mask.sum() >= least and (keypoints[person, :, 2] == 2).sum() >= 3:
            kept.append(person)
            masks.append(mask)
    figures = [crowd[person].figure for person in kept]
    return Scene(
        image=image,
        keypoints=keypoints[kept],
        masks=np.array(masks, bool).reshape(-1, height, width),
        boxes_xywh=np.array([_box(mask) for mask in masks], np.float32).reshape(-1, 4),
        yaw=np.array([f.yaw for f in figures if f], np.float32),
        poses=tuple(f.pose for f in figures if f),
        jpeg_quality=jpeg_quality,
    )


def _keypoints(labels: np.ndarray, person: int, placed: _Placed) -> np.ndarray:
    """(17, 3) joints of one person in the image."""
    figure = placed.figure
    assert figure is not None
    height, width = labels.shape
    x = placed.xy[0] + placed.scale * figure.joints[:, 0]
    y = placed.xy[1] - placed.scale * figure.joints[:, 1]
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    shown = labels[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)].astype(int)
    part = shown - label(person, Part.TORSO)
    own = (part >= 0) & (part < len(Part))
    joints = np.arange(len(part))
    seen = own & SHOWS[joints, np.where(own, part, 0)] & ~figure.turned_away
    visibility = np.where(inside, 1 + seen, 0)
    xy = np.stack([np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)], axis=1)
    return np.column_stack([xy * inside[:, None], visibility])


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
