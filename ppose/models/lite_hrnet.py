"""Lite-HRNet: a lightweight HRNet built from shuffle blocks.

Source: Yu et al., "Lite-HRNet: A Lightweight High-Resolution Network", CVPR 2021. Parameter
names are those of the public Paddle checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from ppose.config import nearest, register
from ppose.models.kernels import upsample
from ppose.models.layers import Backbone, ConvNorm, conv2d, parallel, sum_scales


class Variant(NamedTuple):
    """A published network.

    Attributes:
        modules: number of multi-resolution modules in stages 2, 3 and 4 of the paper.
        width: channels of the highest resolution; each lower resolution has twice as many.
        weighting: conditional channel weighting instead of 1×1 convolutions.
    """

    modules: tuple[int, int, int]
    width: int
    weighting: bool


VARIANTS = {
    "lite_18": Variant((2, 4, 2), 40, weighting=True),
    "lite_30": Variant((3, 8, 3), 40, weighting=True),
    "naive": Variant((2, 4, 2), 30, weighting=False),
    "wider_naive": Variant((2, 4, 2), 40, weighting=False),
}


@register
class LiteHRNet(Backbone):
    """Lite-HRNet backbone; the output is at 1/4 of the image size.

    Convolutions are initialised with N(0, 0.001²), batch norms with scale 1 and bias 0, as in the
    paper's code.

    Args:
        network: a network of the paper: Lite-HRNet-18 or -30, or Naive or Wider Naive Lite-HRNet.
    """

    def __init__(self, network: Literal["lite_18", "lite_30", "naive", "wider_naive"]):
        if network not in VARIANTS:
            known = nearest(network, list(VARIANTS))
            raise ValueError(f"unknown Lite-HRNet '{network}'{known}")
        modules, width, weighting = VARIANTS[network]
        super().__init__(out_channels=width)
        widths = [width, 2 * width, 4 * width, 8 * width]

        self.stem = Stem(32)
        self.transition0 = Transition([32], widths[:2])
        self.stage0 = _stage(modules[0], widths[:2], weighting)
        self.transition1 = Transition(widths[:2], widths[:3])
        self.stage1 = _stage(modules[1], widths[:3], weighting)
        self.transition2 = Transition(widths[:3], widths)
        self.stage2 = _stage(modules[2], widths, weighting)
        self.head_layer = IterativeHead(widths)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W), H and W multiples of 32 → features (N, width, H/4, W/4)."""
        maps = [self.stem(images)]
        maps = self.stage0(self.transition0(maps))
        maps = self.stage1(self.transition1(maps))
        maps = self.stage2(self.transition2(maps))
        return self.head_layer(maps)


def _stage(modules: int, widths: Sequence[int], weighting: bool) -> nn.Sequential:
    return nn.Sequential(*(MultiResolutionModule(widths, weighting) for _ in range(modules)))


class Stem(nn.Layer):
    """A strided convolution and a strided shuffle block: images → 1/4 of the size."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.conv1 = ConvNorm(3, width, 3, stride=2, activation=F.relu)
        self.branch1 = nn.Sequential(
            ConvNorm(half, half, 3, stride=2, groups=half),
            ConvNorm(half, half, 1, activation=F.relu),
        )
        self.expand_conv = ConvNorm(half, width, 1, activation=F.relu)
        self.depthwise_conv = ConvNorm(width, width, 3, stride=2, groups=width)
        self.linear_conv = ConvNorm(width, half, 1, activation=F.relu)

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.conv1(images).chunk(2, axis=1)
        second = self.linear_conv(self.depthwise_conv(self.expand_conv(second)))
        return interleave(self.branch1(first), second)


class Transition(nn.LayerList):
    """Between two stages: changes the branch widths and adds a branch of half the resolution."""

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int]):
        kept = (
            nn.Identity() if source == width else separable(source, width, stride=1, relu=True)
            for source, width in zip(inputs, outputs, strict=False)
        )
        added = nn.Sequential(separable(inputs[-1], outputs[-1], stride=2, relu=True))
        super().__init__([*kept, added])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return parallel(self, [*maps, maps[-1]])


class MultiResolutionModule(nn.Layer):
    """Two shuffle blocks in each branch, followed by multi-scale fusion."""

    def __init__(self, widths: Sequence[int], weighting: bool):
        super().__init__()
        self.layers: nn.Layer = (
            nn.Sequential(*(ChannelWeightingBlock(widths) for _ in range(2)))
            if weighting
            else Branches([ShuffleBlock(w), ShuffleBlock(w)] for w in widths)
        )
        self.fuse_layers = Fusion(widths)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return self.fuse_layers(self.layers(maps))


class Branches(nn.LayerList):
    """A chain of blocks for each resolution."""

    def __init__(self, blocks: Iterable[list[nn.Layer]]):
        super().__init__([nn.Sequential(*chain) for chain in blocks])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return parallel(self, maps)


class ShuffleBlock(nn.Layer):
    """Shuffle block with stride 1 (Ma et al., ShuffleNet V2, ECCV 2018)."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.branch2 = nn.Sequential(
            ConvNorm(half, half, 1, activation=F.relu),
            ConvNorm(half, half, 3, groups=half),
            ConvNorm(half, half, 1, activation=F.relu),
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, axis=1)
        return interleave(kept, self.branch2(changed))


