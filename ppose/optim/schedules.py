"""Learning-rate schedules: `schedule:` of a config.

A schedule is a pure function of the step, so checkpoints hold no state of it.
"""

from __future__ import annotations

import math

from ppose.config import register


class Schedule:
    """Base class of schedules: factor of the learning rate, with a linear warm-up.

    Args:
        warmup_steps: number of optimizer steps of the warm-up.
        warmup_factor: factor at the first step.
    """

    def __init__(self, warmup_steps: int = 0, warmup_factor: float = 0.001):
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps has to be at least 0, found {warmup_steps}")
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
        milestones: list[float],
        gamma: float = 0.1,
        warmup_steps: int = 0,
        warmup_factor: float = 0.001,
    ):
        super().__init__(warmup_steps, warmup_factor)
        self.milestones = milestones
        self.gamma = gamma

    def _decay(self, epoch: float, epochs: int) -> float:
        return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)


@register
class CosineDecay(Schedule):
    """Cosine annealing from 1 to `final` (Loshchilov & Hutter, 2017)."""

    def __init__(self, final: float = 0.0, warmup_steps: int = 0, warmup_factor: float = 0.001):
        super().__init__(warmup_steps, warmup_factor)
        self.final = final

    def _decay(self, epoch: float, epochs: int) -> float:
        done = min(epoch / epochs, 1)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2


@register
class LinearDecay(Schedule):
    """Linear decay from 1 to `final`."""

    def __init__(self, final: float = 0.0, warmup_steps: int = 0, warmup_factor: float = 0.001):
        super().__init__(warmup_steps, warmup_factor)
        self.final = final

    def _decay(self, epoch: float, epochs: int) -> float:
        return 1 - (1 - self.final) * min(epoch / epochs, 1)
