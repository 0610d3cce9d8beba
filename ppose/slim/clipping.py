"""PACT's learned clipping of activations (Choi et al., 2018)."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from ppose.compiled import compiled, prange
from ppose.models.kernels import array_of, recorded_on_cpu


class Clipping(nn.Layer):
    """Clips to ±limit in training, where the limit is learned (eq. 1 to 3, for both signs).

    The limit is alpha × unit: unit is what calibration found, and alpha is learned from 1 on, so
    that one learning rate and one decay suit inputs of every size. In eval mode the quantizer
    behind it clips, whose scale is at most the limit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alpha = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))
        # As the paper starts without calibration.
        self.register_buffer("unit", paddle.full([1], 10.0))

    @paddle.no_grad()
    def start(self, limit: float) -> None:
        """Sets the limit from which learning starts, above 0."""
        self.unit.fill_(limit)
        self.alpha.fill_(1.0)

    @property
    def limit(self) -> Tensor:
        """(1,) the largest magnitude that passes."""
        return self.alpha * self.unit

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        limit = self.limit
        if recorded_on_cpu(x, limit):
            return _Clip.apply(x, limit)
        return paddle.maximum(paddle.minimum(x, limit), -limit)


class _Clip(PyLayer):
    """The same in two passes: Paddle's operators take as long as the rest of the quantized layers
    on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: Tensor) -> Tensor:
        ctx.save_for_backward(x, limit)
        ctx.asked = not x.stop_gradient, not limit.stop_gradient
        bound = float(limit.numpy()[0])
        return paddle.clip(x, -bound, bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, limit = ctx.saved_tensor()
        of_x = paddle.empty(x.shape)
        sums = np.empty(x.shape[0], np.float64)
        clip_backward(_rows(x), _rows(gradient), limit.numpy()[0], _rows(of_x), sums)
        of_limit = paddle.full([1], sums.sum(), "float32")
        found = zip((of_x, of_limit), ctx.asked, strict=True)
        return tuple(each if asked else None for each, asked in found)


def _rows(tensor: Tensor) -> np.ndarray:
    return array_of(tensor).reshape(tensor.shape[0], -1)


@compiled(fastmath={"contract", "reassoc"}, parallel=True)
def clip_backward(
    x: np.ndarray, gradient: np.ndarray, limit: np.float32, of_x: np.ndarray, sums: np.ndarray
) -> None:
    """Gradients of clipping (N, M) to ±limit for the input, and for the limit by row."""
    for n in prange(len(x)):
        total = np.float64(0)
        for i in range(x.shape[1]):
            value, step = x[n, i], gradient[n, i]
            inside = abs(value) <= limit
            of_x[n, i] = step if inside else np.float32(0)
            total += np.float64(0) if inside else (step if value > 0 else -step)
        sums[n] = total
