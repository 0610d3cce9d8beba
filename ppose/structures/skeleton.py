"""Skeletons: joints, mirror pairs, limbs and OKS sigmas by name, and the index tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Joint:
    """One keypoint of a skeleton.

    Args:
        name: unique name, as in the `keypoints` of a COCO category.
        sigma: OKS constant of the joint: the standard deviation of human annotations divided by
            the square root of the object's area.
        mirror: name of the joint on the other side of the body; None for joints in the middle.
        part: "upper" or "lower" half of the body, for half-body augmentation.
    """

    name: str
    sigma: float
    mirror: str | None = None
    part: str = "upper"

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 10:
            raise ValueError(
                f"joint '{self.name}': sigma must be above 0 and at most 10, found {self.sigma}"
            )
        if self.part not in ("upper", "lower"):
            raise ValueError(
                f"joint '{self.name}': part must be 'upper' or 'lower', found '{self.part}'"
            )

    @property
    def side(self) -> str:
        """ "left", "right" or "middle", derived from the name."""
        return next((s for s in ("left", "right") if self.name.startswith(s)), "middle")


class Skeleton:
    """A set of joints and the limbs between them.

    Args:
        name: name of the skeleton, used in messages and saved with results.
        joints: the joints in the order of their channels; in a config, nodes with the keys of
            `Joint`.
        limbs: pairs of joint names, drawn as lines.

    Raises:
        ValueError: duplicate joint names, a mirror that does not point back, or a limb with an
            unknown joint.
    """

    def __init__(self, name: str, joints: Sequence[Joint], limbs: Sequence[tuple[str, str]]):
        self.name = name
        self.joints = tuple(joints)
        self.joint_names = tuple(j.name for j in self.joints)
        self.limbs = tuple((a, b) for a, b in limbs)
        if not self.joints:
            raise ValueError(f"skeleton '{name}' has no joints")
        if len(set(self.joint_names)) != len(self.joints):
            raise ValueError(f"skeleton '{name}' has duplicate joint names: {self.joint_names}")
        for joint in self.joints:
            if joint.mirror and self.joints[self.index(joint.mirror)].mirror != joint.name:
                raise ValueError(
                    f"skeleton '{name}': '{joint.name}' has the mirror '{joint.mirror}', "
                    f"whose mirror is not '{joint.name}'"
                )
        for limb in self.limbs:
            for joint_name in limb:
                self.index(joint_name)

    @classmethod
    def named(cls, name: str) -> Skeleton:
        """The built-in skeleton `name`, e.g. "coco17"; ValueError if it does not exist."""
        if name not in SKELETONS:
            close = get_close_matches(name, SKELETONS, 1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(SKELETONS)}"
            raise ValueError(f"no skeleton is named '{name}'{hint}")
        return _read(name)

    def node(self) -> dict[str, Any]:
        """The config node that builds this skeleton."""
        joints = [asdict(joint) for joint in self.joints]
        return {"name": self.name, "joints": joints, "limbs": [list(pair) for pair in self.limbs]}

    def __len__(self) -> int:
        return len(self.joints)

    def __repr__(self) -> str:
        return f"Skeleton('{self.name}', {len(self)} joints, {len(self.limbs)} limbs)"

    def index(self, joint_name: str) -> int:
        """Channel of a joint; ValueError with the closest name if it does not exist."""
        try:
            return self.joint_names.index(joint_name)
        except ValueError:
            close = get_close_matches(joint_name, self.joint_names, 1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ValueError(f"skeleton '{self.name}' has no joint '{joint_name}'{hint}") from None

    @cached_property
    def sigmas(self) -> np.ndarray:
        """(K,) float64 OKS constants."""
        return np.array([j.sigma for j in self.joints])

    @cached_property
    def mirror_index(self) -> np.ndarray:
        """(K,) int: `x[mirror_index]` swaps left and right joints, as for a horizontal flip."""
        return np.array([self.index(j.mirror or j.name) for j in self.joints])

    @cached_property
    def limb_index(self) -> np.ndarray:
        """(L, 2) int channels of both ends of each limb."""
        pairs = [(self.index(a), self.index(b)) for a, b in self.limbs]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)

    @cached_property
    def upper_index(self) -> np.ndarray:
        """Channels of the upper body."""
        return np.flatnonzero([j.part == "upper" for j in self.joints])

    @cached_property
    def lower_index(self) -> np.ndarray:
        """Channels of the lower body."""
        return np.flatnonzero([j.part == "lower" for j in self.joints])

    @cached_property
    def sides(self) -> tuple[str, ...]:
        """ "left", "right" or "middle" of each joint."""
        return tuple(j.side for j in self.joints)


_FOLDER = Path(__file__).resolve().parents[1] / "skeletons"
SKELETONS = tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


@cache
def _read(name: str) -> Skeleton:
    about = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return Skeleton(name, [Joint(**joint) for joint in about["joints"]], about["limbs"])


COCO17 = Skeleton.named("coco17")
