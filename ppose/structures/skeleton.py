"""Skeletons: joints, mirror pairs, limbs and OKS sigmas by name, and the index tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from ppose.config.ranges import Range
from ppose.structures import sides

# What `mirror` says of a joint that has no partner on the other side.
NONE = "none"
_MAX_LINES = 8


@dataclass(frozen=True)
class Joint:
    """One keypoint of a skeleton.

    Args:
        name: unique name, as in the `keypoints` of a COCO category.
        sigma: OKS constant of the joint: the standard deviation of human annotations divided by
            the square root of the object's area.
        mirror: name of the joint on the other side of the body; "none" says that there is no such
            joint; None leaves it to the names, see `Skeleton`.
        part: "upper" or "lower" half of the body, for half-body augmentation.
    """

    form: ClassVar[str] = "a joint is written as {name: wrist, sigma: 0.03}"

    name: str
    sigma: Annotated[float, Range(above=0, most=10)]
    mirror: str | None = None
    part: str = "upper"

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"joint '{self.name}': sigma must be above 0, found {self.sigma}")
        if self.part not in ("upper", "lower"):
            raise ValueError(
                f"joint '{self.name}': part must be 'upper' or 'lower', found '{self.part}'"
            )

    def line(self, mirror: str | None = None, part: str | None = None) -> str:
        """The joint as a line of a config, with another mirror or part."""
        mirror, part = mirror or self.mirror, part or self.part.replace("upper", "")
        given = [f"name: {self.name}", f"sigma: {self.sigma:g}"]
        given += [f"mirror: {mirror}"] if mirror else []
        given += [f"part: {part}"] if part else []
        return "{" + ", ".join(given) + "}"


class Skeleton:
    """A set of joints and the limbs between them.

    Args:
        name: name of the skeleton, used in messages and saved with results.
        joints: the joints in the order of their channels; in a config, nodes with the keys of
            `Joint`.
        limbs: pairs of joint names, drawn as lines. Indices are an error that tells their names.
        mirror: "none" says that no joint has a partner on the other side.

    Attributes:
        joints: see above. If none was given a partner, pairs whose names differ in their side
            only mirror each other: `left_eye` and `right_eye`, `L_Eye` and `R_Eye`, `eyeL` and
            `eyeR`, `lhip` and `rhip`.
        mirror_is_guessed: whether pairs were found in the names.

    Raises:
        ValueError: duplicate joint names, a mirror that does not point back, or a limb with an
            unknown joint.
    """

    form: ClassVar[str] = (
        "a skeleton is the name of one that ships (coco17), or {name: hand, joints: [{name: wrist, "
        "sigma: 0.03}, {name: thumb, sigma: 0.05}], limbs: [[wrist, thumb]]}"
    )

    def __init__(
        self,
        name: str,
        joints: Sequence[Joint],
        limbs: Sequence[tuple[str | int, str | int]],
        mirror: Literal["none"] | None = None,
    ):
        self.name = name
        self.joints = tuple(joints)
        self.joint_names = tuple(j.name for j in self.joints)
        if not self.joints:
            raise ValueError(f"skeleton '{name}' has no joints")
        if len(set(self.joint_names)) != len(self.joints):
            raise ValueError(f"skeleton '{name}' has duplicate joint names: {self.joint_names}")
        self.joints, self.mirror_is_guessed = self._with_mirrors(mirror)
        for joint in self.joints:
            self._check_mirror(joint)
        self.limbs = named_limbs(limbs, self.joint_names)
        for limb in self.limbs:
            for joint_name in limb:
                self.index(joint_name)

    def _with_mirrors(self, mirror: str | None) -> tuple[tuple[Joint, ...], bool]:
        """The joints with what is stated for all of them or found in their names."""
        joints = [
            # Its own mirror is a joint in the middle, unless its name tells of a side.
            replace(j, mirror=NONE) if j.mirror == j.name and not sides.side_of(j.name) else j
            for j in self.joints
        ]
        given = [j for j in joints if j.mirror not in (None, NONE)]
        if mirror == NONE:
            if given:
                raise ValueError(
                    f"skeleton '{self.name}': mirror: none, but '{given[0].name}' has the mirror "
                    f"'{given[0].mirror}'; remove one of them"
                )
            return tuple(replace(j, mirror=NONE) for j in joints), False
        if given:
            return tuple(joints), False
        pairs = sides.other_side([j.name for j in joints if j.mirror is None])
        return tuple(replace(j, mirror=pairs.get(j.name, j.mirror)) for j in joints), bool(pairs)

    def _check_mirror(self, joint: Joint) -> None:
        """ValueError if the joint's mirror does not exist or does not point back."""
        if joint.mirror in (None, NONE):
            return
        about = f"skeleton '{self.name}': '{joint.name}' has the mirror '{joint.mirror}'"
        if joint.mirror == joint.name:
            other = sides.missing_side([joint.name])[joint.name]
            raise ValueError(
                f"{about}, which is itself; write mirror: {other}, or mirror: none if it has no "
                "partner"
            )
        if joint.mirror not in self.joint_names:
            close = sides.closest(joint.mirror, self.joint_names)
            hint = f"did you mean '{close}'?" if close else "mirror: none says that it has none"
            raise ValueError(f"{about}, but there is no such joint; {hint}")
        other_joint = self.joints[self.index(joint.mirror)]
        if other_joint.mirror == joint.name:
            return
        if other_joint.mirror in (None, NONE):
            raise ValueError(
                f"{about}, whose mirror is not '{joint.name}'; write {other_joint.line(joint.name)}"
            )
        raise ValueError(
            f"{about}, whose mirror is not '{joint.name}' but '{other_joint.mirror}'; each joint "
            "has one partner"
        )

    def check_sides(self) -> None:
        """ValueError if the names tell of sides that `mirror` does not, with the lines to write."""
        about, joints = f"skeleton '{self.name}'", {j.name: j for j in self.joints}
        named = sides.other_side(self.joint_names, joined=False)
        for joint in self.joints:
            if joint.mirror in (None, NONE):
                continue
            wanted = named.get(joint.name, joint.mirror)
            if wanted != joint.mirror:
                raise ValueError(
                    f"{about}: '{joint.name}' has the mirror '{joint.mirror}', but there is "
                    f"'{wanted}'; write {joint.line(wanted)}, {joints[wanted].line(joint.name)}"
                )
            side = sides.side_of(joint.name)
            if side and side == sides.side_of(joint.mirror):
                raise ValueError(
                    f"{about}: '{joint.name}' has the mirror '{joint.mirror}', but both are on the "
                    f"{side}; correct a name or a mirror"
                )
        open_names = [j.name for j in self.joints if j.mirror is None]
        none = "; a joint without a partner has mirror: none"
        pairs = sides.other_side(self.joint_names)
        missing = [joints[name].line(pairs[name]) for name in open_names if name in pairs]
        if missing:
            raise ValueError(
                f"{about}: names tell of sides, but without a mirror; write {_lines(missing)}{none}"
            )
        for name, meant in sides.misspelt_sides(self.joint_names).items():
            if name in open_names:
                raise ValueError(
                    f"{about}: '{name}' has no mirror and looks like '{meant}'; correct the name, "
                    f"in the annotations too{none}"
                )
        for name, other in sides.missing_side(self.joint_names).items():
            if name not in open_names:
                continue
            close = sides.closest(other, [n for n in open_names if n != name])
            lines = [joints[name].line(close), joints[close].line(name)] if close else []
            hint = f"if that is '{close}', write {_lines(lines)}; " if close else ""
            raise ValueError(
                f"{about}: '{name}' tells of a side, but there is no '{other}'; {hint}"
                f"without a partner, write {joints[name].line(NONE)}"
            )

    def check_flip(self) -> None:
        """ValueError if it is not known which joints a horizontal flip swaps."""
        self.check_sides()
        if (self.mirror_index == np.arange(len(self))).all() and not all(
            j.mirror == NONE for j in self.joints
        ):
            first = self.joints[0]
            raise ValueError(
                f"skeleton '{self.name}' has no mirror pairs, so that a flip would leave left "
                f"joints on the right; give both joints of each pair a mirror, such as "
                f"{first.line('NAME_OF_ITS_PARTNER')}, or write mirror: none in the skeleton if no "
                "joint has a partner"
            )

    def about_mirror(self) -> str:
        """One line about the pairs and the joints without a partner."""
        pairs = [
            f"{a}/{self.joint_names[b]}"
            for i, (a, b) in enumerate(zip(self.joint_names, self.mirror_index, strict=True))
            if b > i
        ]
        alone = [j.name for j in self.joints if j.mirror in (None, NONE)]
        return (
            f"skeleton '{self.name}': mirror pairs found in the names: {_lines(pairs)}; without a "
            f"partner: {_lines(alone) or 'none'}"
        )

    @classmethod
    def named(cls, name: str) -> Skeleton:
        """The built-in skeleton `name`, e.g. "coco17"; ValueError if it does not exist."""
        if name not in SKELETONS:
            close = sides.closest(name, SKELETONS)
            hint = f"did you mean '{close}'? Otherwise, " if close else ""
            raise ValueError(f"no skeleton is named '{name}'; {hint}{cls.form}")
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
            close = sides.closest(joint_name, self.joint_names)
            hint = f"; did you mean '{close}'?" if close else ""
            raise ValueError(f"skeleton '{self.name}' has no joint '{joint_name}'{hint}") from None

    @cached_property
    def sigmas(self) -> np.ndarray:
        """(K,) float64 OKS constants."""
        return np.array([j.sigma for j in self.joints])

    @cached_property
    def mirror_index(self) -> np.ndarray:
        """(K,) int: `x[mirror_index]` swaps left and right joints, as for a horizontal flip."""
        mirrors = [j.name if j.mirror in (None, NONE) else j.mirror for j in self.joints]
        return np.array([self.index(name) for name in mirrors])

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
        """ "left", "right" or "middle" of each joint.

        Of two partners whose names tell of no side, the first one counts as left.
        """
        found = ["middle"] * len(self)
        for i, other in enumerate(self.mirror_index.tolist()):
            if other > i:
                names = self.joint_names[i], self.joint_names[other]
                is_right = "right" in (
                    sides.side_of(*names),
                    {"left": "right"}.get(sides.side_of(*names[::-1]) or ""),
                )
                found[i], found[other] = ("right", "left") if is_right else ("left", "right")
        return tuple(found)

    @cached_property
    def groups(self) -> tuple[np.ndarray, np.ndarray]:
        """Groups of (K,) joints and (L,) limbs, such as fingers.

        A group is a chain of limbs that ends in a joint with one limb, or a closed ring, or a
        joint without limbs; -1 is what lies between: joints with more than two limbs, and chains
        from one of these to another.
        """
        count, limbs = len(self), [(a, b) for a, b in self.limb_index.tolist() if a != b]
        neighbours: list[set[int]] = [set() for _ in range(count)]
        for a, b in limbs:
            neighbours[a].add(b)
            neighbours[b].add(a)
        joint_groups = np.full(count, -1)
        seen: set[int] = set()
        number = 0
        for start in range(count):
            if start in seen or len(neighbours[start]) > 2:
                continue
            chain, ahead = [], [start]
            while ahead:
                joint = ahead.pop()
                if joint not in seen:
                    seen.add(joint)
                    chain.append(joint)
                    ahead += [n for n in neighbours[joint] if len(neighbours[n]) <= 2]
            ends = any(len(neighbours[joint]) < 2 for joint in chain)
            inner = {n for joint in chain for n in neighbours[joint]} <= set(chain)
            if ends or inner:
                joint_groups[chain] = number
                number += 1
        limb_groups = joint_groups[self.limb_index].max(1, initial=-1)
        return joint_groups, limb_groups


