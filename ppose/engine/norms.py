"""Batch norms of a network as a whole: over all processes, or measured anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import paddle
from paddle import Tensor, distributed, nn
from paddle.autograd import PyLayer

from ppose.engine.amp import on_gpu

NORMS = (nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D, nn.SyncBatchNorm)


def synchronise_norms(network: nn.Layer) -> None:
    """Lets every 2D batch norm see the samples of all processes; names and weights stay."""
    if on_gpu():
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return
    for layer in network.sublayers():
        if type(layer) is nn.BatchNorm2D:
            # Only the forward pass differs; a new layer would have to take over all its tensors.
            layer.__class__ = _GlooBatchNorm


class _GlooBatchNorm(nn.BatchNorm2D):
    """Batch norm over all processes from plain operators: Paddle's own runs on GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        width = x.shape[1]
        sums = paddle.concat([x.sum([0, 2, 3]), paddle.full([1], x.size / width)])
        sums = _Total.apply(sums)
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - _as_map(mean)
        variance = _Total.apply(centred.square().sum([0, 2, 3])) / count
        self._remember(mean, variance)
        assert self.weight is not None
        assert self.bias is not None
        scale = self.weight * paddle.rsqrt(variance + self._epsilon)
        return centred * _as_map(scale) + _as_map(self.bias)

    @paddle.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        for kept, batch in ((self._mean, mean), (self._variance, variance)):
            kept.set_value(kept * self._momentum + batch * (1 - self._momentum))


class _Total(PyLayer):
    """Sum over all processes, whose gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _as_map(vector: Tensor) -> Tensor:
    return vector.reshape([1, -1, 1, 1])


def renew_norms(
    network: nn.Layer, images: Iterable[Tensor], batches: int, keep: Sequence[nn.Layer] = ()
) -> int:
    """Measures batch-norm statistics anew, as the plain mean over some batches.

    A mean of weights has other activations than each of its parts, so that a mean of their
    statistics does not fit it.

    Args:
        network: its statistics are replaced; other weights stay.
        images: normalised inputs (N, 3, H, W).
        batches: how many of them to take at most.
        keep: layers whose statistics stay: frozen batch norms, quantized layers.

    Returns:
        batches taken.
    """
    kept = {id(layer) for layer in keep}
    norms = [n for n in network.sublayers() if isinstance(n, NORMS) and id(n) not in kept]
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
                    # The share that the old value keeps: 0 at first, so that nothing is left of it.
                    layer._momentum = taken / (taken + 1)
                network(image)
                taken += 1
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer._momentum = momentum
        if not was_training:
            network.eval()
    return taken
