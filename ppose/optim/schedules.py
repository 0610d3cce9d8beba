"""Learning-rate schedules: `schedule:` of a config.

A schedule is a pure function of the step, so checkpoints hold no state of it.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated

from ppose.config import register
from ppose.config.ranges import Length, Range, Share, Steps

_Epoch = Annotated[float, Range(least=0, most=1e6)]


class Schedule:
    """Base class of schedules: factor of the learning rate, with a linear warm-up.

    Args:
        warmup_steps: number of optimizer steps of the warm-up.
        warmup_factor: factor at the first step.
    """

    def __init__(self, warmup_steps: Steps = 0, warmup_factor: Share = 0.001):
        self.warmup_steps = warmup_steps
        self.warmup_factor = warmup_factor

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Factor of the learning rate at optimizer step `step`, counted from 0."""
        decay = self._decay(step / steps_per_epoch, epochs)
        if step >= self.warmup_steps:
            return decay
        return decay * (self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps)

    def _decay(self, epoch: float, epochs: int) -> float:
        """Factor without warm-up; `epoch` counts from 0 and may be fractional."""
        raise NotImplementedError


@register
class Constant(Schedule):
    """Constant learning rate after warm-up."""

    def _decay(self, epoch: float, epochs: int) -> float:
        return 1.0


@register
class StepDecay(Schedule):
    """Multiplies the learning rate by `gamma` at each epoch of `milestones`."""

    def __init__(
        self,
        milestones: Annotated[list[_Epoch], Length(0, 1000)],
        gamma: Annotated[float, Range(above=0, most=1)] = 0.1,
        warmup_steps: Steps = 0,
        warmup_factor: Share = 0.001,
    ):
        if any(one >= other for one, other in pairwise(milestones)):
            raise ValueError(f"milestones: expected ascending epochs, found {milestones}")
        super().__init__(warmup_steps, warmup_factor)
        self.milestones = milestones
        self.gamma = gamma

    def _decay(self, epoch: float, epochs: int) -> float:
        return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)


@register
class CosineDecay(Schedule):
    """Cosine annealing from 1 to `final` (Loshchilov & Hutter, 2017)."""

    def __init__(self, final: Share = 0.0, warmup_steps: Steps = 0, warmup_factor: Share = 0.001):
        super().__init__(warmup_steps, warmup_factor)
        self.final = final

    def _decay(self, epoch: float, epochs: int) -> float:
        done = min(epoch / epochs, 1)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2


@register
class LinearDecay(Schedule):
    """Linear decay from 1 to `final`."""

    def __init__(self, final: Share = 0.0, warmup_steps: Steps = 0, warmup_factor: Share = 0.001):
        super().__init__(warmup_steps, warmup_factor)
        self.final = final

    def _decay(self, epoch: float, epochs: int) -> float:
        return 1 - (1 - self.final) * min(epoch / epochs, 1)
