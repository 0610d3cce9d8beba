"""Mapping of the tensor names of SimplePose's published PyTorch weights to ppose's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

# The published network takes BGR images, ppose's RGB: its input channels are reversed.
FIRST_CONVOLUTION = "stem.conv.conv.weight"

_LEAVES = {
    "weight": "weight",
    "bias": "bias",
    "running_mean": "_mean",
    "running_var": "_variance",
}
_STEM = {"conv1": "stem.conv.conv", "bn1": "stem.conv.norm"}
_UNIT = {"conv": "conv", "bn": "norm"}
_RESIDUAL = {
    "convBlock.0": "conv1.conv",
    "convBlock.1": "conv1.norm",
    "convBlock.3": "conv2.conv",
    "convBlock.4": "conv2.norm",
    "convBlock.6": "conv3.conv",
    "convBlock.7": "conv3.norm",
    "skipConv.0": "skip.conv",
    "skipConv.1": "skip.norm",
}
_HOURGLASS = ("skips", "downs", "ups")
_EXCITE = {"0": "squeeze", "2": "expand"}

_residual = "(convBlock.[013467]|skipConv.[01])"
_unit = "(conv|bn)"
_stack = "(0|[1-9][0-9]*)"
# Patterns of published module names, in which "." is literal → ppose's names.
_MODULES: list[tuple[str, Callable[..., str]]] = [
    ("pre.(conv1|bn1)", lambda part: _STEM[part]),
    (f"pre.res([12]).{_residual}", lambda i, part: f"stem.residual{i}.{_RESIDUAL[part]}"),
    (f"pre.dilation.([0-5]).{_unit}", lambda i, part: f"stem.dilated.{i}.{_UNIT[part]}"),
    (
        f"hourglass.{_stack}.hg.([0-3]).([012]).{_residual}",
        lambda stack, level, place, part: (
            f"stacks.{stack}.hourglass.{_HOURGLASS[int(place)]}.{level}.{_RESIDUAL[part]}"
        ),
    ),
    (
        f"hourglass.{_stack}.hg.([0-3]).3.{_unit}",
        lambda stack, level, part: f"stacks.{stack}.hourglass.smooths.{level}.{_UNIT[part]}",
    ),
    (
        f"hourglass.{_stack}.hg.3.4.{_residual}",
        lambda stack, part: f"stacks.{stack}.hourglass.bottom.{_RESIDUAL[part]}",
    ),
    (
        f"features.{_stack}.before_regress.([0-4]).([01]).{_unit}",
        lambda stack, scale, place, part: (
            f"stacks.{stack}.features.{scale}.conv{int(place) + 1}.{_UNIT[part]}"
        ),
    ),
    (
        f"features.{_stack}.before_regress.([0-4]).2.fc.([02])",
        lambda stack, scale, part: f"stacks.{stack}.features.{scale}.excite.{_EXCITE[part]}",
    ),
    (f"outs.{_stack}.([0-4]).conv", lambda stack, scale: f"stacks.{stack}.heads.{scale}"),
    (
        f"merge_features.{_stack}.([0-4]).conv.{_unit}",
        lambda stack, scale, part: f"merges.{stack}.features.{scale}.{_UNIT[part]}",
    ),
    (
        f"merge_preds.{_stack}.([0-4]).conv.{_unit}",
        lambda stack, scale, part: f"merges.{stack}.maps.{scale}.{_UNIT[part]}",
    ),
]
_NAME = re.compile(rf"posenet\.(.+)\.({'|'.join(_LEAVES)})")
_PATTERNS = [(re.compile(pattern.replace(".", r"\.")), ours) for pattern, ours in _MODULES]


def targets(names: Iterable[str]) -> dict[str, str]:
    """Published name → ppose's name, for all names that exist in an IMHN of any size.

    All parameters of the published network are mapped, but not num_batches_tracked.
    """
    found = {name: _target(name) for name in names}
    return {name: target for name, target in found.items() if target is not None}


def _target(name: str) -> str | None:
    if not (parts := _NAME.fullmatch(name)):
        return None
    for pattern, ours in _PATTERNS:
        if match := pattern.fullmatch(parts[1]):
            return f"{ours(*match.groups())}.{_LEAVES[parts[2]]}"
    return None