class ChannelWeightingBlock(nn.Layer):
    """Conditional channel weighting: shuffle blocks of all resolutions without 1×1 convolutions.

    Half of the channels pass through. The others go through cross-resolution weighting, a depthwise
    convolution, and spatial weighting.
    """

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        halves = [width // 2 for width in widths]
        self.cross_resolution_weighting = CrossResolutionWeighting(halves)
        self.depthwise_convs = nn.LayerList([ConvNorm(c, c, 3, groups=c) for c in halves])
        self.spatial_weighting = nn.LayerList([SpatialWeighting(c) for c in halves])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        halves = [x.chunk(2, axis=1) for x in maps]
        kept, changed = [half[0] for half in halves], [half[1] for half in halves]
        changed = self.cross_resolution_weighting(changed)
        changed = parallel(self.depthwise_convs, changed)
        changed = parallel(self.spatial_weighting, changed)
        return list(map(interleave, kept, changed))


class CrossResolutionWeighting(nn.Layer):
    """Weights for all channels and positions, from all resolutions pooled to the lowest one."""

    def __init__(self, widths: Sequence[int], reduction: int = 8):
        super().__init__()
        self.widths = list(widths)
        total = sum(widths)
        self.conv1 = ConvNorm(total, total // reduction, 1, activation=F.relu)
        self.conv2 = ConvNorm(total // reduction, total, 1, activation=F.sigmoid)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        last = len(maps) - 1
        pooled = [F.avg_pool2d(maps[i], 2 ** (last - i)) for i in range(last)]
        weights = self.conv2(self.conv1(paddle.concat([*pooled, maps[last]], axis=1)))
        weights = weights.split(self.widths, axis=1)
        weighted = [maps[i] * upsample(weights[i], 2 ** (last - i)) for i in range(last)]
        return [*weighted, maps[last] * weights[last]]


class SpatialWeighting(nn.Layer):
    """Channel weights from global average pooling, as in squeeze-and-excitation."""

    def __init__(self, width: int, reduction: int = 4):
        super().__init__()
        squeezed = width // reduction
        self.conv1 = nn.Sequential(
            ("conv", conv2d(width, squeezed, 1, bias=True)), ("activation", nn.ReLU())
        )
        self.conv2 = nn.Sequential(
            ("conv", conv2d(squeezed, width, 1, bias=True)), ("activation", nn.Sigmoid())
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv2(self.conv1(F.adaptive_avg_pool2d(x, 1)))


class Fusion(nn.LayerList):
    """Each output is the ReLU of a sum of all branches, resampled to its resolution and width.

    As in the published networks, whose weights depend on it, the highest resolution is added twice
    to every sum, and the sums of lower resolutions use its own sum, before ReLU.
    """

    def __init__(self, widths: Sequence[int]):
        branches = range(len(widths))
        super().__init__(
            [nn.LayerList([_path(widths, source, i) for source in branches]) for i in branches]
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        highest = self._sum(maps, 0)
        maps = [highest, *maps[1:]]
        fused = [F.relu(highest)]
        for target in range(1, len(maps)):
            total = self._sum(maps, target)
            fused.append(F.relu(total))
        return fused

    def _sum(self, maps: list[Tensor], target: int) -> Tensor:
        first, *others = parallel(self[target], maps)
        return sum_scales([2 * first, *others], target)


def _path(widths: Sequence[int], source: int, target: int) -> nn.Layer:
    """Strided convolutions, or a 1×1 convolution before the upsampling of `sum_scales`."""
    inputs, outputs = widths[source], widths[target]
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(conv2d(inputs, outputs, 1), nn.BatchNorm2D(outputs))
    halvings = [separable(inputs, inputs, stride=2, relu=True) for _ in range(source + 1, target)]
    return nn.Sequential(*halvings, separable(inputs, outputs, stride=2, relu=False))


class IterativeHead(nn.Layer):
    """Starting at the lowest resolution: convolve, upsample bilinearly, add to the next one."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        inputs = widths[::-1]
        outputs = [*inputs[1:], inputs[-1]]
        self.projects = nn.LayerList(
            [SeparableConv(a, b) for a, b in zip(inputs, outputs, strict=True)]
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = self.projects[0](maps[-1])
        for i in range(1, len(maps)):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = self.projects[i](maps[-1 - i] + x)
        return x


class SeparableConv(nn.Layer):
    """Depthwise 3×3 convolution followed by a pointwise convolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.depthwise_conv = ConvNorm(inputs, inputs, 3, groups=inputs)
        self.pointwise_conv = ConvNorm(inputs, outputs, 1, activation=F.relu)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


def separable(inputs: int, outputs: int, stride: int, relu: bool) -> nn.Sequential:
    """Depthwise separable convolution with numbered layers, as named in the checkpoints."""
    layers = [
        conv2d(inputs, inputs, 3, stride, groups=inputs),
        nn.BatchNorm2D(inputs),
        conv2d(inputs, outputs, 1),
        nn.BatchNorm2D(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


def interleave(first: Tensor, second: Tensor) -> Tensor:
    """Interleaves the channels of two tensors: (N, C, H, W) each → (N, 2C, H, W).

    Equal to concatenation and channel shuffle with two groups, but with one copy instead of two.
    """
    return paddle.concat([first.unsqueeze(2), second.unsqueeze(2)], axis=2).flatten(1, 2)
