"""Visualization: poses and heatmaps drawn on images, image grids, and saving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ppose.structures.skeleton import Skeleton
from ppose.utils.errors import PposeError
from ppose.utils.files import atomic_write

Colour = tuple[int, int, int]

# Orange and sky blue are distinguishable with any colour vision.
_COLOURS = {"left": (255, 140, 20), "right": (45, 165, 255), "middle": (60, 225, 165)}
_RIM = (255, 255, 255)
_OUTLINE = (16, 18, 26)
_BACKGROUND = (24, 26, 30)
_OPACITY = 0.85
# Opacity of the colour map where the heatmap is 0.
_MIN_MAP_OPACITY = 0.35
# Pixels; thinner lines would not be visible.
_MIN_THICKNESS = 0.3
# Steps of the golden ratio keep any number of hues apart.
_GOLDEN_RATIO = 0.6180339887
# Fractional bits of the coordinates that OpenCV draws with.
_SHIFT = 5


def draw_people(
    image: np.ndarray,
    keypoints: np.ndarray,
    skeleton: Skeleton,
    *,
    min_score: float = 0.3,
    track_ids: np.ndarray | None = None,
) -> np.ndarray:
    """Draws people on a copy of an image.

    The left side of the body is orange, the right side blue, the middle green. If the skeleton has
    no mirror pairs, each of its groups, such as a finger, has a colour, and what joins them is
    green. Line thickness is proportional to the size of the person; smaller people are drawn over
    larger ones. For people with a track id, all limbs have the colour of that id, and the id is
    drawn above them.

    Args:
        image: (H, W, 3) uint8 RGB.
        keypoints: (P, K, 3) x, y in pixels of the image and the score of each joint.
        skeleton: skeleton of the keypoints.
        min_score: joints with a lower score, and their limbs, are not drawn.
        track_ids: (P,) int; negative for people without a track.

    Raises:
        ValueError: the image is not (H, W, 3) uint8.
    """
    canvas = _checked(image).copy()
    size_wh = np.array(canvas.shape[1::-1])
    xy = keypoints[..., :2].astype(np.float64)
    seen = (keypoints[..., 2] >= min_score) & _near(xy, size_wh)
    thickness = _thickness(xy, seen, size_wh)
    joint_colours, limb_colours = _colours(skeleton)
    ids = np.full(len(keypoints), -1) if track_ids is None else track_ids
    for person in np.argsort(-thickness, kind="stable"):
        if not seen[person].any():
            continue
        one = ids[person]
        of_limbs = [track_colour(one)] * len(limb_colours) if one >= 0 else limb_colours
        _draw_person(
            *(canvas, xy[person], seen[person], skeleton.limb_index),
            *(thickness[person], joint_colours, of_limbs),
        )
        if one >= 0:
            joints = xy[person][seen[person]]
            _draw_label(canvas, joints, str(one), thickness[person], track_colour(one))
    return canvas


def track_colour(track_id: int) -> Colour:
    """RGB colour of a track; the hues of consecutive ids are far apart."""
    hue = int(180 * ((0.5 + track_id * _GOLDEN_RATIO) % 1))
    pixel = cv2.cvtColor(np.array([[[hue, 160, 255]]], np.uint8), cv2.COLOR_HSV2RGB)
    red, green, blue = pixel[0, 0].tolist()
    return red, green, blue


def draw_maps(image: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Overlays the pixelwise maximum of heatmaps on a copy of an image.

    Colours from 0, where the image is darkened, to 1: dark blue, violet, orange, bright yellow.

    Args:
        image: (H, W, 3) uint8 RGB.
        maps: (C, h, w) in 0..1, resized to the image; values are clipped, and NaN counts as 0.

    Raises:
        ValueError: image or maps have another shape or dtype.
    """
    if maps.ndim != 3 or 0 in maps.shape:
        raise ValueError(f"maps: expected (C, h, w), found {maps.shape}")
    height, width = _checked(image).shape[:2]
    highest = np.nan_to_num(maps.astype(np.float32)).max(0)
    heat = np.clip(cv2.resize(highest, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)
    colours = cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)
    opacity = (1 - _MIN_MAP_OPACITY) * np.sqrt(heat)[..., None] + _MIN_MAP_OPACITY
    mixed = opacity * colours[..., ::-1] + (1 - opacity) * image
    return np.rint(mixed).astype(np.uint8)


