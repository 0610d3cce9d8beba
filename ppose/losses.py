"""Losses: (network output, batch of targets) → named scalars; their sum is minimised."""

from __future__ import annotations

import paddle
from paddle import Tensor

from ppose.registry import ConfigError, register


class Loss:
    """Base class of what `loss:` in a config may name."""

    def __call__(self, outputs: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError


@register
class HeatmapMSE(Loss):
    """Mean squared error between heat maps, over labelled joints only.

    Args:
        scale: factor of the loss; ½ as published (Simple Baselines, HRNet).
    """

    def __init__(self, scale: float = 0.5):
        self.scale = scale

    def __call__(self, outputs: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Maps (N, K, h, w) against `target` (N, K, h, w) and `weight` (N, K)."""
        return {"heatmap": _joint_errors(outputs, targets).mean() * self.scale}


@register
class HeatmapOHKM(Loss):
    """Mean squared error over the hardest joints of each person.

    Source: online hard keypoint mining of CPN (Chen et al., CVPR 2018).

    Args:
        joints: how many of the hardest joints count.
        scale: factor of the loss.

    Raises:
        ConfigError: called with fewer joints than that.
    """

    def __init__(self, joints: int = 8, scale: float = 0.5):
        if joints < 1:
            raise ValueError(f"joints has to be at least 1, found {joints}")
        self.joints = joints
        self.scale = scale

    def __call__(self, outputs: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        errors = _joint_errors(outputs, targets)
        if self.joints > errors.shape[1]:
            raise ConfigError(
                f"loss.joints: HeatmapOHKM keeps the hardest {self.joints} joints, "
                f"but there are only {errors.shape[1]}"
            )
        hardest = paddle.topk(errors, self.joints, axis=1)[0]
        return {"heatmap_ohkm": hardest.mean() * self.scale}


def _joint_errors(outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """(N, K) mean squared error of each map, 0 for unlabelled joints; float32."""
    error = (outputs.astype("float32") - targets["target"]).square().mean(axis=[2, 3])
    return error * targets["weight"].square()
