"""Random poses: joint angles for standing, walking, sitting and so on.

Angles are in degrees; index 0 of a pair is the left side, 1 the right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

LEFT, RIGHT = 0, 1
SIDES = (LEFT, RIGHT)
OUTWARD = (1.0, -1.0)


@dataclass(frozen=True)
class Arm:
    """Angles of an arm: flexion, abduction, internal rotation, and flexion of the elbow."""

    flex: float = 0.0
    abduct: float = 8.0
    inward: float = 10.0
    elbow: float = 12.0


@dataclass(frozen=True)
class Leg:
    """Angles of a leg: flexion, abduction, flexion of the knee, and toes below horizontal."""

    flex: float = 0.0
    abduct: float = 4.0
    knee: float = 4.0
    toes_down: float = 0.0


@dataclass(frozen=True)
class Pose:
    """Joint angles of a body.

    Attributes:
        name: name of the pose.
        arms, legs: left and right.
        lean, sway, twist: trunk forward, trunk to the person's left, chest turned to the left.
        nod, turn, tilt: head forward, to the left, and sideways.
        recline: whole body backward; 90 is lying on the back.
        lift: height above the ground in metres.
        seat: whether the person sits on a seat at the height of the hips.
    """

    name: str
    arms: tuple[Arm, Arm] = field(default=(Arm(), Arm()))
    legs: tuple[Leg, Leg] = field(default=(Leg(), Leg()))
    lean: float = 0.0
    sway: float = 0.0
    twist: float = 0.0
    nod: float = 0.0
    turn: float = 0.0
    tilt: float = 0.0
    recline: float = 0.0
    lift: float = 0.0
    seat: bool = False


_T = TypeVar("_T")


def _both(make: Callable[[], _T]) -> tuple[_T, _T]:
    """Two independent draws."""
    return make(), make()


def _mirrored(rng: np.random.Generator, a: _T, b: _T) -> tuple[_T, _T]:
    """The pair in random order."""
    return (a, b) if rng.random() < 0.5 else (b, a)


def _hanging(rng: np.random.Generator) -> Arm:
    return Arm(rng.normal(2, 7), rng.uniform(5, 16), rng.uniform(0, 40), abs(rng.normal(14, 9)) + 3)


def _busy(rng: np.random.Generator) -> Arm:
    """A random everyday arm posture of a standing person."""
    kind = rng.choice(6, p=[0.4, 0.17, 0.13, 0.1, 0.12, 0.08])
    u = rng.uniform
    if kind == 1:
        return Arm(u(-22, -8), u(44, 56), u(70, 85), u(88, 106))
    if kind == 2:
        return Arm(u(8, 25), u(4, 12), u(5, 30), u(70, 105))
    if kind == 3:
        return Arm(u(25, 45), u(20, 40), u(20, 40), u(128, 142))
    if kind == 4:
        return Arm(u(5, 20), u(75, 105), u(-105, -75), u(45, 110))
    if kind == 5:
        return Arm(u(60, 95), u(5, 45), u(-20, 30), u(2, 20))
    return _hanging(rng)


def _standing_legs(rng: np.random.Generator) -> tuple[Leg, Leg]:
    u = rng.uniform
    firm = Leg(u(-3, 2), u(1, 7), u(0, 5))
    loose = Leg(u(2, 16), u(4, 13), u(8, 26), u(0, 10))
    return _mirrored(rng, firm, loose if rng.random() < 0.45 else Leg(u(-3, 3), u(2, 9), u(0, 6)))


def _stand(rng: np.random.Generator) -> Pose:
    if rng.random() < 0.3:
        return Pose("stand", (_hanging(rng), _hanging(rng)), _standing_legs(rng))
    return Pose("stand", (_busy(rng), _busy(rng)), _standing_legs(rng), sway=rng.normal(0, 3))


def _crossed_arms(rng: np.random.Generator) -> Pose:
    u = rng.uniform
    arms = (Arm(u(18, 26), 6, u(66, 76), u(98, 108)), Arm(u(26, 34), 6, u(66, 76), u(98, 108)))
    return Pose("crossed arms", _mirrored(rng, *arms), _standing_legs(rng))


def _walk(rng: np.random.Generator) -> Pose:
    u = rng.uniform
    stride, swing = u(14, 30), u(10, 30)
    legs = Leg(stride, u(0, 4), u(2, 14), -u(0, 12)), Leg(-stride, u(0, 4), u(10, 38), u(15, 40))
    arms = Arm(-swing, u(4, 12), 10, u(8, 30)), Arm(swing, u(4, 12), 20, u(15, 45))
    if rng.random() < 0.5:
        legs, arms = legs[::-1], arms[::-1]
    if rng.random() < 0.2:
        arms = _mirrored(rng, arms[0], _busy(rng))
    return Pose("walk", arms, legs, lean=u(0, 7), twist=rng.normal(0, 4))


def _run(rng: np.random.Generator) -> Pose:
    u = rng.uniform
    front = Leg(u(40, 70), u(0, 4), u(55, 95), u(-5, 20))
    rear = Leg(-u(10, 32), u(0, 4), u(25, 85), u(40, 75))
    arms = Arm(-u(30, 60), u(8, 18), u(5, 20), u(75, 105)), Arm(u(25, 55), u(6, 16), 25, u(80, 110))
    legs = front, rear
    if rng.random() < 0.5:
        legs, arms = legs[::-1], arms[::-1]
    return Pose("run", arms, legs, lean=u(6, 20), lift=u(0, 0.12))


def _arms_up(rng: np.random.Generator) -> Pose:
    u = rng.uniform
    arms = _both(lambda: Arm(u(-5, 15), u(125, 172), u(-95, -75), u(4, 45)))
    return Pose("arms up", arms, _standing_legs(rng), sway=rng.normal(0, 4), nod=-u(0, 12))


def _wave(rng: np.random.Generator) -> Pose:
    u = rng.uniform
    arms = Arm(u(0, 20), u(70, 120), u(-110, -75), u(35, 105)), _hanging(rng)
    return Pose("wave", _mirrored(rng, *arms), _standing_legs(rng), tilt=rng.normal(0, 6))


def _star(rng: np.random.Generator) -> Pose:
    u = rng.uniform
    arms = _both(lambda: Arm(u(-5, 10), u(70, 135), -30, u(2, 20)))
    legs = _both(lambda: Leg(u(-4, 8), u(14, 32), u(0, 14), u(0, 30)))
    return Pose("star", arms, legs, lift=u(0, 0.3))


def _sit(rng: np.random.Generator) -> Pose:
    u = rng.uniform
    apart = u(2, 15)
    legs = _both(lambda: Leg(u(82, 92), apart + u(-2, 3), u(70, 100)))
    resting = _both(lambda: Arm(u(22, 42), u(4, 14), u(10, 40), u(30, 62)))
    arms = resting if rng.random() < 0.6 else _mirrored(rng, resting[0], _busy(rng))
    return Pose("sit", arms, legs, lean=u(-8, 14), seat=True)


def _sit_on_ground(rng: np.random.Generator) -> Pose:
    u = rng.uniform
    legs = _both(lambda: Leg(u(95, 125), u(3, 14), u(65, 105), u(0, 15)))
    if rng.random() < 0.5:
        arms = _both(lambda: Arm(-u(25, 45), u(10, 22), 0, u(2, 15)))
        return Pose("sit on ground", arms, legs, lean=-u(10, 25))
    arms = _both(lambda: Arm(u(45, 70), u(2, 10), u(10, 30), u(20, 50)))
    return Pose("sit on ground", arms, legs, lean=u(0, 15))


def _crouch(rng: np.random.Generator) -> Pose:
    u = rng.uniform
    legs = _both(lambda: Leg(u(88, 112), u(6, 22), u(112, 132), u(0, 15)))
    arms = _both(lambda: Arm(u(40, 80), u(2, 16), u(0, 30), u(15, 70)))
    return Pose("crouch", arms, legs, lean=u(18, 40), nod=-u(0, 20))


def _kneel(rng: np.random.Generator) -> Pose:
    u = rng.uniform
    legs = Leg(u(80, 92), u(0, 8), u(80, 95)), Leg(-u(0, 8), u(0, 6), u(84, 98), 85)
    resting = Arm(u(28, 45), u(4, 14), u(10, 40), u(30, 60))
    return Pose("kneel", _mirrored(rng, resting, _busy(rng)), _mirrored(rng, *legs), lean=u(0, 14))


def _bend(rng: np.random.Generator) -> Pose:
    u = rng.uniform
    lean = u(40, 85)
    arms = _both(lambda: Arm(lean + u(-15, 25), u(2, 14), u(0, 30), u(5, 35)))
    legs = _both(lambda: Leg(-u(0, 8), u(2, 9), u(0, 14)))
    return Pose("bend", arms, legs, lean=lean, nod=-u(0, 35))


def _lunge(rng: np.random.Generator) -> Pose:
    u = rng.uniform
    legs = Leg(u(45, 70), u(2, 8), u(50, 75)), Leg(-u(18, 35), u(2, 8), u(8, 30), u(25, 45))
    return Pose("lunge", (_busy(rng), _busy(rng)), _mirrored(rng, *legs), lean=u(-3, 18))


def _kick(rng: np.random.Generator) -> Pose:
    u = rng.uniform
    legs = Leg(u(40, 85), u(0, 15), u(4, 35), u(-10, 30)), Leg(-u(0, 8), 4, u(4, 16))
    arms = Arm(-u(10, 40), u(20, 60), 10, u(15, 60)), Arm(u(20, 60), u(20, 60), 20, u(15, 60))
    return Pose("kick", _mirrored(rng, *arms), _mirrored(rng, *legs), lean=-u(2, 18))


def _lie(rng: np.random.Generator) -> Pose:
    u = rng.uniform
    legs = _mirrored(
        rng, Leg(u(0, 8), u(2, 8), u(0, 10), 20), Leg(u(10, 50), u(2, 8), u(20, 95), 10)
    )
    arms = _both(lambda: Arm(u(-3, 25), u(10, 60), u(0, 40), u(5, 70)))
    return Pose("lie", arms, legs, recline=u(80, 92), nod=u(5, 25))


POSES: dict[str, tuple[float, Callable[[np.random.Generator], Pose]]] = {
    "stand": (0.27, _stand),
    "crossed arms": (0.03, _crossed_arms),
    "walk": (0.19, _walk),
    "run": (0.1, _run),
    "arms up": (0.07, _arms_up),
    "wave": (0.08, _wave),
    "star": (0.04, _star),
    "sit": (0.07, _sit),
    "sit on ground": (0.02, _sit_on_ground),
    "crouch": (0.03, _crouch),
    "kneel": (0.02, _kneel),
    "bend": (0.02, _bend),
    "lunge": (0.03, _lunge),
    "kick": (0.02, _kick),
    "lie": (0.01, _lie),
}


def random_pose(rng: np.random.Generator) -> Pose:
    """A pose of `POSES`, chosen by probability, with random angles."""
    probabilities = [probability for probability, _ in POSES.values()]
    _, make = list(POSES.values())[rng.choice(len(POSES), p=probabilities)]
    return make(rng)
