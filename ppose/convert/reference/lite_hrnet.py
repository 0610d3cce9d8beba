"""Lite-HRNet in PyTorch, with MMPose's tensor names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppose.convert.reference.layers import conv_norm


class LiteHRNet(nn.Module):
    """Images (N, 3, H, W) → features (N, width, H/4, W/4).

    Source: Yu et al., "Lite-HRNet: A Lightweight High-Resolution Network", CVPR 2021; the
    sums are those of the published weights, see `ppose.models.lite_hrnet.Fusion`.

    Args:
        modules: number of modules in each of the three stages.
        width: channels of the highest resolution.
        weighting: conditional channel weighting instead of 1×1 convolutions.
    """

    def __init__(self, modules: tuple[int, int, int], width: int, weighting: bool):
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stem = Stem()
        inputs = [[32], widths[:2], widths[:3]]
        for i, count in enumerate(modules):
            outputs = widths[: i + 2]
            stage = (Module(outputs, weighting) for _ in range(count))
            self.add_module(f"transition{i}", transition(inputs[i], outputs))
            self.add_module(f"stage{i}", nn.Sequential(*stage))
        self.head_layer = Head(widths)

    def forward(self, images: Tensor) -> Tensor:
        maps = [self.stem(images)]
        for i in range(3):
            widen, stage = getattr(self, f"transition{i}"), getattr(self, f"stage{i}")
            maps = [step(x) for step, x in zip(widen, [*maps, maps[-1]], strict=True)]
            maps = stage(maps)
        return self.head_layer(maps)


class Conv(nn.Module):
    """Convolution, batch norm and activation, with MMCV's names."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: nn.Module | None = None,
    ):
        super().__init__()
        self.conv, self.bn = conv_norm(inputs, outputs, kernel, stride, groups)
        self.activation = activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.bn(self.conv(x)))


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Conv(3, 32, 3, stride=2, activation=nn.ReLU())
        self.branch1 = nn.Sequential(
            Conv(16, 16, 3, stride=2, groups=16), Conv(16, 16, 1, activation=nn.ReLU())
        )
        self.expand_conv = Conv(16, 32, 1, activation=nn.ReLU())
        self.depthwise_conv = Conv(32, 32, 3, stride=2, groups=32)
        self.linear_conv = Conv(32, 16, 1, activation=nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.conv1(images).chunk(2, dim=1)
        second = self.linear_conv(self.depthwise_conv(self.expand_conv(second)))
        return shuffled(self.branch1(first), second)


def shuffled(first: Tensor, second: Tensor) -> Tensor:
    """Interleaves the channels of two tensors."""
    return F.channel_shuffle(torch.cat([first, second], dim=1), groups=2)


def separable(inputs: int, outputs: int, stride: int = 1, relu: bool = False) -> nn.Sequential:
    depthwise = conv_norm(inputs, inputs, 3, stride, groups=inputs)
    return nn.Sequential(*depthwise, *conv_norm(inputs, outputs, 1, relu=relu))


def transition(inputs: Sequence[int], outputs: Sequence[int]) -> nn.ModuleList:
    steps = nn.ModuleList(
        nn.Identity() if source == width else separable(source, width, relu=True)
        for source, width in zip(inputs, outputs, strict=False)
    )
    return steps.append(nn.Sequential(separable(inputs[-1], outputs[-1], stride=2, relu=True)))


class Module(nn.Module):
    """Two blocks on all resolutions, followed by multi-scale fusion."""

    def __init__(self, widths: Sequence[int], weighting: bool):
        super().__init__()
        self.layers: nn.Module = (
            nn.Sequential(Weighting(widths), Weighting(widths))
            if weighting
            else nn.ModuleList(nn.Sequential(Shuffle(w), Shuffle(w)) for w in widths)
        )
        branches = range(len(widths))
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(path(widths, source, target) for source in branches)
            for target in branches
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        if isinstance(self.layers, nn.Sequential):
            maps = self.layers(maps)
        else:
            maps = [layer(x) for layer, x in zip(self.layers, maps, strict=True)]
        fused: list[Tensor] = []
        for row in self.fuse_layers:
            # The first branch is added twice to each sum; later sums use its own sum.
            total = row[0](maps[0])
            for step, x in zip(row, maps, strict=True):
                total = total + step(x)
            if not fused:
                maps = [total, *maps[1:]]
            fused.append(total.relu())
        return fused


def path(widths: Sequence[int], source: int, target: int) -> nn.Module:
    inputs, outputs = widths[source], widths[target]
    if source == target:
        return nn.Identity()
    if source > target:
        upsample = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
        return nn.Sequential(*conv_norm(inputs, outputs, 1), upsample)
    halvings = [separable(inputs, inputs, stride=2, relu=True) for _ in range(source + 1, target)]
    return nn.Sequential(*halvings, separable(inputs, outputs, stride=2))


class Shuffle(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.branch2 = nn.Sequential(
            Conv(half, half, 1, activation=nn.ReLU()),
            Conv(half, half, 3, groups=half),
            Conv(half, half, 1, activation=nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        return shuffled(kept, self.branch2(changed))


class Weighting(nn.Module):
    """Conditional channel weighting."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        halves = [width // 2 for width in widths]
        self.cross_resolution_weighting = CrossResolution(halves)
        self.depthwise_convs = nn.ModuleList(Conv(c, c, 3, groups=c) for c in halves)
        self.spatial_weighting = nn.ModuleList(Spatial(c) for c in halves)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        halves = [x.chunk(2, dim=1) for x in maps]
        changed = self.cross_resolution_weighting([half[1] for half in halves])
        steps = zip(self.spatial_weighting, self.depthwise_convs, changed, strict=True)
        changed = [weight(conv(x)) for weight, conv, x in steps]
        return [shuffled(half[0], x) for half, x in zip(halves, changed, strict=True)]


class CrossResolution(nn.Module):
    def __init__(self, widths: list[int]):
        super().__init__()
        self.widths = widths
        total = sum(widths)
        self.conv1 = Conv(total, total // 8, 1, activation=nn.ReLU())
        self.conv2 = Conv(total // 8, total, 1, activation=nn.Sigmoid())

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        lowest = maps[-1].shape[-2:]
        pooled = torch.cat([F.adaptive_avg_pool2d(x, lowest) for x in maps], dim=1)
        weights = self.conv2(self.conv1(pooled)).split(self.widths, dim=1)
        return [x * F.interpolate(w, x.shape[-2:]) for x, w in zip(maps, weights, strict=True)]


class Spatial(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = (
            nn.Sequential(OrderedDict(conv=nn.Conv2d(inputs, outputs, 1), activation=activation))
            for inputs, outputs, activation in (
                (width, width // 4, nn.ReLU()),
                (width // 4, width, nn.Sigmoid()),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv2(self.conv1(F.adaptive_avg_pool2d(x, 1)))


class Head(nn.Module):
    """Starting at the lowest resolution: convolve, upsample bilinearly, add to the next one."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        inputs = widths[::-1]
        outputs = [*inputs[1:], inputs[-1]]
        self.projects = nn.ModuleList(
            SeparableConv(a, b) for a, b in zip(inputs, outputs, strict=True)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = self.projects[0](maps[-1])
        for project, finer in zip(self.projects[1:], maps[-2::-1], strict=True):
            x = F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=True)
            x = project(finer + x)
        return x


class SeparableConv(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.depthwise_conv = Conv(inputs, inputs, 3, groups=inputs)
        self.pointwise_conv = Conv(inputs, outputs, 1, activation=nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))
