"""Draws poses on pictures, and puts pictures beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ppose.errors import PposeError
from ppose.skeleton import Skeleton
from ppose.structures import Poses

# Orange and sky blue are told apart with any colour vision.
_COLOURS = {"left": (255, 140, 20), "right": (45, 165, 255), "middle": (60, 225, 165)}
_RIM = (255, 255, 255)
_OUTLINE = (16, 18, 26)
_BACKGROUND = (24, 26, 30)
_OPACITY = 0.85
_BOX_OPACITY = 0.5
# How much of a map's colour lies where the map is 0.
_MAP_GROUND = 0.35
# Steps of the golden ratio keep hues apart, however many there are.
_GOLDEN = 0.6180339887
# Fractional bits of the coordinates that OpenCV draws at.
_SHIFT = 5


def draw_poses(
    image: np.ndarray,
    poses: Poses,
    *,
    min_score: float = 0.3,
    draw_boxes: bool = False,
    track_ids: np.ndarray | None = None,
) -> np.ndarray:
    """A copy of a picture with people drawn on it.

    The left side of the body is orange, the right side blue, the middle green. Lines are as thick
    as the person is large; smaller people lie above larger ones. The limbs of people with a track
    have one colour instead, always the same for an id, and the id stands above them.

    Args:
        image: (H, W, 3) uint8 RGB.
        poses: people, in pixels of the image.
        min_score: joints with a lower score are left out, and the limbs that end there.
        draw_boxes: draw the boxes too.
        track_ids: (P,) int; below 0 for people without a track.

    Raises:
        ValueError: the image is not of that form.
    """
    canvas = _checked(image).copy()
    size_wh = np.array(canvas.shape[1::-1])
    xy = poses.keypoints[..., :2].astype(np.float64)
    seen = (poses.keypoints[..., 2] >= min_score) & _near(xy, size_wh)
    thickness = _thickness(xy, seen, size_wh)
    if draw_boxes:
        _draw_boxes(canvas, poses.boxes_xywh, thickness)
    ids = np.full(len(poses), -1) if track_ids is None else track_ids
    for person in np.argsort(-thickness, kind="stable"):
        if not seen[person].any():
            continue
        one = ids[person]
        limbs = track_colour(one) if one >= 0 else None
        _draw_person(canvas, xy[person], seen[person], poses.skeleton, thickness[person], limbs)
        if limbs is not None:
            _draw_label(canvas, xy[person][seen[person]], str(one), thickness[person], limbs)
    return canvas


def track_colour(track_id: int) -> tuple[int, int, int]:
    """RGB of a track; the hues of consecutive ids lie far apart."""
    hue = int(180 * ((0.5 + track_id * _GOLDEN) % 1))
    pixel = cv2.cvtColor(np.array([[[hue, 160, 255]]], np.uint8), cv2.COLOR_HSV2RGB)
    red, green, blue = pixel[0, 0].tolist()
    return red, green, blue


def draw_maps(image: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """A copy of a picture with heat maps shining on it, the highest of all maps at each place.

    From 0, where the picture is darkened, to 1: dark blue, violet, orange, bright yellow.

    Args:
        image: (H, W, 3) uint8 RGB.
        maps: (C, h, w) in 0..1, which spread over the picture; beyond they are cut, and what is
            not a number is 0.

    Raises:
        ValueError: image or maps are not of that form.
    """
    if maps.ndim != 3 or 0 in maps.shape:
        raise ValueError(f"maps: expected (C, h, w), found {maps.shape}")
    height, width = _checked(image).shape[:2]
    highest = np.nan_to_num(maps.astype(np.float32)).max(0)
    heat = np.clip(cv2.resize(highest, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)
    colours = cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)
    share = (1 - _MAP_GROUND) * np.sqrt(heat)[..., None] + _MAP_GROUND
    mixed = share * colours[..., ::-1] + (1 - share) * image
    return np.rint(mixed).astype(np.uint8)


def draw_grid(
    images: Sequence[np.ndarray], columns: int = 4, *, width: int = 1280, gap: int = 4
) -> np.ndarray:
    """Pictures beside each other on a dark ground; those of a row are scaled to one height.

    Args:
        images: (H, W, 3) uint8 RGB each, of any sizes.
        columns: pictures in a row.
        width: of the whole, in pixels.
        gap: pixels around each picture.

    Raises:
        ValueError: no pictures, one that is not of that form, or no room for the columns.
    """
    if not images or columns < 1:
        raise ValueError(
            f"a grid needs a picture and a column, found {len(images)} pictures and "
            f"{columns} columns"
        )
    columns = min(columns, len(images))
    room = width - gap * (columns + 1)
    if room < columns:
        raise ValueError(f"width: {width} pixels have no room for {columns} columns")
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    return np.concatenate(
        [_row(row, columns, room, width, gap) for row in rows]
        + [np.full((gap, width, 3), _BACKGROUND, np.uint8)]
    )


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Writes an (H, W, 3) uint8 RGB image in the format of the file's ending.

    Makes the folder. Raises PposeError for an ending that OpenCV cannot write or an image too
    large for the format, OSError if the file cannot be written.
    """
    path = Path(path)
    if not cv2.haveImageWriter(path.name):
        raise PposeError(
            f"{path}: pictures cannot be written as '{path.suffix}'; use .jpg, .png or .webp"
        )
    height, width = _checked(image).shape[:2]
    try:
        written, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        written = False
    if not written:
        raise PposeError(
            f"{path}: a picture of {width} by {height} pixels cannot be written as "
            f"'{path.suffix}'; use .png"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.tobytes())