def draw_grid(
    images: Sequence[np.ndarray], columns: int = 4, *, width: int = 1280, gap: int = 4
) -> np.ndarray:
    """Image grid on a dark background; the images of a row are resized to the same height.

    Args:
        images: (H, W, 3) uint8 RGB each, of any sizes.
        columns: images per row.
        width: width of the grid in pixels.
        gap: pixels around each image.

    Raises:
        ValueError: no images, an image of another shape or dtype, or too many columns for `width`.
    """
    if not images or columns < 1:
        raise ValueError(
            f"expected at least one image and one column, found {len(images)} images and "
            f"{columns} columns"
        )
    columns = min(columns, len(images))
    room = width - gap * (columns + 1)
    if room < columns:
        raise ValueError(f"width: {width} pixels are too few for {columns} columns")
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    return np.concatenate(
        [_row(row, columns, room, width, gap) for row in rows]
        + [np.full((gap, width, 3), _BACKGROUND, np.uint8)]
    )


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Writes an (H, W, 3) uint8 RGB image in the format of the file extension.

    Creates the folder; the file is whole or not there. Raises PposeError for an extension that
    OpenCV cannot write or an image that is too large for the format, WriteError if the file cannot
    be written.
    """
    path = Path(path)
    # Not of the whole name, which need not be UTF-8.
    if not (path.suffix.isascii() and cv2.haveImageWriter("image" + path.suffix)):
        raise PposeError(
            f"{path}: images cannot be written as '{path.suffix}'; use .jpg, .png or .webp"
        )
    height, width = _checked(image).shape[:2]
    try:
        written, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        written = False
    if not written:
        raise PposeError(
            f"{path}: an image of {width} by {height} pixels cannot be written as "
            f"'{path.suffix}'; use .png"
        )
    with atomic_write(path, sync=False) as partial:
        partial.write_bytes(encoded.tobytes())


def _near(xy: np.ndarray, size_wh: np.ndarray) -> np.ndarray:
    """Mask of the points that are finite and within 1.5 image sizes of the centre."""
    return (np.abs(xy - size_wh / 2) < 1.5 * size_wh.max()).all(-1)


def _thickness(xy: np.ndarray, seen: np.ndarray, size_wh: np.ndarray) -> np.ndarray:
    """(P,) line width, proportional to each person's extent inside the image."""
    inside = np.clip(xy, 0, size_wh - 1)
    low = np.where(seen[..., None], inside, np.inf).min(1)
    high = np.where(seen[..., None], inside, -np.inf).max(1)
    extent = np.linalg.norm(np.maximum(high - low, 0), axis=-1)
    return np.clip(extent / 50, _MIN_THICKNESS, max(2.0, size_wh.max() / 90))


def _draw_person(
    canvas: np.ndarray,
    xy: np.ndarray,
    seen: np.ndarray,
    limb_index: np.ndarray,
    thickness: float,
    joint_colours: Sequence[Colour],
    limb_colours: Sequence[Colour],
) -> None:
    outline = min(0.5 + thickness / 8, 0.45 * thickness)
    joints = np.flatnonzero(seen).tolist()
    limbs = [
        (xy[a], xy[b], colour)
        for (a, b), colour in zip(limb_index, limb_colours, strict=True)
        if seen[a] and seen[b]
    ]
    corner, part = _window(canvas, xy[joints], 2 * thickness + outline + 2)
    pen = _Pen(part, corner, thickness)
    for a, b, _ in limbs:
        pen.line(a, b, thickness / 2 + outline, _OUTLINE)
    for a, b, colour in limbs:
        pen.line(a, b, thickness / 2, colour)
    pen.fade(_OPACITY)
    radii = _disc_radii(xy[joints], thickness)
    for joint, radius in zip(joints, radii, strict=True):
        pen.disc(xy[joint], radius + outline, _OUTLINE)
    for joint, radius in zip(joints, radii, strict=True):
        pen.disc(xy[joint], radius, _RIM)
        pen.disc(xy[joint], 0.68 * radius, joint_colours[joint])
    pen.finish()


