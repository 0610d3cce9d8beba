"""Shared building blocks: backbone base class, convolution layers, sums over resolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce

import paddle
from paddle import Tensor, nn

from ppose.models.kernels import DepthwiseConv2D, upsample
from ppose.models.network import Network

Activation = Callable[[Tensor], Tensor]


class Backbone(nn.Layer):
    """Base class of backbones: images (N, 3, H, W) → features (N, out_channels, H/s, W/s).

    Args:
        out_channels: number of feature channels.

    Attributes:
        stride: s, input pixels per feature pixel.
        size_multiple: height and width of the input must be multiples of it, so that feature maps
            of different resolutions align.
    """

    stride: int = 4
    size_multiple: int = 32

    def __init__(self, out_channels: int):
        super().__init__()
        self.out_channels = out_channels
        # As a hook, the check does not become part of a graph traced by dynamic-to-static.
        self.register_forward_pre_hook(check_images)  # type: ignore[arg-type]


def check_images(network: Backbone | Network, inputs: tuple[Tensor]) -> None:
    """Forward pre-hook: raises ValueError if a size is not a multiple of `size_multiple`."""
    shape, multiple = list(inputs[0].shape), network.size_multiple
    # A dynamic size is -1 during export.
    if len(shape) != 4 or any(side > 0 and side % multiple for side in shape[2:]):
        raise ValueError(
            f"{type(network).__name__} expects images (N, 3, H, W) with H and W multiples of "
            f"{multiple}, found {shape}; resize or pad them, or change input_size"
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
    """Convolution with "same" padding, initialised with N(0, 0.001²)."""
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
    """Convolution without bias, batch norm and optional activation.

    Args:
        inputs, outputs: numbers of channels.
        kernel: kernel size, odd.
        stride: stride of the convolution.
        groups: groups of the convolution; `inputs` for a depthwise convolution.
        activation: activation function, or None.
        dilation: dilation of the convolution.
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
    """Applies each layer to the map at the same index."""
    # Without `strict`, as dynamic-to-static does not support keyword arguments of zip.
    return [layer(x) for layer, x in zip(layers, maps)]  # noqa: B905


def sum_scales(maps: Sequence[Tensor], target: int) -> Tensor:
    """Sum of maps at the resolution of `maps[target]`, with nearest upsampling.

    Args:
        maps: maps up to `target` have the same size, each later one half that of the previous.
        target: index of the map whose resolution the sum has.
    """
    # Nearest upsampling distributes over sums. Starting at the coarsest map, each partial sum is
    # upsampled by 2 only, and most additions are on small maps.
    pyramid = [reduce(paddle.add, maps[: target + 1]), *maps[target + 1 :]]
    total = pyramid[-1]
    for finer in pyramid[-2::-1]:
        total = finer + upsample(total, 2)
    return total