def _near(xy: np.ndarray, size_wh: np.ndarray) -> np.ndarray:
    """Which points are finite and less than a picture away from the picture."""
    return (np.abs(xy - size_wh / 2) < 1.5 * size_wh.max()).all(-1)


def _thickness(xy: np.ndarray, seen: np.ndarray, size_wh: np.ndarray) -> np.ndarray:
    """(P,) width of lines: a share of each person's extent within the picture."""
    inside = np.clip(xy, 0, size_wh - 1)
    low = np.where(seen[..., None], inside, np.inf).min(1)
    high = np.where(seen[..., None], inside, -np.inf).max(1)
    extent = np.linalg.norm(np.maximum(high - low, 0), axis=-1)
    return np.clip(extent / 50, 1.5, max(2.0, size_wh.max() / 90))


def _draw_person(
    canvas: np.ndarray,
    xy: np.ndarray,
    seen: np.ndarray,
    skeleton: Skeleton,
    thickness: float,
    limb_colour: tuple[int, int, int] | None,
) -> None:
    outline = 0.5 + thickness / 8
    joints = np.flatnonzero(seen)
    limbs = skeleton.limb_index[seen[skeleton.limb_index].all(1)]
    corner, part = _window(canvas, xy[joints], 2 * thickness + outline + 2)
    pen = _Pen(part, corner, thickness)
    for a, b in limbs:
        pen.bone(xy[a], xy[b], thickness / 2 + outline, _OUTLINE)
    for a, b in limbs:
        colour = limb_colour or _COLOURS[_common_side(skeleton.sides[a], skeleton.sides[b])]
        pen.bone(xy[a], xy[b], thickness / 2, colour)
    pen.fade(_OPACITY)
    radii = _disc_radii(xy[joints], thickness)
    for joint, radius in zip(joints, radii, strict=True):
        pen.disc(xy[joint], radius + outline, _OUTLINE)
    for joint, radius in zip(joints, radii, strict=True):
        pen.disc(xy[joint], radius, _RIM)
        pen.disc(xy[joint], 0.68 * radius, _COLOURS[skeleton.sides[joint]])
    pen.finish()


