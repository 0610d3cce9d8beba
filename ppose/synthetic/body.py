"""Forward kinematics of a person in metres.

Body frame: x to the person's left, y up, z forward; right-handed.
Angles are in degrees; index 0 of a pair is the left side, 1 the right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppose.synthetic.postures import OUTWARD, SIDES, Pose


def rot_x(degrees: float) -> np.ndarray:
    """(3, 3) rotation about x, from y towards z."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def rot_y(degrees: float) -> np.ndarray:
    """(3, 3) rotation about y, from z towards x."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def rot_z(degrees: float) -> np.ndarray:
    """(3, 3) rotation about z, from x towards y."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@dataclass(frozen=True)
class Body:
    """Body proportions.

    Attributes:
        size: length of trunk and limbs relative to an adult of 1.75 m.
        head: size of the head relative to that adult's.
        girth: thickness of trunk and limbs relative to their length.
        shoulder: half the distance between the shoulder joints in metres.
        hip: half the distance between the hip joints in metres.
    """

    size: float
    head: float
    girth: float
    shoulder: float
    hip: float

    @property
    def child(self) -> bool:
        return self.size < 0.86

    @classmethod
    def random(cls, rng: np.random.Generator) -> Body:
        """A random body: a child with probability 0.2, else an adult; slim to heavy."""
        child = rng.random() < 0.2
        size = rng.uniform(0.55, 0.85) if child else rng.normal(0.99, 0.045)
        girth = rng.uniform(0.9, 1.15) + max(0.0, rng.normal(0, 0.12))
        slope = rng.uniform(-1, 1)
        return cls(
            size=size,
            head=(0.66 + 0.47 * size) * rng.uniform(0.97, 1.05),
            girth=girth,
            shoulder=(0.172 + 0.014 * slope) * size * girth**0.4,
            hip=(0.1 - 0.006 * slope) * size * girth**0.4,
        )


@dataclass(frozen=True)
class PosedBody:
    """A body in a pose: points (3,) in metres and frames (3, 3); the ground is at y = 0.

    Points of both sides are (2, 3), left first. `foot` is the direction of the toes.
    """

    body: Body
    root: np.ndarray
    chest: np.ndarray
    head: np.ndarray
    pelvis_frame: np.ndarray
    chest_frame: np.ndarray
    head_frame: np.ndarray
    neck: np.ndarray
    shoulder: np.ndarray
    elbow: np.ndarray
    wrist: np.ndarray
    palm: np.ndarray
    hip: np.ndarray
    knee: np.ndarray
    ankle: np.ndarray
    foot: np.ndarray


def _chain(
    start: np.ndarray, frame: np.ndarray, bend: np.ndarray, lengths: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middle joint, end joint and direction of the second bone; unrotated bones point along -y."""
    down = np.array([0.0, -1.0, 0.0])
    second = frame @ bend @ down
    middle = start + lengths[0] * (frame @ down)
    return middle, middle + lengths[1] * second, second


def forward_kinematics(
    body: Body, pose: Pose, head_jitter: tuple[float, float, float]
) -> PosedBody:
    """Puts a body in a pose; its lowest point is at y = 0, or `lift` above.

    Args:
        body: proportions.
        pose: joint angles.
        head_jitter: degrees added to nod, turn and tilt of the head.
    """
    size = body.size
    whole = rot_x(-pose.recline)
    pelvis_frame = whole @ rot_x(pose.lean * 0.7) @ rot_z(-0.5 * pose.sway)
    chest_frame = whole @ rot_x(pose.lean) @ rot_z(-pose.sway) @ rot_y(pose.twist)
    nod, turn, tilt = np.add((pose.nod, pose.turn, pose.tilt), head_jitter)
    # People keep their head up when the trunk leans.
    upright = rot_x(-0.45 * np.clip(pose.lean, -30, 70))
    head_frame = chest_frame @ upright @ rot_y(turn) @ rot_x(nod) @ rot_z(tilt)

    root = np.zeros(3)
    chest = root + pelvis_frame @ [0, 0.22 * size, 0] + chest_frame @ [0, 0.14 * size, 0]
    neck = chest + chest_frame @ [0, 0.19 * size, -0.005 * size]
    head = neck + chest_frame @ [0, 0.035 * size, 0] + head_frame @ [0, 0.135 * body.head, 0.02]

    arms, legs = [], []
    for side in SIDES:
        out, arm, leg = OUTWARD[side], pose.arms[side], pose.legs[side]
        shoulder = chest + chest_frame @ [out * body.shoulder, 0.122 * size, 0]
        raised = max(0.0, arm.abduct - 60) / 110
        shoulder = shoulder + chest_frame @ [-out * 0.03 * raised, 0.05 * raised, 0] * size
        frame = chest_frame @ rot_z(out * arm.abduct) @ rot_x(-arm.flex) @ rot_y(-out * arm.inward)
        elbow, wrist, along = _chain(
            shoulder, frame, rot_x(-arm.elbow), (0.285 * size, 0.25 * size)
        )
        arms.append((shoulder, elbow, wrist, wrist + along * 0.085 * size))
        hip = root + pelvis_frame @ [out * body.hip, 0, 0]
        frame = whole @ rot_z(out * leg.abduct) @ rot_x(-leg.flex)
        knee, ankle, _ = _chain(hip, frame, rot_x(leg.knee), (0.425 * size, 0.41 * size))
        toes = whole @ rot_y(out * (12 + leg.abduct)) @ rot_x(leg.toes_down) @ [0, 0, 1]
        legs.append((hip, knee, ankle, toes))
    shoulder, elbow, wrist, palm = (np.array(joint) for joint in zip(*arms, strict=True))
    hip, knee, ankle, foot = (np.array(joint) for joint in zip(*legs, strict=True))

    drop = np.array([0.0, pose.lift - _lowest(size, hip, knee, ankle, foot, palm, chest), 0.0])
    return PosedBody(
        body,
        root + drop,
        chest + drop,
        head + drop,
        pelvis_frame,
        chest_frame,
        head_frame,
        neck + drop,
        shoulder + drop,
        elbow + drop,
        wrist + drop,
        palm + drop,
        hip + drop,
        knee + drop,
        ankle + drop,
        foot,
    )


def _lowest(
    size: float,
    hip: np.ndarray,
    knee: np.ndarray,
    ankle: np.ndarray,
    foot: np.ndarray,
    palm: np.ndarray,
    chest: np.ndarray,
) -> float:
    """Height of the lowest point of the body's surface."""
    reach = np.concatenate(
        [
            hip[:, 1] - 0.1 * size,
            knee[:, 1] - 0.06 * size,
            ankle[:, 1] - 0.075 * size,
            (ankle + 0.17 * size * foot)[:, 1] - 0.06 * size,
            palm[:, 1] - 0.03 * size,
            [chest[1] - 0.12 * size],
        ]
    )
    return float(reach.min())
