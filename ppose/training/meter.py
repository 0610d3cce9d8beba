"""Means over the steps of training: what console, metrics and board show."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import paddle
import psutil

from ppose.optim.amp import on_gpu

if TYPE_CHECKING:
    from ppose.training.step import StepReport


@dataclass(frozen=True)
class Means:
    """Several steps in numbers.

    Attributes:
        losses: each by name, the mean over the steps that changed the weights.
        lr: of the last step.
        grad_norm: mean of the global L2 norms that were computed; None without any.
        samples_per_second: of all devices.
        data_wait: share of the time, 0..1, that was spent waiting for data.
        seconds: mean of a step.
        memory_mb: peak of the GPU's memory, or memory of this process now; 1 MB is 10⁶ bytes.
        loss_scale: of the last step; None without scaling.
        skipped: steps that fp16 overflowed in.
        replaced: samples that stand for unreadable ones.
    """

    losses: dict[str, float]
    lr: float
    grad_norm: float | None
    samples_per_second: float
    data_wait: float
    seconds: float
    memory_mb: float
    loss_scale: float | None
    skipped: int
    replaced: int

    @property
    def loss(self) -> float:
        """Sum of all losses."""
        return sum(self.losses.values())

    def numbers(self) -> dict[str, float]:
        """All by name, without what this run has not; a single loss is "loss/NAME"."""
        numbers = {
            "loss": self.loss,
            **{f"loss/{name}": value for name, value in self.losses.items()},
            "lr": self.lr,
            "grad_norm": self.grad_norm,
            "samples_per_second": self.samples_per_second,
            "data_wait": self.data_wait,
            "seconds": self.seconds,
            "memory_mb": self.memory_mb,
            "replaced": self.replaced,
        }
        if self.loss_scale is not None:
            numbers |= {"loss_scale": self.loss_scale, "skipped": self.skipped}
        return {name: value for name, value in numbers.items() if value is not None}


class Meter:
    """Gathers what steps report.

    Args:
        window: forgets all but so many of the last steps; None keeps all.
    """

    def __init__(self, window: int | None = None):
        self._reports: deque[StepReport] = deque(maxlen=window)

    def __len__(self) -> int:
        return len(self._reports)

    def add(self, report: StepReport) -> None:
        """Takes a step in."""
        self._reports.append(replace(report, batch={}))  # a batch is large

    def means(self) -> Means:
        """Of all steps that are held; there has to be one."""
        reports, last = list(self._reports), self._reports[-1]
        made = [r.losses for r in reports if not r.skipped] or [r.losses for r in reports]
        norms = [r.grad_norm for r in reports if r.grad_norm is not None and not r.skipped]
        seconds = sum(r.seconds for r in reports)
        return Means(
            losses={name: float(np.mean([losses[name] for losses in made])) for name in made[0]},
            lr=last.lr,
            grad_norm=float(np.mean(norms)) if norms else None,
            samples_per_second=sum(r.samples for r in reports) / seconds,
            data_wait=sum(r.data_seconds for r in reports) / seconds,
            seconds=seconds / len(reports),
            memory_mb=memory_mb(),
            loss_scale=last.loss_scale,
            skipped=sum(r.skipped for r in reports),
            replaced=sum(r.replaced for r in reports),
        )

    def logged(self, report: StepReport, is_logged: bool) -> Means | None:
        """Takes a step in; the means since the last time if this step is one to report."""
        self.add(report)
        if not is_logged:
            return None
        means = self.means()
        self._reports.clear()
        return means

    def clear(self) -> None:
        """Forgets all steps."""
        self._reports.clear()


def memory_mb() -> float:
    """Peak of the GPU's memory, or what this process holds now, in 10⁶ bytes."""
    if on_gpu():
        return paddle.device.cuda.max_memory_reserved() / 1e6
    return psutil.Process().memory_info().rss / 1e6
