"""Optimizers and learning-rate schedules as configs name them.

A schedule is a pure function of the step, so that resuming needs no state of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import paddle

from ppose.registry import ConfigError, nearest, register


class Optimizer:
    """What `optimizer:` in a config may name.

    Args:
        lr: learning rate after warm-up.
        weight_decay: see the class.
        clip_norm: gradients are scaled down to this global L2 norm; null leaves them.
        base_batch: samples in a step, over all devices, that `lr` is meant for: the rate used is
            lr × (batch_size × devices × accumulate) / base_batch (Goyal et al., 2017); null
            takes `lr` as it is.
        lr_factors: pattern → factor of the learning rate of the parameters whose names begin
            with a match (`backbone: 0.1`); the last pattern that matches rules.
    """

    def __init__(
        self,
        lr: float,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        base_batch: int | None = None,
        lr_factors: dict[str, float] | None = None,
    ):
        if lr <= 0:
            raise ValueError(f"lr has to be above 0, found {lr}")
        if clip_norm is not None and clip_norm <= 0:
            raise ValueError(f"clip_norm has to be above 0 or null, found {clip_norm}")
        if base_batch is not None and base_batch < 1:
            raise ValueError(f"base_batch has to be at least 1 or null, found {base_batch}")
        for pattern, factor in (lr_factors or {}).items():
            if factor <= 0:
                raise ValueError(
                    f"lr_factors: the factor of '{pattern}' has to be above 0, found {factor}; "
                    "freeze keeps parameters as they are"
                )
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.base_batch = base_batch
        self.lr_factors = lr_factors or {}

    def batch_factor(self, batch: int) -> float:
        """Factor of all learning rates for this many samples in a step."""
        return 1.0 if self.base_batch is None else batch / self.base_batch

    def create(self, parameters: Mapping[str, paddle.Tensor]) -> paddle.optimizer.Optimizer:
        """The Paddle optimizer over trainable parameters by name.

        Raises:
            ConfigError: a pattern of `lr_factors` that fits no name.
        """
        factors = {
            name: factor
            for pattern, factor in self.lr_factors.items()
            for name in matching(pattern, parameters, "optimizer.lr_factors")
        }
        for name, factor in factors.items():
            # Clipping values have a factor of their own already.
            parameters[name].optimize_attr["learning_rate"] *= factor
        clip = None if self.clip_norm is None else paddle.nn.ClipGradByGlobalNorm(self.clip_norm)
        return self._made(
            {"learning_rate": self.lr, "parameters": list(parameters.values()), "grad_clip": clip}
        )

    def _made(self, common: dict[str, Any]) -> paddle.optimizer.Optimizer:
        """The Paddle optimizer with the arguments that all have, and its own."""
        raise NotImplementedError


def matching(pattern: str, names: Iterable[str], key: str) -> list[str]:
    """The names whose beginning matches a regular expression.

    Raises:
        ConfigError: no regular expression, or nothing matches; `key` names the place.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{key}: '{pattern}' is no regular expression: {error}") from None
    names = list(names)
    found = [name for name in names if expression.match(name)]
    if not found:
        tops = sorted({name.partition(".")[0] for name in names})
        modules = {name[: dot.start()] for name in names for dot in re.finditer(r"\.", name)}
        close = get_close_matches(pattern, sorted(modules), 1)
        raise ConfigError(
            f"{key}: no name begins with '{pattern}'{nearest(pattern, close or tops)}"
        )
    return found


@register
class Adam(Optimizer):
    """Adam (Kingma & Ba, 2015); `weight_decay` is an L2 term of the gradient."""

    def _made(self, common: dict[str, Any]) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.Adam(weight_decay=self.weight_decay or None, **common)


@register
class AdamW(Optimizer):
    """AdamW (Loshchilov & Hutter, 2019); `weight_decay` is decoupled from the gradient."""

    def _made(self, common: dict[str, Any]) -> paddle.optimizer.Optimizer:
        own_decay = {p.name for p in common["parameters"] if p.regularizer is not None}
        return paddle.optimizer.AdamW(
            weight_decay=self.weight_decay,
            apply_decay_param_fun=lambda name: name not in own_decay,
            **common,
        )


@register
class SGD(Optimizer):
    """Stochastic gradient descent with momentum; `weight_decay` is an L2 term of the gradient."""

    def __init__(
        self,
        lr: float,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        base_batch: int | None = None,
        lr_factors: dict[str, float] | None = None,
        momentum: float = 0.9,
        nesterov: bool = False,
    ):
        super().__init__(lr, weight_decay, clip_norm, base_batch, lr_factors)
        self.momentum = momentum
        self.nesterov = nesterov

    def _made(self, common: dict[str, Any]) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.Momentum(
            momentum=self.momentum,
            use_nesterov=self.nesterov,
            weight_decay=self.weight_decay or None,
            **common,
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
