"""Optimizers: `optimizer:` of a config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import paddle

from ppose.config import register
from ppose.config.patterns import match_names
from ppose.config.ranges import Count, Factor, Range, Rate, Share


class Optimizer:
    """Base class of optimizers.

    Args:
        lr: learning rate after warm-up.
        weight_decay: see the subclass.
        clip_norm: maximum global L2 norm of the gradients; null for no clipping.
        base_batch: number of samples in a step, over all devices, for which `lr` is meant. The
            learning rate is lr × (batch_size × devices × accumulate) / base_batch (Goyal et al.,
            2017); null uses `lr` unchanged.
        lr_factors: pattern → factor of the learning rate of parameters whose names begin with a
            match (`backbone: 0.1`), above 0; the last matching pattern counts. Parameters that are
            not trained go to `freeze`.
    """

    def __init__(
        self,
        lr: Rate,
        weight_decay: Share = 0.0,
        clip_norm: Factor | None = None,
        base_batch: Count | None = None,
        lr_factors: dict[str, Factor] | None = None,
    ):
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.base_batch = base_batch
        self.lr_factors = lr_factors or {}

    def batch_factor(self, batch: int) -> float:
        """Factor of all learning rates for `batch` samples in a step."""
        return 1.0 if self.base_batch is None else batch / self.base_batch

    def factors(self, names: Iterable[str]) -> dict[str, float]:
        """Name → factor of the learning rate, for parameters that have one.

        Raises:
            ConfigError: a pattern of `lr_factors` matches no name.
        """
        names = list(names)
        return {
            name: factor
            for pattern, factor in self.lr_factors.items()
            for name in match_names(pattern, names, "optimizer.lr_factors")
        }

    def create(self, parameters: Mapping[str, paddle.Tensor]) -> paddle.optimizer.Optimizer:
        """Creates the Paddle optimizer.

        Args:
            parameters: name → parameter.

        Raises:
            ConfigError: a pattern of `lr_factors` matches no name.
        """
        for name, factor in self.factors(parameters).items():
            # The clipping values of PACT already have their own factor.
            parameters[name].optimize_attr["learning_rate"] *= factor
        clip = None if self.clip_norm is None else paddle.nn.ClipGradByGlobalNorm(self.clip_norm)
        return self._create(
            {"learning_rate": self.lr, "parameters": list(parameters.values()), "grad_clip": clip}
        )

    def _create(self, common: dict[str, Any]) -> paddle.optimizer.Optimizer:
        """Creates the Paddle optimizer; `common` are the arguments that all optimizers share."""
        raise NotImplementedError


@register
class Adam(Optimizer):
    """Adam (Kingma & Ba, 2015); `weight_decay` is an L2 term of the gradient."""

    def _create(self, common: dict[str, Any]) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.Adam(weight_decay=self.weight_decay or None, **common)


@register
class AdamW(Optimizer):
    """AdamW (Loshchilov & Hutter, 2019); `weight_decay` is decoupled from the gradient."""

    def _create(self, common: dict[str, Any]) -> paddle.optimizer.Optimizer:
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
        lr: Rate,
        weight_decay: Share = 0.0,
        clip_norm: Factor | None = None,
        base_batch: Count | None = None,
        lr_factors: dict[str, Factor] | None = None,
        momentum: Annotated[float, Range(least=0, below=1)] = 0.9,
        nesterov: bool = False,
    ):
        super().__init__(lr, weight_decay, clip_norm, base_batch, lr_factors)
        self.momentum = momentum
        self.nesterov = nesterov

    def _create(self, common: dict[str, Any]) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.Momentum(
            momentum=self.momentum,
            use_nesterov=self.nesterov,
            weight_decay=self.weight_decay or None,
            **common,
        )
