"""Losses: (network output, batch of targets) → named scalars; their sum is minimised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppose.codecs.parts import Parts
from ppose.registry import ConfigError, register

# The target from which a cell counts as foreground, and the share of known area below which a
# cell counts as unknown, both of the published SimplePose code. Averages of the limbs' floor are
# 0.01 up to rounding: the margin keeps all of them on the same side.
_FOREGROUND = 0.01 * (1 - 1e-5)
_KNOWN = 0.5


class Loss:
    """Base class of what `loss:` in a config may name.

    Attributes:
        uses_boxes: of the codec whose targets it takes, see `Codec`.
    """

    uses_boxes = True

    def __call__(self, outputs: Any, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Named scalars from what the network gives: a tensor, or lists of tensors."""
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


@register
class BodyPartsLoss(Loss):
    """Focal L2 loss of body part maps at several scales of several stacks.

    The squared error of a cell counts |1 − s|^gamma where the target is foreground, elsewhere
    |s|^gamma, s being the output; gradients flow through that factor too. Errors are summed over
    cells and channels, and averaged over scales and stacks by their weights, and over the batch.
    Source: SimplePose (Li et al., AAAI 2020) as its code computes it.

    Args:
        parts: which channels are limbs, joints and masks.
        gamma: 1 as in the published code, 2 as in the paper, 0 is plain L2.
        scale_weights: of each scale of a stack, the finest first.
        stack_weights: of each stack, the first one first; None weighs all the same.
        joint_weight: factor of the joints' channels.
        mask_weight: factor of the channel with the mask of people.

    Raises:
        ValueError: gamma between 0 and 1 (its gradient has no bound), or weights below 0 or
            with a sum of 0.
        ConfigError: called with maps whose number or shape does not fit.
    """

    uses_boxes = False

    def __init__(
        self,
        parts: Parts,
        gamma: float = 1.0,
        scale_weights: Sequence[float] = (0.1, 0.2, 0.4, 1.6, 6.4),
        stack_weights: Sequence[float] | None = None,
        joint_weight: float = 3.0,
        mask_weight: float = 0.1,
    ):
        if gamma != 0 and not gamma >= 1:
            raise ValueError(f"gamma has to be 0 or at least 1, found {gamma}")
        for name, weights in (("scale_weights", scale_weights), ("stack_weights", stack_weights)):
            if weights is not None and (min(weights, default=0) < 0 or not sum(weights) > 0):
                raise ValueError(f"{name} have to be at least 0 and not all 0, found {weights}")
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
            outputs: for each stack, maps (N, C, h/2^s, w/2^s) of each scale s, the finest first.
            targets: `target` (N, C, h, w), and `mask` (N, 1, h, w), 0 where nothing is known.
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

    def _errors(self, output: Tensor, target: Tensor) -> Tensor:
        """(N, C, h, w) squared error of each cell times its focal factor."""
        errors = (output - target).square()
        if self.gamma == 0:
            return errors
        away = (output - (target >= _FOREGROUND).astype("float32")).abs()
        return errors * (away if self.gamma == 1 else away**self.gamma)

    def _check(self, outputs: Sequence[Sequence[Tensor]], target: Tensor, mask: Tensor) -> None:
        """Raises ConfigError for maps that do not fit the weights, the parts or each other."""
        if not _is_list(outputs) or not outputs or not all(map(_is_list, outputs)):
            raise ConfigError(
                "loss: BodyPartsLoss needs a list of stacks, each a list of scales; "
                f"the network gives a {type(outputs).__name__}"
            )
        if self.stack_weights and len(self.stack_weights) != len(outputs):
            raise ConfigError(
                f"loss.stack_weights: {len(self.stack_weights)} weights, "
                f"but the network has {len(outputs)} stacks"
            )
        batch, channels, height, width = target.shape
        if channels != self.parts.channels:
            raise ConfigError(
                f"loss.parts: {self.parts} have {self.parts.channels} channels, "
                f"but the targets have {channels}"
            )
        _check_shape("the mask", mask, [batch, 1, height, width])
        for i, stack in enumerate(outputs):
            if len(stack) != len(self.scale_weights):
                raise ConfigError(
                    f"loss.scale_weights: {len(self.scale_weights)} weights, "
                    f"but stack {i} of the network has {len(stack)} scales"
                )
            for scale, output in enumerate(stack):
                expected = [batch, channels, height >> scale, width >> scale]
                _check_shape(f"stack {i}, scale {scale}", output, expected)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _check_shape(name: str, maps: Tensor, expected: list[int]) -> None:
    if list(maps.shape) != expected:
        raise ConfigError(
            f"loss: {name}: expected {expected} to fit the targets, found {list(maps.shape)}"
        )


def _joint_errors(outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """(N, K) mean squared error of each map, 0 for unlabelled joints; float32."""
    error = (outputs.astype("float32") - targets["target"]).square().mean(axis=[2, 3])
    return error * targets["weight"].square()
