"""Shapes of a head from any side: skull, face, ears, hair and hats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppose.synthetic.canvas import CIRCLE, Part, Shape, capsule
from ppose.synthetic.look import Colour, Look, mixed, shaded
from ppose.synthetic.postures import OUTWARD, SIDES

# Head frame: metres of an adult's head, origin between the ears.
NOSE = np.array([0.0, -0.028, 0.112])
EYES = np.array([[0.034, 0.012, 0.086], [-0.034, 0.012, 0.086]])
EARS = np.array([[0.086, -0.008, -0.012], [-0.086, -0.008, -0.012]])
FACE_JOINTS = np.concatenate([NOSE[None], EYES, EARS])

_BRIDGE = np.array([0.0, 0.014, 0.092])
_NOSTRIL = np.array([0.0, -0.043, 0.094])
_MOUTH = np.array([[0.026, -0.074, 0.08], [0.0, -0.079, 0.088], [-0.026, -0.074, 0.08]])
_BROWS = np.array([[0.05, 0.032, 0.08], [0.034, 0.039, 0.088], [0.018, 0.035, 0.094]])


def _ellipsoid(
    centre: tuple[float, float, float], axes: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spread points (N, 3) on an ellipsoid (Fibonacci lattice), and outward normals."""
    count = 180
    index = np.arange(count) + 0.5
    height = 1 - 2 * index / count
    angle = np.pi * (1 + 5**0.5) * index
    around = np.sqrt(1 - height**2)
    unit = np.stack([np.cos(angle) * around, height, np.sin(angle) * around], axis=1)
    normal = unit / axes
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return np.array(centre) + unit * axes, normal


_CRANIUM, _CRANIUM_NORMAL = _ellipsoid((0, 0.03, -0.008), (0.08, 0.096, 0.1))
_JAW, _JAW_NORMAL = _ellipsoid((0, -0.062, 0.03), (0.058, 0.064, 0.06))
_SKULL = np.concatenate([_CRANIUM, _JAW])

_forehead = (_CRANIUM[:, 1] < 0.075 - 0.25 * np.abs(_CRANIUM[:, 0])) & (_CRANIUM[:, 2] > 0.02)
_lower_face = _JAW[:, 2] > 0.03
_FACE = np.concatenate([_CRANIUM[_forehead], _JAW[_lower_face]])
_FACE_NORMAL = np.concatenate([_CRANIUM_NORMAL[_forehead], _JAW_NORMAL[_lower_face]])
_beard = (_JAW[:, 1] < -0.07) & (_JAW[:, 2] > 0.01)
_BEARD, _BEARD_NORMAL = _JAW[_beard] * 1.03, _JAW_NORMAL[_beard]

_HAIR_SHELL, _ = _ellipsoid((0, 0.036, -0.014), (0.089, 0.104, 0.108))
_SHORT = _HAIR_SHELL[
    (_HAIR_SHELL[:, 1] > 0.0) | ((_HAIR_SHELL[:, 2] < -0.02) & (_HAIR_SHELL[:, 1] > -0.075))
]
_NAPE = np.array([[0.048, -0.095, -0.04], [0.0, -0.1, -0.06], [-0.048, -0.095, -0.04]])
_SHORT = np.concatenate([_SHORT, _NAPE])
_AFRO, _ = _ellipsoid((0, 0.055, -0.03), (0.135, 0.13, 0.13))
_BOB, _ = _ellipsoid((0, -0.01, -0.03), (0.108, 0.12, 0.1))
_BOB = _BOB[_BOB[:, 1] > -0.1]
_DOME = _HAIR_SHELL[_HAIR_SHELL[:, 1] > 0.05] * 1.05
_BEANIE = _HAIR_SHELL[_HAIR_SHELL[:, 1] > 0.045] * (1.06, 1.18, 1.06)
_BRIM = np.concatenate(
    [CIRCLE @ [[0.08, 0, 0], [0, 0, 0.075]] + [0, y, 0.1] for y in (0.066, 0.058)]
)
_EAR = CIRCLE @ [[0, 0.03, 0.01], [0.004, 0, 0.021]]


@dataclass(frozen=True)
class HeadView:
    """A head in the camera frame.

    Args:
        centre: (3,) in the camera frame, in metres.
        frame: (3, 3) rotation from the head frame to the camera frame.
        size: size relative to an adult's head.
    """

    centre: np.ndarray
    frame: np.ndarray
    size: float

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """Transforms (N, 3) points from the head frame to the camera frame."""
        return self.centre + self.size * points @ self.frame.T

    def hull(self, points: np.ndarray, colour: Colour, part: int) -> Shape:
        return Shape(self.to_camera(points)[:, :2], colour, part)

    def facing(self, directions: np.ndarray) -> np.ndarray:
        """Cosine between the direction to the camera and (N, 3) directions in the head frame."""
        return directions @ self.frame[2]


def head_shapes(view: HeadView, look: Look) -> tuple[list[Shape], list[Shape]]:
    """Shapes of the head, and of long hair at the back of the head."""
    style = look.hair_style
    shapes: list[Shape] = []
    ears = [_ear(view, look, side) for side in SIDES]
    covered = style in ("bob", "long", "afro")
    near = [not covered and view.frame[2, 0] * OUTWARD[side] >= 0.0 for side in SIDES]
    shapes += [ears[side] for side in SIDES if not near[side]]
    shapes.append(view.hull(_SKULL, look.skin, Part.HEAD))
    shapes += _hair(view, look)
    shapes += _face(view, look)
    shapes += [ears[side] for side in SIDES if near[side]]
    shapes += _hat(view, look)
    return shapes, _hanging_hair(view, look)


def _ear(view: HeadView, look: Look, side: int) -> Shape:
    return view.hull(EARS[side] + _EAR, shaded(look.skin, 0.92), Part.LEFT_EAR.of(side))


