"""Names of SimplePose's published PyTorch weights, and ppose's."""

from __future__ import annotations

import re
from collections.abc import Iterable

# The published network takes BGR, ppose's RGB: the input channels of this tensor are reversed.
FIRST_CONVOLUTION = "stem.conv.conv.weight"

_PREFIX = "posenet."
_NORM_LEAVES = {"running_mean": "_mean", "running_var": "_variance"}
_HOURGLASS = ("skips", "downs", "ups", "smooths", "bottom")
# Place in the published `convBlock` → ours.
_BLOCK = {
    "0": "conv1.conv",
    "1": "conv1.norm",
    "3": "conv2.conv",
    "4": "conv2.norm",
    "6": "conv3.conv",
    "7": "conv3.norm",
}
_SKIP = {"0": "skip.conv", "1": "skip.norm"}
_STEM = {"conv1": "stem.conv.conv", "bn1": "stem.conv.norm"}
_EXCITE = {"0": "squeeze", "2": "expand"}

_PATTERNS = [
    (r"pre\.(conv1|bn1)", lambda m: _STEM[m[1]]),
    (r"pre\.res(\d)\.(.+)", lambda m: f"stem.residual{m[1]}.{_residual(m[2])}"),
    (r"pre\.dilation\.(\d)\.(conv|bn)", lambda m: f"stem.dilated.{m[1]}.{_unit(m[2])}"),
    (
        r"hourglass\.(\d+)\.hg\.(\d)\.(\d)\.(.+)",
        lambda m: f"stacks.{m[1]}.hourglass.{_hourglass(m[2], int(m[3]), m[4])}",
    ),
    (
        r"features\.(\d+)\.before_regress\.(\d)\.([01])\.(conv|bn)",
        lambda m: f"stacks.{m[1]}.features.{m[2]}.conv{int(m[3]) + 1}.{_unit(m[4])}",
    ),
    (
        r"features\.(\d+)\.before_regress\.(\d)\.2\.fc\.([02])",
        lambda m: f"stacks.{m[1]}.features.{m[2]}.excite.{_EXCITE[m[3]]}",
    ),
    (r"outs\.(\d+)\.(\d)\.conv", lambda m: f"stacks.{m[1]}.heads.{m[2]}"),
    (
        r"merge_features\.(\d+)\.(\d)\.conv\.(conv|bn)",
        lambda m: f"merges.{m[1]}.features.{m[2]}.{_unit(m[3])}",
    ),
    (
        r"merge_preds\.(\d+)\.(\d)\.conv\.(conv|bn)",
        lambda m: f"merges.{m[1]}.maps.{m[2]}.{_unit(m[3])}",
    ),
]


def targets(names: Iterable[str]) -> dict[str, str]:
    """Published name → ppose's name, for the names that have a place in the network."""
    found = {name: _target(name) for name in names}
    return {name: target for name, target in found.items() if target}


def _target(name: str) -> str | None:
    module, _, leaf = name.removeprefix(_PREFIX).rpartition(".")
    if not name.startswith(_PREFIX) or leaf == "num_batches_tracked":
        return None
    for pattern, ours in _PATTERNS:
        if match := re.fullmatch(pattern, module):
            return f"{ours(match)}.{_NORM_LEAVES.get(leaf, leaf)}"
    return None


def _unit(part: str) -> str:
    return "norm" if part == "bn" else part


def _residual(rest: str) -> str:
    block, _, place = rest.partition(".")
    return (_BLOCK if block == "convBlock" else _SKIP)[place]


def _hourglass(level: str, place: int, rest: str) -> str:
    part = _HOURGLASS[place]
    inner = _unit(rest) if part == "smooths" else _residual(rest)
    return f"bottom.{inner}" if part == "bottom" else f"{part}.{level}.{inner}"
