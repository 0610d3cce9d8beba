"""HRNet: parallel branches at four resolutions with repeated multi-scale fusion.

Source: Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation",
CVPR 2019. Parameter names are those of the public Paddle checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from paddle import Tensor, nn
from paddle.nn import functional as F

from ppose.config import register
from ppose.config.ranges import Range
from ppose.models.layers import Backbone, ConvNorm, parallel, sum_scales

_Width = Annotated[int, Range(least=1, most=256)]
_Repeats = Annotated[int, Range(least=1, most=32)]


@register
class HRNet(Backbone):
    """HRNet backbone; the output is the highest-resolution branch, at 1/4 of the image size.

    Convolutions are initialised with N(0, 0.001²), batch norms with scale 1 and bias 0, as in the
    paper's code.

    Args:
        width: channels of the highest resolution; each lower resolution has twice as many as the
            one above. The published networks have 32 and 48.
        modules: number of multi-resolution modules in stages 2, 3 and 4.
        blocks: number of residual blocks in each branch of a module.
        stem_width: channels of the stem.
        stage1_width: channels inside a bottleneck of stage 1; its output has four times as many.
        stage1_blocks: number of bottlenecks in stage 1.

    Raises:
        ValueError: an argument is below 1.
    """

    def __init__(
        self,
        width: _Width = 32,
        modules: tuple[_Repeats, _Repeats, _Repeats] = (1, 4, 3),
        blocks: _Repeats = 4,
        stem_width: _Width = 64,
        stage1_width: _Width = 64,
        stage1_blocks: _Repeats = 4,
    ):
        super().__init__(out_channels=width)
        widths = [width, 2 * width, 4 * width, 8 * width]

        self.conv_layer1_1 = ConvNorm(3, stem_width, 3, stride=2, activation=F.relu)
        self.conv_layer1_2 = ConvNorm(stem_width, stem_width, 3, stride=2, activation=F.relu)
        self.la1 = _bottlenecks("layer2", stem_width, stage1_width, stage1_blocks)
        self.tr1 = Transition("tr1", [Bottleneck.expansion * stage1_width], widths[:2])
        self.st2 = _stage("st2", widths[:2], modules[0], blocks, outputs=2)
        self.tr2 = Transition("tr2", widths[:2], widths[:3])
        self.st3 = _stage("st3", widths[:3], modules[1], blocks, outputs=3)
        self.tr3 = Transition("tr3", widths[:3], widths)
        self.st4 = _stage("st4", widths, modules[2], blocks, outputs=1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W), H and W multiples of 32 → features (N, width, H/4, W/4)."""
        x = self.conv_layer1_2(self.conv_layer1_1(images))
        maps = [self.la1(x)]
        maps = self.st2(self.tr1(maps))
        maps = self.st3(self.tr2(maps))
        maps = self.st4(self.tr3(maps))
        return maps[0]


def _bottlenecks(name: str, inputs: int, width: int, count: int) -> nn.Sequential:
    channels = [inputs] + [Bottleneck.expansion * width] * (count - 1)
    return nn.Sequential(
        *((f"block_{name}_{i}", Bottleneck(c, width)) for i, c in enumerate(channels, 1))
    )


def _stage(
    name: str, widths: Sequence[int], modules: int, blocks: int, outputs: int
) -> nn.Sequential:
    """A sequence of modules; the last one outputs only the `outputs` highest resolutions."""
    counts = [len(widths)] * (modules - 1) + [outputs]
    return nn.Sequential(
        *(
            (f"stage_{name}_{i}", MultiResolutionModule(f"{name}_{i}", widths, blocks, n))
            for i, n in enumerate(counts, 1)
        )
    )


class Transition(nn.Layer):
    """Between two stages: changes the branch widths and adds a branch of half the resolution.

    Args:
        name: part of the parameter names.
        inputs, outputs: channels of the branches before and after, highest resolution first.
    """

    def __init__(self, name: str, inputs: Sequence[int], outputs: Sequence[int]):
        super().__init__()
        self._steps: list[nn.Layer] = []
        for i, (source, width) in enumerate(zip([*inputs, inputs[-1]], outputs, strict=True)):
            added = i == len(inputs)
            if added or source != width:
                conv = ConvNorm(source, width, 3, stride=2 if added else 1, activation=F.relu)
                self._steps.append(self.add_sublayer(f"transition_{name}_layer_{i + 1}", conv))
            else:
                self._steps.append(nn.Identity())

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return parallel(self._steps, [*maps, maps[-1]])


class MultiResolutionModule(nn.Layer):
    """Parallel branches followed by multi-scale fusion.

    Args:
        name: part of the parameter names.
        widths: channels of the branches.
        blocks: number of residual blocks in each branch.
        outputs: number of output resolutions, highest first.
    """

    def __init__(self, name: str, widths: Sequence[int], blocks: int, outputs: int):
        super().__init__()
        self.branches_func = Branches(name, widths, blocks)
        self.fuse_func = Fusion(name, widths, outputs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return self.fuse_func(self.branches_func(maps))


class Branches(nn.Layer):
    """A chain of residual blocks for each resolution."""

    def __init__(self, name: str, widths: Sequence[int], blocks: int):
        super().__init__()
        # Checkpoints have flat names of the blocks: a plain list adds no further level.
        self._chains = [
            nn.Sequential(
                *(
                    self.add_sublayer(f"bb_{name}_branch_layer_{i}_{j}", BasicBlock(width))
                    for j in range(1, blocks + 1)
                )
            )
            for i, width in enumerate(widths, 1)
        ]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return parallel(self._chains, maps)


class Fusion(nn.Layer):
    """Each output is the ReLU of the sum of all branches, resampled to its resolution and width."""

    def __init__(self, name: str, widths: Sequence[int], outputs: int):
        super().__init__()
        self._paths = [
            [self._path(name, widths, source, target) for source in range(len(widths))]
            for target in range(outputs)
        ]

    def _path(self, name: str, widths: Sequence[int], source: int, target: int) -> nn.Sequential:
        """Strided convolutions, or a 1×1 convolution before the upsampling of `sum_scales`."""
        name = f"residual_{name}_layer_{target + 1}_{source + 1}"
        if source > target:
            conv = ConvNorm(widths[source], widths[target], 1)
            return nn.Sequential(self.add_sublayer(name, conv))
        halvings = []
        for step in range(1, target - source + 1):
            last = step == target - source
            conv = ConvNorm(
                widths[source],
                widths[target if last else source],
                3,
                stride=2,
                activation=None if last else F.relu,
            )
            halvings.append(self.add_sublayer(f"{name}_{step}", conv))
        return nn.Sequential(*halvings)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fused = []
        for target, paths in enumerate(self._paths):
            total = sum_scales(parallel(paths, maps), target)
            fused.append(F.relu(total))
        return fused


class BasicBlock(nn.Layer):
    """Residual block of two 3×3 convolutions (He et al., CVPR 2016)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = ConvNorm(width, width, 3, activation=F.relu)
        self.conv2 = ConvNorm(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(self.conv1(x)))


class Bottleneck(nn.Layer):
    """Residual block of 1×1, 3×3 and 1×1 convolutions, with projection if the width changes."""

    expansion = 4

    def __init__(self, inputs: int, width: int):
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = ConvNorm(inputs, width, 1, activation=F.relu)
        self.conv2 = ConvNorm(width, width, 3, activation=F.relu)
        self.conv3 = ConvNorm(width, outputs, 1)
        self.conv_down = None if inputs == outputs else ConvNorm(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.conv_down is None else self.conv_down(x)
        return F.relu(shortcut + self.conv3(self.conv2(self.conv1(x))))
