"""Optimizers and learning-rate schedules as configs name them.

A schedule is a pure function of the step, so that resuming needs no state of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import paddle

from ppose.registry import register


class Optimizer:
    """What `optimizer:` in a config may name.

    Args:
        lr: learning rate after warm-up.
        weight_decay: see the class.
        clip_norm: gradients are scaled down to this global L2 norm; null leaves them.
    """

    def __init__(self, lr: float, weight_decay: float = 0.0, clip_norm: float | None = None):
        if lr <= 0:
            raise ValueError(f"lr has to be above 0, found {lr}")
        if clip_norm is not None and clip_norm <= 0:
            raise ValueError(f"clip_norm has to be above 0 or null, found {clip_norm}")
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm

    def create(self, parameters: Iterable[paddle.Tensor]) -> paddle.optimizer.Optimizer:
        """The Paddle optimizer over trainable parameters."""
        raise NotImplementedError

    def _common(self, parameters: Iterable[paddle.Tensor]) -> dict:
        clip = None if self.clip_norm is None else paddle.nn.ClipGradByGlobalNorm(self.clip_norm)
        return {"learning_rate": self.lr, "parameters": list(parameters), "grad_clip": clip}


@register
class Adam(Optimizer):
    """Adam (Kingma & Ba, 2015); `weight_decay` is an L2 term of the gradient."""

    def create(self, parameters: Iterable[paddle.Tensor]) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.Adam(
            weight_decay=self.weight_decay or None, **self._common(parameters)
        )


@register
class AdamW(Optimizer):
    """AdamW (Loshchilov & Hutter, 2019); `weight_decay` is decoupled from the gradient."""

    def create(self, parameters: Iterable[paddle.Tensor]) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.AdamW(weight_decay=self.weight_decay, **self._common(parameters))


@register
class SGD(Optimizer):
    """Stochastic gradient descent with momentum; `weight_decay` is an L2 term of the gradient."""

    def __init__(
        self,
        lr: float,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        momentum: float = 0.9,
        nesterov: bool = False,
    ):
        super().__init__(lr, weight_decay, clip_norm)
        self.momentum = momentum
        self.nesterov = nesterov

    def create(self, parameters: Iterable[paddle.Tensor]) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.Momentum(
            momentum=self.momentum,
            use_nesterov=self.nesterov,
            weight_decay=self.weight_decay or None,
            **self._common(parameters),
        )


class Schedule:
    """Factor of the learning rate over a run, with a linear warm-up before it.

    Args:
        warmup_steps: optimizer steps over which the factor rises linearly.
        warmup_factor: factor at the first step.
    """

    def __init__(self, warmup_steps: int = 0, warmup_factor: float = 0.001):
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps has to be 0 or more, found {warmup_steps}")
        self.warmup_steps = warmup_steps
        self.warmup_factor = warmup_factor

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Factor of the learning rate at optimizer step `step`, counted from 0."""
        main = self._main(step / steps_per_epoch, epochs)
        if step >= self.warmup_steps:
            return main
        return main * (self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps)

    def _main(self, epoch: float, epochs: int) -> float:
        """Factor without warm-up; `epoch` counts from 0 and has a fraction."""
        raise NotImplementedError


@register
class Constant(Schedule):
    """The same learning rate throughout, after warm-up."""

    def _main(self, epoch: float, epochs: int) -> float:
        return 1.0


@register
class StepDecay(Schedule):
    """Multiplies by `gamma` when each epoch of `milestones` begins."""

    def __init__(
        self,
        milestones: list[float],
        gamma: float = 0.1,
        warmup_steps: int = 0,
        warmup_factor: float = 0.001,
    ):
        super().__init__(warmup_steps, warmup_factor)
        self.milestones = milestones
        self.gamma = gamma

    def _main(self, epoch: float, epochs: int) -> float:
        return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)


@register
class CosineDecay(Schedule):
    """Half a cosine from 1 to `final` (Loshchilov & Hutter, 2017)."""

    def __init__(self, final: float = 0.0, warmup_steps: int = 0, warmup_factor: float = 0.001):
        super().__init__(warmup_steps, warmup_factor)
        self.final = final

    def _main(self, epoch: float, epochs: int) -> float:
        done = min(epoch / epochs, 1)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2


@register
class LinearDecay(Schedule):
    """A straight line from 1 to `final`."""

    def __init__(self, final: float = 0.0, warmup_steps: int = 0, warmup_factor: float = 0.001):
        super().__init__(warmup_steps, warmup_factor)
        self.final = final

    def _main(self, epoch: float, epochs: int) -> float:
        return 1 - (1 - self.final) * min(epoch / epochs, 1)
