"""What every pose network promises to the data path and to the codec."""

from __future__ import annotations

from paddle import nn


class Network(nn.Layer):
    """Base class of what `model:` in a config may name: images (N, 3, H, W) → maps.

    In training a network may give more than the maps that are decoded, for its loss; in eval
    mode it gives maps (N, channels, H/stride, W/stride) only.

    Attributes:
        stride: pixels of the input per cell of the maps.
        size_multiple: height and width of the input have to be multiples of it.
        channels: number of maps.
        heads: pattern of the names, outside a backbone, of tensors whose shape depends on what
            the maps show; a training may start from weights without them.
    """

    stride: int
    size_multiple: int
    channels: int
    heads: str = r"$^"
