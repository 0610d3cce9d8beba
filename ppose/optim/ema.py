"""Exponential moving average (EMA) of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import paddle

from ppose.config import register
from ppose.config.ranges import Range, Steps


@register
class EMA:
    """Exponential moving average of the weights (Polyak & Juditsky, 1992), `ema:` of a config.

    After each step, average = decay × average + (1 - decay) × weights, including batch-norm
    statistics. The average is evaluated during training and saved in `best.safetensors`; training
    continues with the weights themselves.

    Args:
        decay: between 0 and 1.
        warmup: limits the decay to (1 + step) / (warmup + step), so that the random initial
            weights are soon forgotten; 0 for no limit.
    """

    def __init__(
        self, decay: Annotated[float, Range(above=0, below=1)] = 0.9998, warmup: Steps = 10
    ):
        self.decay = decay
        self.warmup = warmup

    def decay_at(self, step: int) -> float:
        """The decay at a step of the run, counted from 1."""
        return min(self.decay, (1 + step) / (self.warmup + step)) if self.warmup else self.decay


class MovingAverage:
    """A running average of weights, in float32.

    Args:
        weights: name → tensor, the initial value.
    """

    def __init__(self, weights: Mapping[str, paddle.Tensor]):
        self.mean = {name: _float32(tensor).clone() for name, tensor in weights.items()}

    @paddle.no_grad()
    def update(self, weights: Mapping[str, paddle.Tensor], decay: float) -> None:
        """average = decay × average + (1 - decay) × weights."""
        for name, tensor in weights.items():
            self.mean[name].lerp_(_float32(tensor), 1 - decay)


def _float32(tensor: paddle.Tensor) -> paddle.Tensor:
    return tensor.detach().astype("float32")
