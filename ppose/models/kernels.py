"""Numba kernels for training on a CPU, where Paddle's operators are slow (benchmarks/train.py).

They are used if autograd is recording on a CPU. Otherwise, in exported graphs and without Numba,
Paddle's operators are used. Results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer
from paddle.jit.sot import psdb
from paddle.nn import functional as F

from ppose.utils.numba import compiled, numba, prange

# Allows reordering of sums for vectorization; NaN and infinity are preserved.
_FASTMATH = {"contract", "reassoc"}


class DepthwiseConv2D(nn.Conv2D):
    """Depthwise 3×3 convolution with padding 1, without bias.

    Args:
        channels: number of input and output channels.
        stride: stride of the convolution.
        weight_attr: see `nn.Conv2D`.
    """

    def __init__(
        self, channels: int, stride: int = 1, weight_attr: nn.initializer.Initializer | None = None
    ):
        super().__init__(
            channels,
            channels,
            3,
            stride=stride,
            padding=1,
            groups=channels,
            weight_attr=weight_attr,
            bias_attr=False,
        )
        self.step = stride

    def forward(self, x: Tensor) -> Tensor:
        if uses_cpu_kernels(x, self.weight):
            return depthwise_conv2d(x, self.weight, self.step)
        return super().forward(x)


def upsample(x: Tensor, scale: int) -> Tensor:
    """Nearest upsampling: (N, C, h, w) → (N, C, scale·h, scale·w)."""
    if uses_cpu_kernels(x):
        return _Upsample.apply(x, scale)
    return F.interpolate(x, scale_factor=scale)


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Depthwise 3×3 convolution by a Numba kernel; requires `uses_cpu_kernels`.

    Args:
        x: (N, C, H, W).
        weight: (C, 1, 3, 3).
        stride: see `DepthwiseConv2D`.
    """
    return _Depthwise.apply(x, weight, stride)


def uses_cpu_kernels(*inputs: Tensor) -> bool:
    """Whether the Numba kernels can be used: float32 tensors on a CPU, and autograd records."""
    return (
        numba is not None
        and paddle.in_dynamic_mode()
        and not psdb.in_sot()
        and paddle.is_grad_enabled()
        and not all(x.stop_gradient for x in inputs)
        and all(x.dtype == paddle.float32 and x.place.is_cpu_place() for x in inputs)
    )


