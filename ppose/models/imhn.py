"""IMHN, the identity mapping hourglass network of SimplePose.

Source: SimplePose (Li et al., "Simple Pose: Rethinking and Improving a Bottom-up Approach for
Multi-Person Pose Estimation", AAAI 2020).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from ppose.codecs.part_layout import PartLayout
from ppose.config import register
from ppose.config.ranges import Range
from ppose.models.kernels import upsample
from ppose.models.layers import ConvNorm, check_images, conv2d, parallel
from ppose.models.network import Network

SCALES = 5
_DILATIONS = (3, 3, 4, 4, 5, 5)
_SQUEEZE = 16


def leaky_relu(x: Tensor) -> Tensor:
    """LeakyReLU with slope 0.01."""
    return F.leaky_relu(x, 0.01)


@register
class IMHN(Network):
    """Stacked hourglasses with body part maps at five scales each.

    Features and maps of each scale are added to the same scale of the next hourglass. In eval mode
    only the finest scale is computed, as the output does not depend on the others.

    As published, convolutions are initialised with N(0, 0.001²), linear layers with N(0, 0.01²),
    biases with 0, and batch norms with scale 1 and bias 0.

    Args:
        parts: the channels of the maps: limbs, joints and masks.
        stacks: number of hourglasses.
        width: channels of the finest scale, a multiple of 16.
        increase: additional channels of each coarser scale, even.

    Raises:
        ValueError: an argument is out of range.
    """

    stride = 4
    size_multiple = 64
    heads = r"stacks\.\d+\.heads\.|merges\.\d+\.maps\.\d+\.conv\."

    def __init__(
        self,
        parts: PartLayout,
        stacks: Annotated[int, Range(least=1, most=16)] = 4,
        width: Annotated[int, Range(least=_SQUEEZE, most=1024, multiple=_SQUEEZE)] = 256,
        increase: Annotated[int, Range(least=0, most=512, multiple=2)] = 128,
    ):
        super().__init__()
        self.channels = parts.channels
        self.training_maps = (stacks, SCALES)
        widths = [width + increase * scale for scale in range(SCALES)]
        self.stem = Stem(width)
        self.stacks = nn.LayerList([Stack(widths, self.channels) for _ in range(stacks)])
        self.merges = nn.LayerList([Merge(widths, self.channels) for _ in range(stacks - 1)])
        self.register_forward_pre_hook(check_images)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor | list[list[Tensor]]:
        """Images (N, 3, H, W) → maps.

        Returns:
            in eval mode (N, channels, H/4, W/4); in training mode, for each stack, a list of maps
            (N, channels, H/4/2^s, W/4/2^s) for the scales s = 0 … 4.
        """
        scales = SCALES if self.training else 1
        x = self.stem(images)
        outputs: list[list[Tensor]] = []
        carried: list[Tensor] = []
        for i, stack in enumerate(self.stacks):
            features, maps = stack(x, carried, scales)
            outputs.append(maps)
            if i < len(self.merges):
                carried = self.merges[i](features, maps)
                x = x + carried[0]
        return outputs if self.training else outputs[-1][0]


class Stem(nn.Layer):
    """Images → (N, width, H/4, W/4); half of the channels come from dilated convolutions."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.conv = ConvNorm(3, width // 4, 7, stride=2, activation=leaky_relu)
        self.residual1 = Residual(width // 4, half)
        self.residual2 = Residual(half, half)
        self.dilated = nn.Sequential(
            *(ConvNorm(half, half, 3, activation=leaky_relu, dilation=d) for d in _DILATIONS)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(self.residual1(self.conv(images)), 2, 2)
        x = self.residual2(x)
        return paddle.concat([x, self.dilated(x)], axis=1)


class Stack(nn.Layer):
    """An hourglass with features and maps at each of its scales."""

    def __init__(self, widths: list[int], channels: int):
        super().__init__()
        self.hourglass = Hourglass(widths)
        self.features = nn.LayerList([Features(inputs, widths[0]) for inputs in widths])
        self.heads = nn.LayerList([conv2d(widths[0], channels, 1, bias=True) for _ in widths])

    def forward(
        self, x: Tensor, carried: list[Tensor], scales: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Features and maps of the finest `scales`; `carried` comes from the previous `Merge`."""
        found = self.hourglass(x)[:scales]
        if carried:
            found = [own + before for own, before in zip(found, carried)]  # noqa: B905
        features = parallel(self.features, found)
        return features, parallel(self.heads, features)


class Hourglass(nn.Layer):
    """Hourglass with four levels, down to 1/16 of the size (Newell et al., ECCV 2016)."""

    def __init__(self, widths: list[int]):
        super().__init__()
        levels = list(pairwise(widths))
        self.skips = nn.LayerList([Residual(fine, fine) for fine, _ in levels])
        self.downs = nn.LayerList([Residual(fine, coarse) for fine, coarse in levels])
        self.bottom = Residual(widths[-1], widths[-1])
        self.ups = nn.LayerList([Residual(coarse, fine) for fine, coarse in levels])
        self.smooths = nn.LayerList(
            [ConvNorm(fine, fine, 3, activation=leaky_relu) for fine, _ in levels]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, widths[0], h, w) → features of each scale, finest first."""
        kept = []
        for skip, down in zip(self.skips, self.downs):  # noqa: B905
            kept.append(skip(x))
            x = down(F.max_pool2d(x, 2, 2))
        x = self.bottom(x)
        found = [x]
        for i in range(len(kept) - 1, -1, -1):
            x = kept[i] + self.smooths[i](upsample(self.ups[i](x), 2))
            found.append(x)
        return found[::-1]


class Features(nn.Layer):
    """Features of a scale: two convolutions and squeeze-and-excitation."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs, 3, activation=leaky_relu)
        self.conv2 = ConvNorm(outputs, outputs, 3, activation=leaky_relu)
        self.excite = SqueezeExcitation(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.excite(self.conv2(self.conv1(x)))


class SqueezeExcitation(nn.Layer):
    """Squeeze-and-excitation (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int):
        super().__init__()
        squeezed = channels // _SQUEEZE
        self.squeeze = nn.Linear(channels, squeezed, weight_attr=nn.initializer.Normal(std=0.01))
        self.expand = nn.Linear(squeezed, channels, weight_attr=nn.initializer.Normal(std=0.01))

    def forward(self, x: Tensor) -> Tensor:
        hidden = leaky_relu(self.squeeze(x.mean(axis=[2, 3])))
        return x * F.sigmoid(self.expand(hidden)).unsqueeze([2, 3])


class Merge(nn.Layer):
    """Projects the features and maps of a stack to the input of the next stack, per scale."""

    def __init__(self, widths: list[int], channels: int):
        super().__init__()
        self.features = nn.LayerList([ConvNorm(widths[0], width, 1) for width in widths])
        self.maps = nn.LayerList([ConvNorm(channels, width, 1) for width in widths])

    def forward(self, features: list[Tensor], maps: list[Tensor]) -> list[Tensor]:
        pairs = zip(parallel(self.features, features), parallel(self.maps, maps))  # noqa: B905
        return [one + other for one, other in pairs]


class Residual(nn.Layer):
    """Residual bottleneck of half the width, with projection if the width changes."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        half = outputs // 2
        self.conv1 = ConvNorm(inputs, half, 1, activation=leaky_relu)
        self.conv2 = ConvNorm(half, half, 3, activation=leaky_relu)
        self.conv3 = ConvNorm(half, outputs, 1)
        self.skip = ConvNorm(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(self.conv3(self.conv2(self.conv1(x))) + self.skip(x))
