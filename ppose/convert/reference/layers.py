"""Layers shared by the PyTorch reference networks."""

from __future__ import annotations

from torch import Tensor, nn


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = False
) -> list[nn.Module]:
    """Convolution without bias and with "same" padding, batch norm, and optionally ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), *([nn.ReLU()] if relu else [])]


class MMPose(nn.Module):
    """MMPose's top-down network, a backbone and a head: images (N, 3, H, W) → heat maps.

    Args:
        backbone: images → features.
        width: channels of the features.
        joints: number of heat maps.
        head: name of the head: `keypoint_head` in MMPose 0, `head` in MMPose 1.
    """

    def __init__(self, backbone: nn.Module, width: int, joints: int, head: str):
        super().__init__()
        self.backbone = backbone
        self._head = head
        self.add_module(head, nn.ModuleDict({"final_layer": nn.Conv2d(width, joints, 1)}))

    def forward(self, images: Tensor) -> Tensor:
        return self.get_submodule(f"{self._head}.final_layer")(self.backbone(images))
