"""Synchronized batch norm, and re-estimation of batch-norm statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import paddle
from paddle import Tensor, distributed, nn
from paddle.autograd import PyLayer

from ppose.optim.amp import on_gpu

BATCH_NORMS = (nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D, nn.SyncBatchNorm)


def synchronize_batch_norm(network: nn.Layer) -> None:
    """Synchronizes all 2D batch norms over processes, in place; names and weights are unchanged."""
    if on_gpu():
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return
    for layer in network.sublayers():
        if type(layer) is nn.BatchNorm2D:
            # Only the forward pass differs; a new layer would need all tensors of the old one.
            layer.__class__ = _GlooBatchNorm


class _GlooBatchNorm(nn.BatchNorm2D):
    """Synchronized batch norm built from plain operators; Paddle's own runs on GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        width = x.shape[1]
        sums = paddle.concat([x.sum([0, 2, 3]), paddle.full([1], x.size / width)])
        sums = _AllReduceSum.apply(sums)
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centered = x - _as_map(mean)
        variance = _AllReduceSum.apply(centered.square().sum([0, 2, 3])) / count
        self._update_statistics(mean, variance)
        assert self.weight is not None
        assert self.bias is not None
        scale = self.weight * paddle.rsqrt(variance + self._epsilon)
        return centered * _as_map(scale) + _as_map(self.bias)

    @paddle.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor) -> None:
        for running, batch in ((self._mean, mean), (self._variance, variance)):
            running.set_value(running * self._momentum + batch * (1 - self._momentum))


class _AllReduceSum(PyLayer):
    """Sum over all processes; its gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _as_map(vector: Tensor) -> Tensor:
    return vector.reshape([1, -1, 1, 1])


def reestimate_batch_norm(
    network: nn.Layer, images: Iterable[Tensor], batches: int, keep: Sequence[nn.Layer] = ()
) -> int:
    """Re-estimates batch-norm statistics as the mean over some batches ("precise BN").

    Averaged weights need it: their activations differ from those of each averaged network, so the
    average of the statistics does not fit.

    Args:
        network: its statistics are replaced; its weights are unchanged.
        images: normalised inputs (N, 3, H, W).
        batches: maximum number of batches.
        keep: layers whose statistics are unchanged: frozen batch norms, quantized layers.

    Returns:
        number of batches used.
    """
    kept_ids = {id(layer) for layer in keep}
    norms = [n for n in network.sublayers() if isinstance(n, BATCH_NORMS) and id(n) not in kept_ids]
    momenta = [layer._momentum for layer in norms]
    was_training = network.training
    network.train()
    for layer in keep:
        layer.eval()
    taken = 0
    try:
        with paddle.no_grad():
            for image in islice(images, batches):
                for layer in norms:
                    # Weight of the old value in the cumulative mean; 0 for the first batch.
                    layer._momentum = taken / (taken + 1)
                network(image)
                taken += 1
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer._momentum = momentum
        if not was_training:
            network.eval()
    return taken
