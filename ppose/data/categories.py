"""The categories of a COCO keypoint file whose annotations are used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from reprlib import repr as short
from typing import Any, Literal

import numpy as np

from ppose.config.ranges import Index
from ppose.config.registry import nearest
from ppose.data.coco_json import NO_ID, as_id
from ppose.data.problems import DataError, Problems
from ppose.structures.skeleton import Skeleton

Entry = dict[str, Any]
Wanted = Sequence[str | Index] | Literal["all"] | None


def choose_categories(
    entries: list[Entry],
    fitting: np.ndarray,
    skeleton: Skeleton,
    wanted: Wanted,
    problems: Problems,
) -> list[Entry]:
    """The categories whose annotations are used, with the skeleton's joints; people come first.

    Args:
        entries: the objects under `categories`.
        fitting: category ids of the annotations with as many joints as the skeleton.
        skeleton: the joints that the categories must have.
        wanted: names or ids, or "all"; None takes each category that lists the skeleton's joints
            or, if no category lists joints, those of `fitting`.
        problems: gets the categories that list no joints.

    Raises:
        DataError: a wanted category does not exist, or the joints differ.
    """
    by_id = {as_id(entry.get("id")): entry for entry in reversed(entries)}
    by_id.pop(NO_ID, None)
    by_id = dict(reversed(by_id.items()))
    named = [entry for entry in entries if entry.get("keypoints")]
    if wanted is not None:
        chosen = list(by_id) if wanted == "all" else [_find(one, by_id) for one in wanted]
        differing = [by_id[i] for i in chosen if not _has_joints(by_id[i], skeleton, or_none=True)]
        if differing:
            raise DataError(joint_difference(differing[0], skeleton))
    elif named:
        if not any(_has_joints(entry, skeleton) for entry in named):
            raise DataError(joint_difference(named[0], skeleton))
        chosen = [i for i, entry in by_id.items() if _has_joints(entry, skeleton)]
    else:
        chosen = [i for i, _ in Counter(fitting.tolist()).most_common() if i != NO_ID]
    if not chosen:
        people = [i for i, entry in by_id.items() if entry.get("name") == "person"]
        chosen = [*people, *by_id, 1][:1]
    joints = list(skeleton.joint_names)
    found = [
        {"name": "person"} | by_id.get(i, {}) | {"id": i, "keypoints": joints}
        for i in dict.fromkeys(chosen)
    ]
    problems.add(
        "repaired",
        "no category lists its keypoints, using the skeleton's",
        [] if named else found,
        lambda c: f"{category_name(c)}, skeleton '{skeleton.name}'",
    )
    return sorted(found, key=lambda c: c["name"] != "person")


def category_name(category: Entry) -> str:
    """Id and name, for messages."""
    return f"category {short(category.get('id'))} ({short(category.get('name'))})"


def joint_difference(category: Entry, skeleton: Skeleton) -> str:
    """What differs between the joints of a category and a skeleton, for an error."""
    annotated, wanted = category["keypoints"], skeleton.joint_names
    head = category_name(category)
    if not (isinstance(annotated, list) and all(isinstance(name, str) for name in annotated)):
        return f"{head}: keypoints must be joint names, found {short(annotated)}"
    extra = [name for name in annotated if name not in wanted]
    absent = [name for name in wanted if name not in annotated]
    pairs = zip(annotated, wanted, strict=False)
    moved = [f"{i}: '{a}', not '{b}'" for i, (a, b) in enumerate(pairs) if a != b]
    return "; ".join(
        [f"{head} has {len(annotated)} joints, skeleton '{skeleton.name}' has {len(wanted)}"]
        + ([f"only annotated: {', '.join(extra)}"] if extra else [])
        + ([f"only in the skeleton: {', '.join(absent)}"] if absent else [])
        + ([f"different order at {', '.join(moved[:3])}"] if not extra and not absent else [])
        + ["the skeleton must list the annotated joints in the same order"]
    )


def _has_joints(entry: Entry, skeleton: Skeleton, or_none: bool = False) -> bool:
    joints = entry.get("keypoints")
    return joints == list(skeleton.joint_names) or (or_none and not joints)


def _find(wanted: str | int, by_id: dict[int, Entry]) -> int:
    names = {str(entry.get("name")): i for i, entry in by_id.items()}
    found = by_id.get(wanted) if isinstance(wanted, int) else names.get(wanted)
    if found is None:
        known = [*names, *map(str, by_id)]
        raise DataError(f"categories: there is no {short(wanted)}{nearest(str(wanted), known)}")
    return wanted if isinstance(wanted, int) else names[wanted]
