"""Machine code for training on a CPU, where Paddle's operators are slow (benchmarks/train.py).

It runs where autograd records on a CPU. Elsewhere, in exported graphs and without Numba, Paddle's
operators compute the same. Results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer
from paddle.jit.sot import psdb
from paddle.nn import functional as F

from ppose.compiled import compiled, numba, prange

# Sums may take the order that vectors want; NaN and infinity stay what they are.
_FASTMATH = {"contract", "reassoc"}


class DepthwiseConv2D(nn.Conv2D):
    """3×3 convolution of each channel with a kernel of its own, without bias.

    Args:
        channels: of input and output.
        stride: of H rows and W columns every stride-th is kept, the first among them.
        weight_attr: as of `nn.Conv2D`.
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
        if recorded_on_cpu(x, self.weight):
            return depthwise_conv2d(x, self.weight, self.step)
        return super().forward(x)


def upsample(x: Tensor, scale: int) -> Tensor:
    """(N, C, h, w) → (N, C, scale·h, scale·w), each value repeated."""
    if recorded_on_cpu(x):
        return _Upsample.apply(x, scale)
    return F.interpolate(x, scale_factor=scale)


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """3×3 convolution of each channel, by machine code; where `recorded_on_cpu` holds.

    Args:
        x: (N, C, H, W).
        weight: (C, 1, 3, 3).
        stride: see `DepthwiseConv2D`.
    """
    return _Depthwise.apply(x, weight, stride)


def recorded_on_cpu(*inputs: Tensor) -> bool:
    """Whether the machine code applies: float32 on a CPU, and gradients are recorded."""
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
        ctx.asked = not x.stop_gradient, not weight.stop_gradient
        n, c, h, w = x.shape
        output = paddle.empty([n, c, -(-h // stride), -(-w // stride)])
        depthwise(array_of(x), array_of(weight), stride, array_of(output))
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensor()
        of_x, of_weight = paddle.empty(x.shape), paddle.empty(weight.shape)
        arrays = map(array_of, (x, weight, gradient, of_x, of_weight))
        depthwise_backward(*arrays, ctx.stride)
        found = zip((of_x, of_weight), ctx.asked, strict=True)
        return tuple(each if asked else None for each, asked in found)


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


def array_of(tensor: Tensor) -> np.ndarray:
    """The tensor's own memory; a copy of a view with gaps."""
    return np.from_dlpack(tensor.detach().contiguous())


def _planes(tensor: Tensor) -> np.ndarray:
    n, c, h, w = tensor.shape
    return array_of(tensor).reshape(n * c, h, w)


@compiled(inline="always")
def _spread(row: np.ndarray, stride: int, wide: np.ndarray) -> None:
    """Writes the values of a row `stride` apart."""
    # The usual stride by itself: the loop then copies vectors.
    if stride == 1:
        for x in range(len(row)):
            wide[x] = row[x]
    else:
        for x in range(len(row)):
            wide[stride * x] = row[x]


@compiled(inline="always")
def _gather(wide: np.ndarray, stride: int, row: np.ndarray) -> None:
    """Undoes `_spread`."""
    if stride == 1:
        for x in range(len(row)):
            row[x] = wide[x]
    else:
        for x in range(len(row)):
            row[x] = wide[stride * x]


@compiled(inline="always")
def _pad(plane: np.ndarray, stride: int, padded: np.ndarray) -> None:
    """Writes the cells of a plane, `stride` apart, into one with a border of one cell."""
    for y in range(len(plane)):
        _spread(plane[y], stride, padded[stride * y + 1, 1:])


@compiled(inline="always", fastmath=_FASTMATH)
def _correlate(padded: np.ndarray, w: np.ndarray, stride: int, output: np.ndarray) -> None:
    """Sums of 3×3 cells by their weights; the windows lie `stride` apart."""
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
    """Adds to (3, 3) sums the products of one plane's cells with the cells around them."""
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
    """Convolution of (N, C, H, W) with (C, 1, 3, 3), padded by a cell of 0."""
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
    """Gradients of `depthwise` for the input and the weights from that of the output."""
    number, channels, height, width = x.shape
    for c in prange(channels):
        padded = np.zeros((height + 2, width + 2), np.float32)
        # The gradient where a convolution without stride would have it, 0 elsewhere.
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
    """Fills (P, scale·h, scale·w) with the values of (P, h, w)."""
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
    """Fills (P, h, w) with the sums over scale × scale cells of (P, scale·h, scale·w)."""
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
