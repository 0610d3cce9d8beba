"""Top-down pose network: image of one person → one heat map per joint."""

from __future__ import annotations

from paddle import Tensor

from ppose.config import register
from ppose.models.layers import Backbone, conv2d
from ppose.models.network import Network
from ppose.structures.skeleton import Skeleton


@register
class PoseNet(Network):
    """A backbone followed by a 1×1 convolution to heat maps.

    The convolution is initialised with N(0, 0.001²) and zero bias, as in HRNet.

    Args:
        backbone: feature extractor; the heat maps have the resolution of its output.
        skeleton: joints, in the order of the heat maps.
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