def _hair(view: HeadView, look: Look) -> list[Shape]:
    style = look.hair_style
    if style == "bald":
        return []
    cloud = {"afro": _AFRO, "bob": _BOB}.get(style, _SHORT)
    shapes = [view.hull(cloud, look.hair, Part.HAIR)]
    if style == "bob":
        shapes.append(view.hull(_HAIR_SHELL, look.hair, Part.HAIR))
    if style == "bun":
        bun = view.to_camera(np.array([[0, 0.125, -0.075]]))
        shapes.append(capsule(bun, [0.05 * view.size], shaded(look.hair, 0.93), Part.HAIR))
    return shapes


def _hanging_hair(view: HeadView, look: Look) -> list[Shape]:
    if look.hair_style == "long":
        strands = np.array([[0.05, 0.0, -0.045], [-0.05, 0.0, -0.045], [0, -0.2, -0.085]])
        radii = np.array([0.062, 0.062, 0.07]) * view.size
        wide = np.array([[0.055, -0.17, -0.07], [-0.055, -0.17, -0.07]])
        points = view.to_camera(np.concatenate([strands, wide]))
        return [capsule(points, [*radii, 0.045, 0.045], shaded(look.hair, 0.92), Part.HAIR)]
    if look.hair_style == "ponytail":
        tail = view.to_camera(np.array([[0, 0.05, -0.115], [0, -0.03, -0.155], [0, -0.15, -0.14]]))
        colour = shaded(look.hair, 0.9)
        radii = np.array([0.028, 0.042, 0.016]) * view.size
        return [
            capsule(tail[:2], radii[:2], colour, Part.HAIR),
            capsule(tail[1:], radii[1:], colour, Part.HAIR),
        ]
    return []


def _face(view: HeadView, look: Look) -> list[Shape]:
    seen = view.facing(_FACE_NORMAL) > 0.0
    if seen.sum() < 8:
        return []
    shapes = [view.hull(_FACE[seen], look.skin, Part.HEAD)]
    if look.beard:
        seen = view.facing(_BEARD_NORMAL) > 0.0
        if seen.sum() > 3:
            colour = mixed(look.hair, look.skin, 0.15)
            shapes.append(view.hull(_BEARD[seen], colour, Part.HEAD))
    ahead = view.frame[2, 2]
    if ahead > -0.15:
        shapes += _nose_and_mouth(view, look, ahead)
    shapes += _eyes(view, look)
    return shapes


def _nose_and_mouth(view: HeadView, look: Look, ahead: float) -> list[Shape]:
    width = 0.016
    base = np.array([[width, 0, -0.006], [-width, 0, -0.006]]) + _NOSTRIL
    nose = np.concatenate([[_BRIDGE, NOSE + [0, 0, 0.008]], base])
    shapes = [view.hull(nose, shaded(look.skin, 0.86 + 0.1 * (1 - ahead)), Part.HEAD)]
    seen = _MOUTH @ view.frame[2] > 0.03
    lips = mixed(shaded(look.skin, 0.72), (176, 60, 66), 0.45)
    if seen.sum() >= 2:
        line = view.to_camera(_MOUTH[seen])[:, :2]
        shapes.append(Shape(line, lips, Part.HEAD, 0.011 * view.size))
    return shapes


def _eyes(view: HeadView, look: Look) -> list[Shape]:
    shapes = []
    dark = mixed(shaded(look.hair, 0.8), look.skin, 0.1)
    for side in SIDES:
        if not is_eye_visible(view, side):
            continue
        mirror = (OUTWARD[side], 1, 1)
        eye = view.to_camera(EYES[side : side + 1])
        narrow = np.clip(view.facing(EYES[side] * (4, 0, 1)) / 0.12, 0.45, 1.0)
        white = eye[:, :2] + CIRCLE * (0.0165 * narrow * view.size, 0.0115 * view.size)
        shapes.append(Shape(white, (246, 244, 240), Part.HEAD))
        shapes.append(Shape(eye[:, :2] + CIRCLE * (0.0095 * view.size), (38, 28, 26), Part.HEAD))
        brow = view.to_camera(_BROWS * mirror)[:, :2]
        shapes.append(Shape(brow, dark, Part.HEAD, 0.009 * view.size))
        if look.glasses:
            ring = eye[:, :2] + np.append(CIRCLE, CIRCLE[:1], axis=0) * (
                0.029 * narrow * view.size,
                0.024 * view.size,
            )
            shapes.append(Shape(ring, (58, 54, 56), Part.HEAD, 0.004 * view.size))
    return shapes


def is_eye_visible(view: HeadView, side: int) -> bool:
    """Whether an eye (0 left, 1 right) is not occluded by the head itself."""
    return bool(view.facing(EYES[side] * (1.6, 0.6, 1.0)) > 0.022)


def is_nose_visible(view: HeadView) -> bool:
    """Whether the nose is not occluded by the head itself; true in profile."""
    return bool(view.frame[2, 2] > -0.15)


def _hat(view: HeadView, look: Look) -> list[Shape]:
    if look.hair_style == "beanie":
        band = _HAIR_SHELL[(_HAIR_SHELL[:, 1] > 0.04) & (_HAIR_SHELL[:, 1] < 0.08)] * 1.08
        return [
            view.hull(_BEANIE, look.hat, Part.HAIR),
            view.hull(band, shaded(look.hat, 0.85), Part.HAIR),
        ]
    if look.hair_style == "cap":
        dome = view.hull(_DOME, look.hat, Part.HAIR)
        brim = view.hull(_BRIM, shaded(look.hat, 0.82), Part.HAIR)
        return [dome, brim] if view.frame[2, 2] > -0.2 else [brim, dome]
    return []