def _draw_label(
    canvas: np.ndarray,
    joints: np.ndarray,
    text: str,
    thickness: float,
    colour: tuple[int, int, int],
) -> None:
    """Dark letters on a coloured ground above a person, within the picture."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, float(np.clip(thickness / 6, 0.4, 2.0))
    strokes = max(1, round(1.6 * scale))
    (width, height), below = cv2.getTextSize(text, font, scale, strokes)
    highest = joints[joints[:, 1].argmin()]
    room = np.array(canvas.shape[1::-1]) - (width + 4, height + below + 2)
    place = highest - (width / 2 + 2, 4 * thickness + height + below + 2)
    left, top = np.clip(np.rint(place), 0, np.maximum(room, 0)).astype(int).tolist()
    bottom = (left + width + 4, top + height + below + 2)
    cv2.rectangle(canvas, (left, top), bottom, colour, -1)
    cv2.putText(
        canvas, text, (left + 2, top + height + 2), font, scale, _OUTLINE, strokes, cv2.LINE_AA
    )


class _Pen:
    """Draws on a part of a picture, at up to 4 times its resolution while lines are thin.

    Args:
        part: (h, w, 3) view that `finish` writes to.
        corner: (2,) x, y of the part in the picture.
        thickness: of the lines that will be drawn, in pixels.
    """

    def __init__(self, part: np.ndarray, corner: np.ndarray, thickness: float):
        self.part = part
        self.corner = corner
        self.zoom = int(np.clip(np.ceil(8 / thickness), 1, 4))
        self.before = part.repeat(self.zoom, 0).repeat(self.zoom, 1)
        self.layer = self.before.copy()

    def bone(
        self, a: np.ndarray, b: np.ndarray, radius: float, colour: tuple[int, int, int]
    ) -> None:
        """A line with round ends."""
        angle = np.arctan2(*(b - a)[::-1])
        half = np.linspace(-np.pi / 2, np.pi / 2, 12)
        turn = np.concatenate([angle + np.pi + half, angle + half])
        self._fill(np.repeat([a, b], len(half), axis=0), turn, radius, colour)

    def disc(self, centre: np.ndarray, radius: float, colour: tuple[int, int, int]) -> None:
        """A filled circle."""
        self._fill(centre, np.linspace(0, 2 * np.pi, 32, endpoint=False), radius, colour)

    def fade(self, opacity: float) -> None:
        """Lets the picture shine through all that was drawn so far."""
        self.layer = cv2.addWeighted(self.layer, opacity, self.before, 1 - opacity, 0)

    def finish(self) -> None:
        """Writes what was drawn into the picture."""
        height, width = self.part.shape[:2]
        self.part[:] = cv2.resize(self.layer, (width, height), interpolation=cv2.INTER_AREA)

    def _fill(
        self,
        centres: np.ndarray,
        angles: np.ndarray,
        radius: float,
        colour: tuple[int, int, int],
    ) -> None:
        points = centres + radius * np.stack([np.cos(angles), np.sin(angles)], -1)
        # Pixel centres are integers at either resolution.
        points = (points - self.corner + 0.5) * self.zoom - 0.5
        cv2.fillConvexPoly(self.layer, _fixed(points), colour, cv2.LINE_AA, _SHIFT)


def _common_side(a: str, b: str) -> str:
    """The side of a limb: a joint of the middle belongs to either."""
    sides = {a, b} - {"middle"}
    return sides.pop() if len(sides) == 1 else "middle"


def _disc_radii(xy: np.ndarray, thickness: float) -> np.ndarray:
    """(N,) radii that leave neighbours, as those of a face, apart."""
    distance = np.linalg.norm(xy[:, None] - xy, axis=-1)
    np.fill_diagonal(distance, np.inf)
    return np.clip(0.4 * distance.min(1), 0.6 * thickness, 1.1 * thickness)


def _draw_boxes(canvas: np.ndarray, boxes_xywh: np.ndarray, thickness: np.ndarray) -> None:
    """Thin lines that stay behind the people."""
    layer = canvas.copy()
    reach = 2 * max(canvas.shape)
    finite = np.isfinite(boxes_xywh).all(1)
    low, size = np.split(boxes_xywh[finite].astype(np.float64), 2, axis=1)
    corners = np.rint(np.clip(np.stack([low, low + size], 1), -reach, reach)).astype(int).tolist()
    widths = np.rint(thickness[finite] / 4).astype(int).tolist()
    for (start, end), width in zip(corners, widths, strict=True):
        cv2.rectangle(layer, start, end, _OUTLINE, width + 2)
        cv2.rectangle(layer, start, end, _RIM, max(width, 1))
    canvas[:] = cv2.addWeighted(layer, _BOX_OPACITY, canvas, 1 - _BOX_OPACITY, 0)


def _window(canvas: np.ndarray, points: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Corner and view of the part of the picture around some points."""
    size_wh = np.array(canvas.shape[1::-1])
    low = np.clip(np.floor(points.min(0) - margin), 0, size_wh - 1).astype(int)
    high = np.clip(np.ceil(points.max(0) + margin) + 1, low + 1, size_wh).astype(int)
    return low, canvas[low[1] : high[1], low[0] : high[0]]


def _fixed(values: np.ndarray | float) -> np.ndarray:
    return np.rint(np.multiply(values, 1 << _SHIFT)).astype(np.int32)


def _row(images: Sequence[np.ndarray], columns: int, room: int, width: int, gap: int) -> np.ndarray:
    """A strip with a gap above; a row that is not full is as high as if it were."""
    aspects = np.array([_checked(image).shape[1] / image.shape[0] for image in images])
    height = min(room / (aspects.mean() * columns), width)
    order = np.arange(len(images))
    ends = np.maximum(np.rint(np.cumsum(aspects) * height).astype(int), 1)
    # A pixel at least for each picture, and all of them within the room.
    ends = np.minimum(np.maximum.accumulate(ends - order) + order, room - order[::-1])
    strip = np.full((gap + max(round(height), 1), width, 3), _BACKGROUND, np.uint8)
    for image, start, end, gaps in zip(
        images, [0, *ends[:-1]], ends, gap * (order + 1), strict=True
    ):
        place = strip[gap:, gaps + start : gaps + end]
        method = cv2.INTER_AREA if image.shape[0] > height else cv2.INTER_LINEAR
        place[:] = cv2.resize(image, place.shape[1::-1], interpolation=method)
    return strip


def _checked(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image: expected (H, W, 3) uint8 RGB, found {image.shape} {image.dtype}")
    return image
