"""A moving average of the weights, which is what a run evaluates and saves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import paddle

from ppose.registry import register


@register
class EMA:
    """Exponential moving average of the weights (Polyak & Juditsky, 1992), as `ema:` names it.

    Behind each step the average keeps `decay` of itself and takes the rest from the weights,
    batch-norm statistics included. Evaluations during training score it, and `best.safetensors`
    holds it; training goes on with the weights themselves.

    Args:
        decay: share that the average keeps of itself in a step, between 0 and 1.
        warmup: steps over which the share rises: it is at most (1 + step) / (warmup + step), so
            that the random weights of the start are soon forgotten; 0 for none.
    """

    def __init__(self, decay: float = 0.9998, warmup: int = 10):
        if not 0 < decay < 1:
            raise ValueError(f"decay has to be between 0 and 1, found {decay}")
        if warmup < 0:
            raise ValueError(f"warmup has to be at least 0, found {warmup}")
        self.decay = decay
        self.warmup = warmup

    def decay_at(self, step: int) -> float:
        """Share that is kept behind this many steps of the run, counted from 1."""
        return min(self.decay, (1 + step) / (self.warmup + step)) if self.warmup else self.decay


class MovingAverage:
    """The average so far, in float32.

    Args:
        weights: name → tensor, where it starts.
    """

    def __init__(self, weights: Mapping[str, paddle.Tensor]):
        self.mean = {name: _float32(tensor).clone() for name, tensor in weights.items()}

    @paddle.no_grad()
    def update(self, weights: Mapping[str, paddle.Tensor], decay: float) -> None:
        """Keeps `decay` of itself and takes the rest from the weights."""
        for name, tensor in weights.items():
            self.mean[name].lerp_(_float32(tensor), 1 - decay)

    def arrays(self) -> dict[str, np.ndarray]:
        """The average by name."""
        return {name: tensor.numpy() for name, tensor in self.mean.items()}


def _float32(tensor: paddle.Tensor) -> paddle.Tensor:
    return tensor.detach().astype("float32")
