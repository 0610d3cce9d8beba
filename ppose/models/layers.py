"""What the networks are made of: the backbone's contract, convolution units, sums over scales."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce

import paddle
from paddle import Tensor, nn

from ppose.models.kernels import DepthwiseConv2D, upsample
from ppose.models.network import Network

Activation = Callable[[Tensor], Tensor]


class Backbone(nn.Layer):
    """Base class of what turns images (N, 3, H, W) into one map (N, out_channels, H/s, W/s).

    Args:
        out_channels: channels of the map.

    Attributes:
        stride: s, pixels of the image per pixel of the map.
        size_multiple: height and width have to be multiples of it, so that the maps of all
            resolutions inside the network lie on one another.
    """

    stride: int = 4
    size_multiple: int = 32

    def __init__(self, out_channels: int):
        super().__init__()
        self.out_channels = out_channels
        # In a hook, dynamic-to-static does not turn the check into a part of the exported graph.
        self.register_forward_pre_hook(check_images)  # type: ignore[arg-type]


def check_images(network: Backbone | Network, inputs: tuple[Tensor]) -> None:
    """Hook before `forward`: ValueError for images that are no multiple of `size_multiple`."""
    shape, multiple = list(inputs[0].shape), network.size_multiple
    # A size that an exported graph leaves open is -1.
    if len(shape) != 4 or any(side > 0 and side % multiple for side in shape[2:]):
        raise ValueError(
            f"{type(network).__name__} takes images (N, 3, H, W) with H and W multiples of "
            f"{multiple}, found {shape}; resize or pad them, or set input_size to such a size"
        )


def conv2d(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    dilation: int = 1,
) -> nn.Conv2D:
    """Convolution that keeps the size, up to its stride; weights start at N(0, 0.001²)."""
    if groups == inputs == outputs and (kernel, bias, dilation) == (3, False, 1):
        return DepthwiseConv2D(inputs, stride, weight_attr=nn.initializer.Normal(std=0.001))
    return nn.Conv2D(
        inputs,
        outputs,
        kernel,
        stride,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        groups=groups,
        weight_attr=nn.initializer.Normal(std=0.001),
        bias_attr=None if bias else False,
    )


class ConvNorm(nn.Layer):
    """Convolution, batch norm and activation.

    Args:
        inputs, outputs: channels.
        kernel: odd side of the kernel.
        stride: of the convolution.
        groups: of the convolution; `inputs` for a depthwise one.
        activation: applied last; None for none.
        dilation: cells between the kernel's taps.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = None,
        dilation: int = 1,
    ):
        super().__init__()
        self.conv = conv2d(inputs, outputs, kernel, stride, groups, dilation=dilation)
        self.norm = nn.BatchNorm2D(outputs)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if self.activation is None else self.activation(x)


def parallel(layers: Iterable[nn.Layer], maps: Iterable[Tensor]) -> list[Tensor]:
    """Applies each layer to the map at its place."""
    # No strict: dynamic-to-static knows zip without keywords only.
    return [layer(x) for layer, x in zip(layers, maps)]  # noqa: B905


def sum_scales(maps: Sequence[Tensor], target: int) -> Tensor:
    """Sum of maps at the resolution of `maps[target]`.

    Args:
        maps: up to `target` of one size, each later one half as large as the one before.
        target: index of the first map after which the sizes fall.
    """
    # Nearest upsampling distributes over sums: from the coarsest map up, each sum is only doubled,
    # and most additions happen on small maps.
    falling = [reduce(paddle.add, maps[: target + 1]), *maps[target + 1 :]]
    total = falling[-1]
    for finer in falling[-2::-1]:
        total = finer + upsample(total, 2)
    return total
