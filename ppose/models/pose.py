"""Top-down pose network: one person's image in, one heat map per joint out."""

from __future__ import annotations

from paddle import Tensor

from ppose.models.layers import Backbone, conv2d
from ppose.models.network import Network
from ppose.registry import register
from ppose.skeleton import Skeleton


@register
class PoseNet(Network):
    """A backbone and a 1×1 convolution to heat maps.

    The convolution starts at N(0, 0.001²) without bias, as published for HRNet.

    Args:
        backbone: makes the features; the heat maps have its resolution.
        skeleton: joints in the order of the maps.
    """

    def __init__(self, backbone: Backbone, skeleton: Skeleton):
        super().__init__()
        self.stride = backbone.stride
        self.size_multiple = backbone.size_multiple
        self.channels = len(skeleton)
        self.backbone = backbone
        self.final_conv = conv2d(backbone.out_channels, len(skeleton), 1, bias=True)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) → heat maps (N, joints, H/stride, W/stride)."""
        return self.final_conv(self.backbone(images))
