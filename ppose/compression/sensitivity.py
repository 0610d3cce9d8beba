"""Quantization sensitivity: the loss of score from quantizing each block of a network."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import paddle
from paddle import Tensor, nn

from ppose.compression.calibrate import quantize_only


@dataclass(frozen=True)
class BlockLoss:
    """Loss of score from quantizing one block.

    Attributes:
        block: name of the block.
        layers: names of its layers.
        score: score of the network with only this block quantized.
        lost: score of the float network minus `score`.
    """

    block: str
    layers: tuple[str, ...]
    score: float
    lost: float


def group_layers(names: Iterable[str], depth: int = 3) -> dict[str, list[str]]:
    """Groups layers by the first `depth` parts of their names."""
    blocks = defaultdict(list)
    for name in names:
        blocks[".".join(name.split(".")[:depth])].append(name)
    return dict(blocks)


def sensitivity(
    network: nn.Layer,
    blocks: Mapping[str, Sequence[str]],
    score: Callable[[], float],
    whole: float | None = None,
) -> list[BlockLoss]:
    """Scores the network with each block quantized alone.

    Args:
        network: quantized and calibrated.
        blocks: name → names of quantized layers, see `group_layers`.
        score: returns the score of the network in its current state; higher is better.
        whole: score of the float network, if known.

    Returns:
        the blocks, largest loss first.
    """
    if whole is None:
        with quantize_only(network, ()):
            whole = score()
    rows = []
    for block, layers in blocks.items():
        with quantize_only(network, layers):
            found = score()
        rows.append(BlockLoss(block, tuple(layers), found, whole - found))
    return sorted(rows, key=lambda row: -row.lost)


def negative_map_error(network: nn.Layer, images: Sequence[Tensor]) -> Callable[[], float]:
    """A score for `sensitivity` that needs no labels: minus the relative error of the maps.

    The error is the squared difference from the maps of the float network, divided by their sum of
    squares. It ranks blocks whose AP on a few people differs only by chance.

    Args:
        network: quantized and calibrated; outputs one tensor of maps in eval mode.
        images: normalised inputs (N, 3, H, W).
    """

    @paddle.no_grad()
    def maps() -> list[Tensor]:
        network.eval()
        return [network(image) for image in images]

    with quantize_only(network, ()):
        exact = maps()
    whole = sum(float(one.square().sum()) for one in exact)

    def score() -> float:
        pairs = zip(maps(), exact, strict=True)
        return -sum(float((one - other).square().sum()) for one, other in pairs) / whole

    return score


def suggest_exclusions(rows: Sequence[BlockLoss], allowed: float) -> list[str]:
    """Patterns that exclude the fewest blocks such that the others lose at most `allowed`.

    Args:
        rows: result of `sensitivity`.
        allowed: allowed loss of score; losses of several blocks are assumed to add up.
    """
    left = sum(max(row.lost, 0) for row in rows)
    patterns = []
    for row in sorted(rows, key=lambda row: -row.lost):
        if left <= allowed:
            break
        patterns.append(re.escape(row.block) + r"(\.|$)")
        left -= row.lost
    return patterns
