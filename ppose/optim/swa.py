"""Stochastic weight averaging."""

from __future__ import annotations

from ppose.config import register
from ppose.config.ranges import Count, Rate, Steps


@register
class SWA:
    """Stochastic weight averaging (Izmailov et al., 2018), as at the end of SimplePose's training.

    From `start_epoch` on, the weights after every `every`-th epoch are averaged. After the last
    epoch, the batch-norm statistics of the average are re-estimated; it is evaluated and saved as
    `swa.safetensors`. (SimplePose instead freezes batch norm from `start_epoch` on.)

    Args:
        start_epoch: number of epochs before averaging, at least 0.
        every: number of epochs in a cycle, at whose end the weights are added to the average.
        lr: highest and lowest learning rate of a cycle, between which it falls linearly, epoch by
            epoch. None keeps the schedule. Like that of the optimizer, it is meant for
            `base_batch` samples.
        norm_batches: number of training batches for the batch-norm statistics.
    """

    def __init__(
        self,
        start_epoch: Steps,
        every: Count = 1,
        lr: tuple[Rate, Rate] | None = None,
        norm_batches: Count = 100,
    ):
        if lr is not None and lr[0] < lr[1]:
            raise ValueError(f"lr: expected the highest rate, then the lowest, found {lr}")
        if lr is not None and every == 1 and lr[0] != lr[1]:
            raise ValueError(f"lr cannot fall from {lr[0]} to {lr[1]} within a cycle of one epoch")
        self.start_epoch = start_epoch
        self.every = every
        self.lr = lr
        self.norm_batches = norm_batches

    def takes(self, epoch: int) -> bool:
        """Whether the weights after `epoch` completed epochs are added to the average."""
        return epoch > self.start_epoch and (epoch - self.start_epoch) % self.every == 0

    def learning_rate(self, epoch: int) -> float | None:
        """Learning rate after `epoch` completed epochs; None where the schedule sets it."""
        if self.lr is None or epoch < self.start_epoch:
            return None
        highest, lowest = self.lr
        done = (epoch - self.start_epoch) % self.every
        return highest - (highest - lowest) * done / max(self.every - 1, 1)
