"""A clothed, posed person: shapes in drawing order, and COCO joints."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ppose.structures.skeleton import COCO17
from ppose.synthetic.body import Body, PosedBody, forward_kinematics, rot_x, rot_y
from ppose.synthetic.canvas import PROP, Part, Shape
from ppose.synthetic.clothes import ClothedBody, Piece
from ppose.synthetic.head import FACE_JOINTS, HeadView, is_eye_visible, is_nose_visible
from ppose.synthetic.look import Colour, Look, shaded
from ppose.synthetic.postures import OUTWARD, Pose


@dataclass(frozen=True)
class Figure:
    """One person, ready to be drawn.

    Attributes:
        shapes: in drawing order, in metres, with the origin on the ground below the hips.
        joints: (17, 3) COCO joints: x right, y up, z towards the camera, in metres.
        turned_away: (17,) bool, self-occluded joints: eyes on the far side of the head, a hip or
            shoulder behind the trunk.
        yaw: degrees; 0 faces the camera, 90 the right image border.
        pose: name of the pose.
    """

    shapes: list[Shape]
    joints: np.ndarray
    turned_away: np.ndarray
    yaw: float
    pose: str


def _shows() -> np.ndarray:
    """(17, parts) bool, own body parts that may be drawn at a visible joint."""
    both = {
        "eye": [Part.HEAD],
        "ear": [Part.LEFT_EAR],
        "shoulder": [Part.LEFT_ARM, Part.TORSO, Part.NECK],
        "elbow": [Part.LEFT_ARM, Part.LEFT_FOREARM],
        "wrist": [Part.LEFT_ARM, Part.LEFT_FOREARM],
        "hip": [Part.LEFT_LEG, Part.TORSO, Part.HIPS, Part.SKIRT],
        "knee": [Part.LEFT_LEG, Part.LEFT_SHIN],
        "ankle": [Part.LEFT_LEG, Part.LEFT_SHIN, Part.LEFT_SHOE],
    }
    table = np.zeros((len(COCO17), len(Part)), bool)
    table[COCO17.index("nose"), Part.HEAD] = True
    for stem, parts in both.items():
        for side, name in enumerate(("left", "right")):
            for part in parts:
                own = part.of(side) if part.name.startswith("LEFT") else part
                table[COCO17.index(f"{name}_{stem}"), own] = True
    return table


SHOWS = _shows()


def seat_shapes(posed: PosedBody, view: np.ndarray, colour: Colour) -> list[Shape]:
    """A box at hip height below a posed body in the body frame; `view` rotates it to the camera."""
    top = posed.root[1] - 0.1 * posed.body.size
    half = 0.23 * posed.body.size
    front = 0.16 * posed.body.size
    corners = np.array([[x, z] for x in (-half, half) for z in (-1.6 * front, front)])
    upper = np.insert(corners, 1, top, axis=1) @ view.T
    lower = np.insert(corners, 1, 0.0, axis=1) @ view.T
    return [
        Shape(np.concatenate([upper, lower])[:, :2], shaded(colour, 0.8), PROP),
        Shape(upper[:, :2], colour, PROP),
    ]


_LIMB_POINTS = ("shoulder", "elbow", "wrist", "palm", "hip", "knee", "ankle", "foot")


def _rotate(posed: PosedBody, view: np.ndarray) -> PosedBody:
    """The body in the camera frame."""
    points = ("root", "chest", "head", "neck", *_LIMB_POINTS)
    frames = ("pelvis_frame", "chest_frame", "head_frame")
    rotated_points = {name: getattr(posed, name) @ view.T for name in points}
    rotated_frames = {name: view @ getattr(posed, name) for name in frames}
    return replace(posed, **rotated_points, **rotated_frames)


def make_figure(
    body: Body,
    pose: Pose,
    look: Look,
    yaw: float,
    camera_pitch: float,
    head_turn: tuple[float, float, float],
    seat_colour: Colour,
) -> Figure:
    """Shapes and joints of a person.

    Args:
        body, pose, look: proportions, joint angles, and appearance.
        yaw: degrees; 0 faces the camera, 90 the right image border.
        camera_pitch: degrees by which the camera points down.
        head_turn: degrees added to nod, turn and tilt of the head.
        seat_colour: colour of the seat of a sitting person.
    """
    standing = forward_kinematics(body, pose, head_turn)
    view = rot_x(camera_pitch) @ rot_y(yaw)
    posed = _rotate(standing, view)
    pieces = ClothedBody(posed, look).pieces()
    if pose.seat:
        depth = float(posed.root[2]) - 0.04
        pieces.append(Piece(depth, seat_shapes(standing, view, seat_colour)))
    pieces.sort(key=lambda piece: piece.depth)
    shapes = [shape for piece in pieces for shape in piece.shapes]
    return Figure(shapes, _joints(posed), _turned_away(posed), yaw, pose.name)


def _joints(posed: PosedBody) -> np.ndarray:
    """(17, 3) joints in the order of `COCO17`."""
    view = HeadView(posed.head, posed.head_frame, posed.body.head)
    pairs = (posed.shoulder, posed.elbow, posed.wrist, posed.hip, posed.knee, posed.ankle)
    return np.concatenate([view.to_camera(FACE_JOINTS), *pairs])


def _turned_away(posed: PosedBody) -> np.ndarray:
    view = HeadView(posed.head, posed.head_frame, posed.body.head)
    away = np.zeros(len(COCO17), bool)
    away[COCO17.index("nose")] = not is_nose_visible(view)
    for side, name in enumerate(("left", "right")):
        away[COCO17.index(f"{name}_eye")] = not is_eye_visible(view, side)
        for stem, frame in (("shoulder", posed.chest_frame), ("hip", posed.pelvis_frame)):
            toward_camera = OUTWARD[side] * frame[2, 0]
            away[COCO17.index(f"{name}_{stem}")] = toward_camera < -0.75
    return away