class _Depthwise(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        ctx.needs_gradient = not x.stop_gradient, not weight.stop_gradient
        n, c, h, w = x.shape
        output = paddle.empty([n, c, -(-h // stride), -(-w // stride)])
        depthwise(as_numpy(x), as_numpy(weight), stride, as_numpy(output))
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensor()
        of_x, of_weight = paddle.empty(x.shape), paddle.empty(weight.shape)
        arrays = map(as_numpy, (x, weight, gradient, of_x, of_weight))
        depthwise_backward(*arrays, ctx.stride)
        gradients = zip((of_x, of_weight), ctx.needs_gradient, strict=True)
        return tuple(each if needed else None for each, needed in gradients)


class _Upsample(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: int) -> Tensor:
        ctx.scale = scale
        n, c, h, w = x.shape
        output = paddle.empty([n, c, scale * h, scale * w])
        repeat(_planes(x), scale, _planes(output))
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        n, c, h, w = gradient.shape
        of_x = paddle.empty([n, c, h // ctx.scale, w // ctx.scale])
        sum_blocks(_planes(gradient), ctx.scale, _planes(of_x))
        return of_x


def as_numpy(tensor: Tensor) -> np.ndarray:
    """NumPy view of a tensor's memory; a copy if the tensor is not contiguous."""
    return np.from_dlpack(tensor.detach().contiguous())


def _planes(tensor: Tensor) -> np.ndarray:
    n, c, h, w = tensor.shape
    return as_numpy(tensor).reshape(n * c, h, w)


@compiled(inline="always")
def _spread(row: np.ndarray, stride: int, wide: np.ndarray) -> None:
    """Writes the values of a row to every `stride`-th cell."""
    # A separate loop for stride 1, so that it is vectorized.
    if stride == 1:
        for x in range(len(row)):
            wide[x] = row[x]
    else:
        for x in range(len(row)):
            wide[stride * x] = row[x]


@compiled(inline="always")
def _gather(wide: np.ndarray, stride: int, row: np.ndarray) -> None:
    """Inverse of `_spread`."""
    if stride == 1:
        for x in range(len(row)):
            row[x] = wide[x]
    else:
        for x in range(len(row)):
            row[x] = wide[stride * x]


@compiled(inline="always")
def _pad(plane: np.ndarray, stride: int, padded: np.ndarray) -> None:
    """Writes a plane, with its cells `stride` apart, into one that is padded by one cell."""
    for y in range(len(plane)):
        _spread(plane[y], stride, padded[stride * y + 1, 1:])


@compiled(inline="always", fastmath=_FASTMATH)
def _correlate(padded: np.ndarray, w: np.ndarray, stride: int, output: np.ndarray) -> None:
    """3×3 correlation of a padded plane with weights `w`."""
    a, b, c = w[0, 0], w[0, 1], w[0, 2]
    d, e, f = w[1, 0], w[1, 1], w[1, 2]
    g, h, i = w[2, 0], w[2, 1], w[2, 2]
    sums = np.empty(padded.shape[1] - 2, np.float32)
    for y in range(output.shape[0]):
        top = stride * y
        above, row, below = padded[top], padded[top + 1], padded[top + 2]
        for x in range(len(sums)):
            sums[x] = (
                (a * above[x] + b * above[x + 1] + c * above[x + 2])
                + (d * row[x] + e * row[x + 1] + f * row[x + 2])
                + (g * below[x] + h * below[x + 1] + i * below[x + 2])
            )
        _gather(sums, stride, output[y])


@compiled(inline="always", fastmath=_FASTMATH)
def _add_products(padded: np.ndarray, spread: np.ndarray, stride: int, sums: np.ndarray) -> None:
    """Accumulates the (3, 3) weight gradient of one plane."""
    width = padded.shape[1] - 2
    for y in range(0, padded.shape[0] - 2, stride):
        above, row, below, values = padded[y], padded[y + 1], padded[y + 2], spread[y + 1]
        a = b = c = d = e = f = g = h = i = np.float32(0)
        for x in range(width):
            value = values[x + 1]
            a += value * above[x]
            b += value * above[x + 1]
            c += value * above[x + 2]
            d += value * row[x]
            e += value * row[x + 1]
            f += value * row[x + 2]
            g += value * below[x]
            h += value * below[x + 1]
            i += value * below[x + 2]
        sums[0, 0] += a
        sums[0, 1] += b
        sums[0, 2] += c
        sums[1, 0] += d
        sums[1, 1] += e
        sums[1, 2] += f
        sums[2, 0] += g
        sums[2, 1] += h
        sums[2, 2] += i


@compiled(fastmath=_FASTMATH, parallel=True)
def depthwise(x: np.ndarray, weight: np.ndarray, stride: int, output: np.ndarray) -> None:
    """Depthwise convolution of (N, C, H, W) with (C, 1, 3, 3), with zero padding of one cell."""
    number, channels, height, width = x.shape
    for c in prange(channels):
        padded = np.zeros((height + 2, width + 2), np.float32)
        for n in range(number):
            _pad(x[n, c], 1, padded)
            _correlate(padded, weight[c, 0], stride, output[n, c])


@compiled(fastmath=_FASTMATH, parallel=True)
def depthwise_backward(
    x: np.ndarray,
    weight: np.ndarray,
    gradient: np.ndarray,
    of_x: np.ndarray,
    of_weight: np.ndarray,
    stride: int,
) -> None:
    """Backward pass of `depthwise`: fills the gradients of the input and of the weights."""
    number, channels, height, width = x.shape
    for c in prange(channels):
        padded = np.zeros((height + 2, width + 2), np.float32)
        # The gradient of a convolution with stride 1, 0 at the cells that the stride skips.
        spread = np.zeros((height + 2, width + 2), np.float32)
        flipped = weight[c, 0, ::-1, ::-1].copy()
        sums = np.zeros((3, 3), np.float64)
        for n in range(number):
            _pad(x[n, c], 1, padded)
            _pad(gradient[n, c], stride, spread)
            _correlate(spread, flipped, 1, of_x[n, c])
            _add_products(padded, spread, stride, sums)
        of_weight[c, 0] = sums


@compiled(parallel=True)
def repeat(x: np.ndarray, scale: int, output: np.ndarray) -> None:
    """Nearest upsampling of (P, h, w) to (P, scale·h, scale·w)."""
    planes, height, width = x.shape
    for p in prange(planes):
        for y in range(height):
            row = output[p, scale * y]
            for z in range(width):
                for i in range(scale):
                    row[scale * z + i] = x[p, y, z]
            for i in range(1, scale):
                output[p, scale * y + i] = row


@compiled(parallel=True)
def sum_blocks(x: np.ndarray, scale: int, output: np.ndarray) -> None:
    """Sums over blocks of scale × scale cells: (P, scale·h, scale·w) → (P, h, w)."""
    planes, height, width = output.shape
    for p in prange(planes):
        for y in range(height):
            row = x[p, scale * y].copy()
            for i in range(1, scale):
                row += x[p, scale * y + i]
            for z in range(width):
                total = row[scale * z]
                for i in range(1, scale):
                    total += row[scale * z + i]
                output[p, y, z] = total
