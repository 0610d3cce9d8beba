"""Base class of pose networks."""

from __future__ import annotations

from paddle import nn


class Network(nn.Layer):
    """Base class of the networks for `model:` in a config: images (N, 3, H, W) → maps.

    In eval mode the output is maps (N, channels, H/stride, W/stride). In training mode it may
    contain further maps for the loss.

    Attributes:
        training_maps: numbers of stacks, and of scales in each, that have maps in training.
        stride: input pixels per cell of the maps.
        size_multiple: height and width of the input must be multiples of it.
        channels: number of maps.
        heads: regular expression for the names of tensors outside a backbone whose shape depends
            on the output channels; pretrained weights may lack them.
    """

    training_maps: tuple[int, int] = (1, 1)
    stride: int
    size_multiple: int
    channels: int
    heads: str = r"$^"
