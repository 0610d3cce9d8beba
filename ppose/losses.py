"""Losses: (network output, batch of targets) → named scalars, whose sum is minimised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppose.codecs.part_layout import PartLayout
from ppose.config import ConfigError, register
from ppose.config.ranges import Factor, Length, Range, Weight

# Minimum target of a foreground cell, and minimum labelled fraction of a cell that counts as
# known, both from the published SimplePose code. Averages of the minimum limb value are 0.01 up to
# rounding; the margin makes all of them foreground.
_FOREGROUND = 0.01 * (1 - 1e-5)
_KNOWN = 0.5


_Weights = Annotated[Sequence[Weight], Length(1, 64)]


class Loss:
    """Base class of the losses for `loss:` in a config.

    Attributes:
        uses_boxes: `Codec.uses_boxes` of the codecs that it supports.
    """

    uses_boxes = True

    def __call__(self, outputs: Any, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Named scalars for the output of the network, a tensor or lists of tensors."""
        raise NotImplementedError

    def check_fit(self, channels: int, training_maps: tuple[int, int]) -> None:
        """Raises ConfigError if the loss does not fit a network.

        Args:
            channels, training_maps: see `ppose.models.network.Network`.
        """


@register
class HeatmapMSE(Loss):
    """Mean squared error of the heat maps of labelled joints.

    Args:
        scale: factor of the loss; 0.5 as published (Simple Baselines, HRNet).
    """

    def __init__(self, scale: Factor = 0.5):
        self.scale = scale

    def __call__(self, outputs: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss of maps (N, K, h, w) for `target` (N, K, h, w) and `weight` (N, K)."""
        return {"heatmap": _joint_errors(outputs, targets).mean() * self.scale}


@register
class HeatmapOHKM(Loss):
    """Online hard keypoint mining: mean squared error of the hardest joints of each person.

    Source: CPN (Chen et al., CVPR 2018).

    Args:
        joints: number of hardest joints to use.
        scale: factor of the loss.

    Raises:
        ConfigError: when called with maps of fewer joints.
    """

    def __init__(self, joints: Annotated[int, Range(least=1, most=1000)] = 8, scale: Factor = 0.5):
        self.joints = joints
        self.scale = scale

    def __call__(self, outputs: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        errors = _joint_errors(outputs, targets)
        self._check_joints(errors.shape[1])
        hardest = paddle.topk(errors, self.joints, axis=1)[0]
        return {"heatmap_ohkm": hardest.mean() * self.scale}

    def check_fit(self, channels: int, training_maps: tuple[int, int]) -> None:
        """Raises ConfigError for maps of fewer joints."""
        self._check_joints(channels)

    def _check_joints(self, joints: int) -> None:
        if self.joints > joints:
            raise ConfigError(
                f"loss.joints: HeatmapOHKM uses the hardest {self.joints} joints, "
                f"but there are only {joints}"
            )


@register
class BodyPartsLoss(Loss):
    """Focal L2 loss of body part maps at several scales of several stacks.

    The squared error of a cell is multiplied by |1 − s|^gamma where the target is foreground, and
    by |s|^gamma elsewhere, where s is the output; gradients flow through this factor too. Errors
    are summed over cells and channels, and averaged over scales and stacks with their weights, and
    over the batch. Source: the published code of SimplePose (Li et al., AAAI 2020).

    Args:
        parts: which channels are limbs, joints and masks.
        gamma: 1 as in the published code, 2 as in the paper, 0 for plain L2.
        scale_weights: weight of each scale of a stack, finest first.
        stack_weights: weight of each stack, in order; None for equal weights.
        joint_weight: factor of the joint channels.
        mask_weight: factor of the person mask channel.

    Raises:
        ValueError: gamma is negative or between 0 and 1 (unbounded gradient), or weights are
            negative or all 0.
        ConfigError: when called with maps of a wrong number or shape.
    """

    uses_boxes = False

    def __init__(
        self,
        parts: PartLayout,
        gamma: Annotated[float, Range(least=0, most=10)] = 1.0,
        scale_weights: _Weights = (0.1, 0.2, 0.4, 1.6, 6.4),
        stack_weights: _Weights | None = None,
        joint_weight: Weight = 3.0,
        mask_weight: Weight = 0.1,
    ):
        if 0 < gamma < 1:
            raise ValueError(f"gamma: expected 0, or at least 1, found {gamma}")
        for name, weights in (("scale_weights", scale_weights), ("stack_weights", stack_weights)):
            if weights is not None and not any(weights):
                raise ValueError(f"{name}: expected not only 0, found {weights}")
        self.parts = parts
        self.gamma = gamma
        self.scale_weights = tuple(scale_weights)
        self.stack_weights = None if stack_weights is None else tuple(stack_weights)
        self.joint_weight = joint_weight
        self.mask_weight = mask_weight

    def __call__(
        self, outputs: Sequence[Sequence[Tensor]], targets: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The losses of limbs, joints and masks (people and maximum).

        Args:
            outputs: for each stack, maps (N, C, h/2^s, w/2^s) of each scale s, finest first.
            targets: `target` (N, C, h, w), and `mask` (N, 1, h, w), 0 for unlabelled areas.
        """
        target, mask = targets["target"].astype("float32"), targets["mask"].astype("float32")
        self._check(outputs, target, mask)
        stack_weights = self.stack_weights or (1.0,) * len(outputs)
        total = paddle.zeros([self.parts.channels])
        for scale, scale_weight in enumerate(self.scale_weights):
            size = outputs[0][scale].shape[-2:]
            scaled = F.adaptive_avg_pool2d(target, size)
            known = F.interpolate(mask, size, mode="bilinear")
            known = known * (known >= _KNOWN).astype("float32")
            for stack, stack_weight in zip(outputs, stack_weights, strict=True):
                errors = self._errors(stack[scale].astype("float32"), scaled) * known
                total = total + errors.sum([0, 2, 3]) * (scale_weight * stack_weight)
        total = total / (sum(self.scale_weights) * sum(stack_weights) * len(target))
        return {
            "limbs": total[self.parts.limb_channels].sum(),
            "joints": total[self.parts.joint_channels].sum() * self.joint_weight,
            "masks": total[-2] * self.mask_weight + total[-1],
        }

    def check_fit(self, channels: int, training_maps: tuple[int, int]) -> None:
        """Raises ConfigError for another number of maps, stacks or scales."""
        stacks, scales = training_maps
        if self.parts.channels != channels:
            raise ConfigError(
                f"loss.parts: {self.parts} have {self.parts.channels} channels, but the network "
                f"has {channels}"
            )
        self._check_stacks(stacks)
        self._check_scales(scales, "the network")

    def _check_stacks(self, stacks: int) -> None:
        if self.stack_weights and len(self.stack_weights) != stacks:
            raise ConfigError(
                f"loss.stack_weights: {len(self.stack_weights)} weights, "
                f"but the network has {stacks} stacks"
            )

    def _check_scales(self, scales: int, of: str) -> None:
        if len(self.scale_weights) != scales:
            raise ConfigError(
                f"loss.scale_weights: {len(self.scale_weights)} weights, but {of} has "
                f"{scales} scales"
            )

    def _errors(self, output: Tensor, target: Tensor) -> Tensor:
        """(N, C, h, w) squared error times focal factor of each cell."""
        errors = (output - target).square()
        if self.gamma == 0:
            return errors
        distance = (output - (target >= _FOREGROUND).astype("float32")).abs()
        return errors * (distance if self.gamma == 1 else distance**self.gamma)

    def _check(self, outputs: Sequence[Sequence[Tensor]], target: Tensor, mask: Tensor) -> None:
        """Raises ConfigError for maps that do not match the weights, the parts or the targets."""
        if not _is_list(outputs) or not outputs or not all(map(_is_list, outputs)):
            raise ConfigError(
                "loss: BodyPartsLoss needs a list of stacks, each a list of scales; "
                f"the network returns a {type(outputs).__name__}"
            )
        self._check_stacks(len(outputs))
        batch, channels, height, width = target.shape
        if channels != self.parts.channels:
            raise ConfigError(
                f"loss.parts: {self.parts} have {self.parts.channels} channels, "
                f"but the targets have {channels}"
            )
        _check_shape("the mask", mask, [batch, 1, height, width])
        for i, stack in enumerate(outputs):
            self._check_scales(len(stack), f"stack {i} of the network")
            for scale, output in enumerate(stack):
                expected = [batch, channels, height >> scale, width >> scale]
                _check_shape(f"stack {i}, scale {scale}", output, expected)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _check_shape(name: str, maps: Tensor, expected: list[int]) -> None:
    if list(maps.shape) != expected:
        raise ConfigError(
            f"loss: {name}: expected shape {expected} for these targets, found {list(maps.shape)}"
        )


def _joint_errors(outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """(N, K) mean squared error of each map, 0 for unlabelled joints; float32."""
    error = (outputs.astype("float32") - targets["target"]).square().mean(axis=[2, 3])
    return error * targets["weight"].square()