def _draw_label(
    canvas: np.ndarray,
    joints: np.ndarray,
    text: str,
    thickness: float,
    colour: Colour,
) -> None:
    """Draws dark text on a coloured background above a person, inside the image."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, float(np.clip(thickness / 6, 0.4, 2.0))
    strokes = max(1, round(1.6 * scale))
    (width, height), below = cv2.getTextSize(text, font, scale, strokes)
    highest = joints[joints[:, 1].argmin()]
    room = np.array(canvas.shape[1::-1]) - (width + 4, height + below + 2)
    corner = highest - (width / 2 + 2, 4 * thickness + height + below + 2)
    left, top = np.clip(np.rint(corner), 0, np.maximum(room, 0)).astype(int).tolist()
    bottom = (left + width + 4, top + height + below + 2)
    cv2.rectangle(canvas, (left, top), bottom, colour, -1)
    cv2.putText(
        canvas, text, (left + 2, top + height + 2), font, scale, _OUTLINE, strokes, cv2.LINE_AA
    )


class _Pen:
    """Anti-aliased drawing on a region of an image, at up to 8 times its resolution for thin lines.

    Args:
        part: (h, w, 3) view of the region, which `finish` writes to.
        corner: (2,) x, y of the region in the image.
        thickness: line thickness in pixels, which determines the resolution.
    """

    def __init__(self, part: np.ndarray, corner: np.ndarray, thickness: float):
        self.part = part
        self.corner = corner
        self.zoom = int(np.clip(np.ceil(8 / thickness), 1, 8))
        self.before = part.repeat(self.zoom, 0).repeat(self.zoom, 1)
        self.layer = self.before.copy()

    def line(self, a: np.ndarray, b: np.ndarray, radius: float, colour: Colour) -> None:
        """Draws a line with round ends."""
        angle = np.arctan2(*(b - a)[::-1])
        half = np.linspace(-np.pi / 2, np.pi / 2, 12)
        turn = np.concatenate([angle + np.pi + half, angle + half])
        self._fill(np.repeat([a, b], len(half), axis=0), turn, radius, colour)

    def disc(self, centre: np.ndarray, radius: float, colour: Colour) -> None:
        """Draws a filled circle."""
        self._fill(centre, np.linspace(0, 2 * np.pi, 32, endpoint=False), radius, colour)

    def fade(self, opacity: float) -> None:
        """Blends everything drawn so far with the image."""
        self.layer = cv2.addWeighted(self.layer, opacity, self.before, 1 - opacity, 0)

    def finish(self) -> None:
        """Writes the drawing to the image."""
        height, width = self.part.shape[:2]
        self.part[:] = cv2.resize(self.layer, (width, height), interpolation=cv2.INTER_AREA)

    def _fill(
        self,
        centres: np.ndarray,
        angles: np.ndarray,
        radius: float,
        colour: Colour,
    ) -> None:
        points = centres + radius * np.stack([np.cos(angles), np.sin(angles)], -1)
        # Pixel centres are integers at either resolution.
        points = (points - self.corner + 0.5) * self.zoom - 0.5
        cv2.fillConvexPoly(self.layer, _fixed(points), colour, cv2.LINE_AA, _SHIFT)


def _colours(skeleton: Skeleton) -> tuple[list[Colour], list[Colour]]:
    """Colours of the joints and of the limbs."""
    sides = skeleton.sides
    if {*sides} != {"middle"}:
        common = [_common_side(sides[a], sides[b]) for a, b in skeleton.limb_index]
        return [_COLOURS[side] for side in sides], [_COLOURS[side] for side in common]
    joints, limbs = (
        [track_colour(group) if group >= 0 else _COLOURS["middle"] for group in groups.tolist()]
        for groups in skeleton.groups
    )
    return joints, limbs


def _common_side(a: str, b: str) -> str:
    """The side of a limb; a joint in the middle belongs to either side."""
    sides = {a, b} - {"middle"}
    return sides.pop() if len(sides) == 1 else "middle"


def _disc_radii(xy: np.ndarray, thickness: float) -> np.ndarray:
    """(N,) radii of discs that do not cover their neighbours, such as in the face."""
    distance = np.linalg.norm(xy[:, None] - xy, axis=-1)
    np.fill_diagonal(distance, np.inf)
    return np.clip(0.4 * distance.min(1), 0.6 * thickness, 1.1 * thickness)


def _window(canvas: np.ndarray, points: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Corner and view of the image region around some points."""
    size_wh = np.array(canvas.shape[1::-1])
    low = np.clip(np.floor(points.min(0) - margin), 0, size_wh - 1).astype(int)
    high = np.clip(np.ceil(points.max(0) + margin) + 1, low + 1, size_wh).astype(int)
    return low, canvas[low[1] : high[1], low[0] : high[0]]


def _fixed(values: np.ndarray | float) -> np.ndarray:
    return np.rint(np.multiply(values, 1 << _SHIFT)).astype(np.int32)


def _row(images: Sequence[np.ndarray], columns: int, room: int, width: int, gap: int) -> np.ndarray:
    """One row of the grid with a gap above; a partial row has the height of a full one."""
    aspects = np.array([_checked(image).shape[1] / image.shape[0] for image in images])
    height = min(room / (aspects.mean() * columns), width)
    order = np.arange(len(images))
    ends = np.maximum(np.rint(np.cumsum(aspects) * height).astype(int), 1)
    # At least one pixel per image, and all images within the row.
    ends = np.minimum(np.maximum.accumulate(ends - order) + order, room - order[::-1])
    strip = np.full((gap + max(round(height), 1), width, 3), _BACKGROUND, np.uint8)
    for image, start, end, gaps in zip(
        images, [0, *ends[:-1]], ends, gap * (order + 1), strict=True
    ):
        cell = strip[gap:, gaps + start : gaps + end]
        method = cv2.INTER_AREA if image.shape[0] > height else cv2.INTER_LINEAR
        cell[:] = cv2.resize(image, cell.shape[1::-1], interpolation=method)
    return strip


def _checked(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image: expected (H, W, 3) uint8 RGB, found {image.shape} {image.dtype}")
    return image