def named_limbs(
    limbs: Sequence[tuple[str | int, str | int]], names: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Limbs as pairs of joint names; ValueError for indices, with the names that they mean."""
    indices = [i for limb in limbs for i in limb if isinstance(i, int)]
    if not indices:
        return tuple((str(a), str(b)) for a, b in limbs)
    hints = []
    for first, origin in ((0, "counted from 0"), (1, "counted from 1, as in COCO's files")):
        if first <= min(indices) and max(indices) < first + len(names):
            pairs = [[names[i - first] if isinstance(i, int) else i for i in p] for p in limbs]
            hints.append(f"{origin}: limbs: [{', '.join(f'[{a}, {b}]' for a, b in pairs)}]")
    hint = "; ".join(hints) or f"the indices do not fit {len(names)} joints"
    raise ValueError(f"limbs: expected pairs of joint names, found indices; {hint}")


def _lines(lines: Sequence[str]) -> str:
    more = len(lines) - _MAX_LINES
    return ", ".join(lines[:_MAX_LINES]) + (f" and {more} more" if more > 0 else "")


_FOLDER = Path(__file__).resolve().parents[1] / "skeletons"
SKELETONS = tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


@cache
def _read(name: str) -> Skeleton:
    about = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return Skeleton(name, [Joint(**joint) for joint in about["joints"]], about["limbs"])


COCO17 = Skeleton.named("coco17")
