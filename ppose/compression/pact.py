"""PACT: learned clipping of activations (Choi et al., 2018)."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from ppose.models.kernels import as_numpy, uses_cpu_kernels
from ppose.utils.numba import compiled, prange


class PACT(nn.Layer):
    """Clips to ±limit in training with a learned limit (eq. 1 to 3, for both signs).

    The limit is alpha × unit: unit comes from calibration, and alpha is learned, starting at 1, so
    that one learning rate and one decay suit inputs of any range. In eval mode the quantizer that
    follows clips; its scale is at most the limit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alpha = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))
        # The initial value of the paper, for training without calibration.
        self.register_buffer("unit", paddle.full([1], 10.0))

    @paddle.no_grad()
    def reset(self, limit: float) -> None:
        """Sets the initial limit, above 0."""
        self.unit.fill_(limit)
        self.alpha.fill_(1.0)

    @property
    def limit(self) -> Tensor:
        """(1,) largest absolute value that is not clipped."""
        return self.alpha * self.unit

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        limit = self.limit
        if uses_cpu_kernels(x, limit):
            return _Clip.apply(x, limit)
        return paddle.maximum(paddle.minimum(x, limit), -limit)


class _Clip(PyLayer):
    """The same in one pass forward and one backward.

    On a CPU, Paddle's operators would take as long as the rest of the quantized layers.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: Tensor) -> Tensor:
        ctx.save_for_backward(x, limit)
        ctx.needs_gradient = not x.stop_gradient, not limit.stop_gradient
        bound = float(limit.numpy()[0])
        return paddle.clip(x, -bound, bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, limit = ctx.saved_tensor()
        of_x = paddle.empty(x.shape)
        sums = np.empty(x.shape[0], np.float64)
        clip_backward(_rows(x), _rows(gradient), limit.numpy()[0], _rows(of_x), sums)
        of_limit = paddle.full([1], sums.sum(), "float32")
        gradients = zip((of_x, of_limit), ctx.needs_gradient, strict=True)
        return tuple(each if needed else None for each, needed in gradients)


def _rows(tensor: Tensor) -> np.ndarray:
    return as_numpy(tensor).reshape(tensor.shape[0], -1)


@compiled(fastmath={"contract", "reassoc"}, parallel=True)
def clip_backward(
    x: np.ndarray, gradient: np.ndarray, limit: np.float32, of_x: np.ndarray, sums: np.ndarray
) -> None:
    """Gradients of clipping (N, M) to ±limit: for the input, and for the limit per row."""
    for n in prange(len(x)):
        total = np.float64(0)
        for i in range(x.shape[1]):
            value, step = x[n, i], gradient[n, i]
            inside = abs(value) <= limit
            of_x[n, i] = step if inside else np.float32(0)
            total += np.float64(0) if inside else (step if value > 0 else -step)
        sums[n] = total
