"""IMHN in PyTorch, with SimplePose's tensor names."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ppose.convert.reference.layers import conv_norm

SCALES = 5


class IMHN(nn.Module):
    """Images (N, H, W, 3), BGR in 0..1 → maps (N, channels, h, w) of all stacks and scales.

    Source: Li et al., "Simple Pose: Rethinking and Improving a Bottom-up Approach for Multi-Person
    Pose Estimation", AAAI 2020.

    Args:
        stacks: number of hourglasses.
        width: channels of the highest resolution.
        increase: additional channels of each lower resolution.
        channels: number of maps per scale.
    """

    def __init__(self, stacks: int, width: int, increase: int, channels: int):
        super().__init__()
        self.posenet = Stacks(stacks, width, increase, channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.posenet(images.permute(0, 3, 1, 2))


class Stacks(nn.Module):
    """Images (N, 3, H, W) → maps of the first stack at five scales, then of the second, etc."""

    def __init__(self, stacks: int, width: int, increase: int, channels: int):
        super().__init__()
        widths = [width + increase * scale for scale in range(SCALES)]
        before_last = range(stacks - 1)
        self.pre = Stem(width)
        self.hourglass = nn.ModuleList(Hourglass(widths) for _ in range(stacks))
        self.features = nn.ModuleList(Features(widths) for _ in range(stacks))
        self.outs = nn.ModuleList(
            nn.ModuleList(Conv(width, channels, bias=True) for _ in widths) for _ in range(stacks)
        )
        self.merge_features = nn.ModuleList(
            nn.ModuleList(Merge(width, w) for w in widths) for _ in before_last
        )
        self.merge_preds = nn.ModuleList(
            nn.ModuleList(Merge(channels, w) for w in widths) for _ in before_last
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.pre(images)
        merged: list[Tensor] = []
        outputs: list[Tensor] = []
        for i, hourglass in enumerate(self.hourglass):
            inner = hourglass(x)
            if merged:
                inner = [a + b for a, b in zip(inner, merged, strict=True)]
            features = self.features[i](inner)
            maps = [out(f) for out, f in zip(self.outs[i], features, strict=True)]
            outputs += maps
            if i < len(self.merge_preds):
                merged = [
                    from_maps(m) + from_features(f)
                    for from_maps, m, from_features, f in zip(
                        self.merge_preds[i], maps, self.merge_features[i], features, strict=True
                    )
                ]
                x = x + merged[0]
        return outputs


class Conv(nn.Sequential):
    """Convolution, batch norm unless there is a bias, and LeakyReLU if `active`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        dilation: int = 1,
        bias: bool = False,
        active: bool = False,
    ):
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, padding=padding, dilation=dilation, bias=bias
        )
        if not bias:
            self.bn = nn.BatchNorm2d(outputs)
        if active:
            self.relu = nn.LeakyReLU(0.01)


class Merge(nn.Sequential):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = Conv(inputs, outputs)


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        half = outputs // 2
        relu = nn.LeakyReLU(0.01)
        self.convBlock = nn.Sequential(
            *(*conv_norm(inputs, half, 1), relu),
            *(*conv_norm(half, half, 3), relu),
            *conv_norm(half, outputs, 1),
        )
        project = [] if inputs == outputs else conv_norm(inputs, outputs, 1)
        self.skipConv = nn.Sequential(*project)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.convBlock(x) + self.skipConv(x), 0.01)


class Stem(nn.Module):
    """Images → 1/4 of the size; half of the channels come from dilated convolutions."""

    def __init__(self, width: int):
        super().__init__()
        quarter, half = width // 4, width // 2
        self.conv1, self.bn1 = conv_norm(3, quarter, 7, stride=2)
        self.res1 = Residual(quarter, half)
        self.res2 = Residual(half, half)
        dilations = (3, 3, 4, 4, 5, 5)
        self.dilation = nn.Sequential(
            *(Conv(half, half, 3, dilation, active=True) for dilation in dilations)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = nn.functional.leaky_relu(self.bn1(self.conv1(images)), 0.01)
        x = self.res2(nn.functional.max_pool2d(self.res1(x), 2))
        return torch.cat([x, self.dilation(x)], dim=1)


class Hourglass(nn.Module):
    """Features (N, width, H, W) → features of all scales, highest resolution first."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.hg = nn.ModuleList()
        for here, below in pairwise(widths):
            down, up = Residual(here, below), Residual(below, here)
            refine = Conv(here, here, 3, active=True)
            self.hg.append(nn.ModuleList([Residual(here, here), down, up, refine]))
        self.hg[-1].append(Residual(widths[-1], widths[-1]))

    def forward(self, x: Tensor) -> list[Tensor]:
        kept = []
        for skip, down, *_ in self.hg:
            kept.append(skip(x))
            x = down(nn.functional.max_pool2d(x, 2))
        scales = [self.hg[-1][4](x)]
        for (_, _, up, refine, *_), skipped in zip(self.hg[::-1], kept[::-1], strict=True):
            upsampled = nn.functional.interpolate(up(scales[0]), scale_factor=2)
            scales.insert(0, skipped + refine(upsampled))
        return scales


class Features(nn.Module):
    """Features for the maps of each scale, all with the same width."""

    def __init__(self, widths: list[int]):
        super().__init__()
        out = widths[0]
        self.before_regress = nn.ModuleList(
            nn.Sequential(
                Conv(width, out, 3, active=True), Conv(out, out, 3, active=True), Excitation(out)
            )
            for width in widths
        )

    def forward(self, scales: list[Tensor]) -> list[Tensor]:
        return [step(x) for step, x in zip(self.before_regress, scales, strict=True)]


class Excitation(nn.Module):
    """Squeeze-and-excitation (Hu et al., CVPR 2018)."""

    def __init__(self, width: int):
        super().__init__()
        squeezed = width // 16
        self.fc = nn.Sequential(
            nn.Linear(width, squeezed), nn.LeakyReLU(0.01), nn.Linear(squeezed, width), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean(dim=(2, 3)))[:, :, None, None]
