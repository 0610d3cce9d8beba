"""Channel layout of bottom-up networks: joints, derived joints, and limbs, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ppose.config import nearest, register, renamed
from ppose.config.ranges import Index
from ppose.structures.skeleton import COCO17, Skeleton, named_limbs


@register
@renamed("Parts")
class PartLayout:
    """Channels of a bottom-up network and how they relate to the joints of a skeleton.

    Channels are the limbs, the joints, a mask of all people and the maximum over the joints.

    Args:
        skeleton: the annotated joints, which are also the joints of the result.
        joints: names of all joints of the skeleton and all derived joints, in the order of their
            channels; None uses the skeleton's order, then the derived joints.
        limbs: pairs of names in the order of their channels; None uses the skeleton's limbs.
        derived: additional joints, each the mean of the named joints of the skeleton; used for
            grouping, but not part of the result.

    Raises:
        ValueError: a joint is missing, duplicate or unknown, or a limb is duplicate.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        joints: Sequence[str] | None = None,
        limbs: Sequence[tuple[str | Index, str | Index]] | None = None,
        derived: Mapping[str, Sequence[str]] | None = None,
    ):
        self.skeleton = skeleton
        self.derived = {name: tuple(sources) for name, sources in (derived or {}).items()}
        self.joints = tuple(joints or (*skeleton.joint_names, *self.derived))
        self.limbs = skeleton.limbs if limbs is None else named_limbs(limbs, self.joints)
        known = (*skeleton.joint_names, *self.derived)
        for name, sources in self.derived.items():
            if name in skeleton.joint_names or not sources:
                raise ValueError(f"derived joint '{name}' needs a new name and its sources")
            for source in sources:
                skeleton.index(source)
        if sorted(self.joints) != sorted(known):
            raise ValueError(f"joints: expected each of {known} once, found {self.joints}")
        ends = [frozenset(limb) for limb in self.limbs]
        if not ends or len(set(ends)) != len(ends) or any(len(pair) < 2 for pair in ends):
            raise ValueError("limbs: expected pairs of different joints, each pair once")
        for limb in self.limbs:
            for name in limb:
                self.index(name)

    @classmethod
    def named(cls, name: str) -> PartLayout:
        """The built-in layout `name`, e.g. "simplepose"; ValueError if it does not exist."""
        if name not in PARTS:
            raise ValueError(f"no parts are named '{name}'{nearest(name, list(PARTS))}")
        return PARTS[name]

    def node(self) -> dict[str, Any]:
        """The config node that builds this layout."""
        return {
            "skeleton": self.skeleton.node(),
            "joints": list(self.joints),
            "limbs": [list(pair) for pair in self.limbs],
            "derived": {name: list(sources) for name, sources in self.derived.items()},
        }

    def __repr__(self) -> str:
        return f"PartLayout({len(self.limbs)} limbs, {len(self.joints)} joints)"

    def index(self, name: str) -> int:
        """Index of a joint in `joints`; ValueError if it does not exist."""
        if name not in self.joints:
            raise ValueError(f"no joint is named '{name}'{nearest(name, self.joints)}")
        return self.joints.index(name)

    @property
    def channels(self) -> int:
        """Number of maps: limbs, joints, mask and maximum."""
        return len(self.limbs) + len(self.joints) + 2

    @cached_property
    def limb_channels(self) -> slice:
        """Channels of the limb maps."""
        return slice(0, len(self.limbs))

    @cached_property
    def joint_channels(self) -> slice:
        """Channels of the joint maps."""
        return slice(len(self.limbs), len(self.limbs) + len(self.joints))

    @cached_property
    def limb_index(self) -> np.ndarray:
        """(L, 2) int indices in `joints` of both ends of each limb."""
        return np.array([(self.index(a), self.index(b)) for a, b in self.limbs])

    @cached_property
    def mirror_channels(self) -> np.ndarray:
        """(channels,) int: `maps[mirror_channels]` swaps left and right, as for a horizontal flip.

        Raises:
            ValueError: a limb or a derived joint has no left-right counterpart.
        """
        joints = self._mirror_joints
        ends = [frozenset(pair) for pair in self.limb_index.tolist()]
        mirrored = [frozenset(pair) for pair in joints[self.limb_index].tolist()]
        missing = [self.limbs[i] for i, pair in enumerate(mirrored) if pair not in ends]
        if missing:
            raise ValueError(f"limb {missing[0]} has no left-right counterpart among the limbs")
        limbs = np.array([ends.index(pair) for pair in mirrored])
        rest = len(limbs) + len(joints) + np.arange(2)
        return np.concatenate([limbs, len(limbs) + joints, rest])

    def from_skeleton(self, keypoints: np.ndarray) -> np.ndarray:
        """(P, K, 3) annotated joints → (P, J, 3) joints of the parts.

        A derived joint is labelled if all of its sources are, and has the lowest visibility of
        its sources.
        """
        columns = {name: keypoints[:, i] for i, name in enumerate(self.skeleton.joint_names)}
        for name, sources in self.derived.items():
            given = keypoints[:, [self.skeleton.index(source) for source in sources]]
            columns[name] = given.mean(1)
            columns[name][:, 2] = given[..., 2].min(1)
        return np.stack([columns[name] for name in self.joints], 1)

    def to_skeleton(self, people: np.ndarray) -> np.ndarray:
        """(P, J, ...) joints of the parts → (P, K, ...) joints of the skeleton."""
        return people[:, [self.index(name) for name in self.skeleton.joint_names]]

    @cached_property
    def _mirror_joints(self) -> np.ndarray:
        names = self.skeleton.joint_names
        mirror = {name: names[i] for name, i in zip(names, self.skeleton.mirror_index, strict=True)}
        for name, sources in self.derived.items():
            image = {mirror[source] for source in sources}
            images = [n for n, of in self.derived.items() if set(of) == image]
            if not images:
                raise ValueError(f"derived joint '{name}' has no left-right counterpart")
            mirror[name] = images[0]
        return np.array([self.index(mirror[name]) for name in self.joints])


def _sides(*stems: str) -> list[str]:
    return [f"{side}_{stem}" for side in ("right", "left") for stem in stems]


# Order of joints and limbs in the published SimplePose weights (Li et al., AAAI 2020).
_SIMPLEPOSE_JOINTS = [
    *("nose", "neck"),
    *_sides("shoulder", "elbow", "wrist"),
    *_sides("hip", "knee", "ankle"),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
]
_SIMPLEPOSE_LIMBS = [
    *((1, 0), (1, 14), (1, 15), (1, 16), (1, 17), (0, 14), (0, 15), (14, 16), (15, 17)),
    *((1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7)),
    *((1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((0, 2), (0, 5), (2, 8), (8, 12), (5, 11), (11, 9), (16, 2), (17, 5), (8, 11)),
]

SIMPLEPOSE = PartLayout(
    COCO17,
    joints=_SIMPLEPOSE_JOINTS,
    limbs=[(_SIMPLEPOSE_JOINTS[a], _SIMPLEPOSE_JOINTS[b]) for a, b in _SIMPLEPOSE_LIMBS],
    derived={"neck": ("left_shoulder", "right_shoulder")},
)

PARTS = {"simplepose": SIMPLEPOSE}
