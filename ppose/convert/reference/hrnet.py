"""HRNet in PyTorch, with the tensor names of the original project and MMPose."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppose.convert.reference.layers import conv_norm


class HRNet(nn.Module):
    """Images (N, 3, H, W) → features (N, width, H/4, W/4), or heat maps if `joints` is given.

    Source: Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation",
    CVPR 2019.

    Args:
        width: channels of the highest resolution.
        joints: number of heat maps; None for no last convolution.
    """

    def __init__(self, width: int, joints: int | None = None):
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.conv1, self.bn1 = conv_norm(3, 64, 3, stride=2)
        self.conv2, self.bn2 = conv_norm(64, 64, 3, stride=2)
        self.layer1 = nn.Sequential(Bottleneck(64, 64), *(Bottleneck(256, 64) for _ in range(3)))
        self.transition1 = transition([256], widths[:2])
        self.stage2 = nn.Sequential(Module(widths[:2], outputs=2))
        self.transition2 = transition(widths[:2], widths[:3])
        self.stage3 = nn.Sequential(*(Module(widths[:3], outputs=3) for _ in range(4)))
        self.transition3 = transition(widths[:3], widths)
        self.stage4 = nn.Sequential(*(Module(widths, outputs=n) for n in (4, 4, 1)))
        self.final_layer = nn.Identity() if joints is None else nn.Conv2d(width, joints, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.bn1(self.conv1(images)).relu()
        x = self.bn2(self.conv2(x)).relu()
        maps = [self.layer1(x)]
        for i in (1, 2, 3):
            widen, stage = getattr(self, f"transition{i}"), getattr(self, f"stage{i + 1}")
            maps = [step(x) for step, x in zip(widen, [*maps, maps[-1]], strict=True)]
            maps = stage(maps)
        return self.final_layer(maps[0])


def transition(inputs: Sequence[int], outputs: Sequence[int]) -> nn.ModuleList:
    steps = nn.ModuleList()
    for source, width in zip(inputs, outputs, strict=False):
        same = source == width
        steps.append(
            nn.Identity() if same else nn.Sequential(*conv_norm(source, width, 3, relu=True))
        )
    added = conv_norm(inputs[-1], outputs[-1], 3, stride=2, relu=True)
    return steps.append(nn.Sequential(nn.Sequential(*added)))


class Module(nn.Module):
    """Four residual blocks on each resolution, followed by multi-scale fusion."""

    def __init__(self, widths: Sequence[int], outputs: int):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width) for _ in range(4))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(path(widths, source, target) for source in range(len(widths)))
            for target in range(outputs)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [
            torch.stack([step(x) for step, x in zip(row, maps, strict=True)]).sum(0).relu()
            for row in self.fuse_layers
        ]


def path(widths: Sequence[int], source: int, target: int) -> nn.Module:
    inputs, outputs = widths[source], widths[target]
    if source > target:
        upsample = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
        return nn.Sequential(*conv_norm(inputs, outputs, 1), upsample)
    halvings = []
    for step in range(source + 1, target + 1):
        last = step == target
        halvings.append(conv_norm(inputs, outputs if last else inputs, 3, stride=2, relu=not last))
    return nn.Sequential(*(nn.Sequential(*layers) for layers in halvings))


class BasicBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.bn1 = conv_norm(width, width, 3)
        self.conv2, self.bn2 = conv_norm(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn1(self.conv1(x)).relu()
        return (x + self.bn2(self.conv2(inner))).relu()


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = conv_norm(inputs, width, 1)
        self.conv2, self.bn2 = conv_norm(width, width, 3)
        self.conv3, self.bn3 = conv_norm(width, outputs, 1)
        project = [] if inputs == outputs else conv_norm(inputs, outputs, 1)
        self.downsample = nn.Sequential(*project)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn1(self.conv1(x)).relu()
        inner = self.bn2(self.conv2(inner)).relu()
        return (self.downsample(x) + self.bn3(self.conv3(inner))).relu()
