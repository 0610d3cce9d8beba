"""Latency measurements of models, and random inputs for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from ppose.deploy.backends.session import Session, TensorInfo

_DEFAULT_SIDE = 256
_STRIDE = 4


def latencies(
    sessions: Sequence[Session],
    batch: int = 1,
    *,
    size_wh: tuple[int, int] | None = None,
    runs: int = 50,
    warmup: int = 5,
) -> list[tuple[float, float]]:
    """Latency of each model in milliseconds, from input arrays to output arrays.

    The runs of all models are interleaved, so that changes of the machine's load affect all.

    Args:
        sessions: one or several models.
        batch: images in a run.
        size_wh: image size, if a model's size is dynamic; None for 256 × 256.
        runs: timed runs.
        warmup: runs before them that are not timed.

    Returns:
        50th and 95th percentile for each model.

    Raises:
        ValueError: a model has another fixed batch size.
    """
    for session in sessions:
        fixed = session.inputs[0].shape[0]
        if fixed not in (-1, batch):
            raise ValueError(f"{session.path}: its batch size is {fixed}, not {batch}")
    calls = [
        _call(session, example_inputs(session, batch, size_wh=size_wh)) for session in sessions
    ]
    seconds = time_interleaved(calls, runs, warmup)
    p50, p95 = np.percentile(1000 * seconds, [50, 95], axis=0).tolist()
    return list(zip(p50, p95, strict=True))


def time_interleaved(calls: Sequence[Callable[[], object]], runs: int, warmup: int) -> np.ndarray:
    """Seconds of each call, (runs, calls); the calls of a run follow each other."""
    seconds = np.empty((runs, len(calls)))
    for i in range(-warmup, runs):
        for n, call in enumerate(calls):
            start = time.perf_counter()
            call()
            if i >= 0:
                seconds[i, n] = time.perf_counter() - start
    return seconds


def _call(session: Session, inputs: list[np.ndarray]) -> Callable[[], object]:
    return lambda: session.run(*inputs)


def example_inputs(
    session: Session, batch: int = 1, size_wh: tuple[int, int] | None = None
) -> list[np.ndarray]:
    """Valid inputs for a model, always the same: noise for images, ones for other inputs.

    Args:
        session: the model.
        batch: batch size, if it is dynamic.
        size_wh: image size, if it is dynamic; None for 256 × 256. One-channel inputs are masks
            at stride 4.
    """
    width, height = size_wh or (_DEFAULT_SIDE, _DEFAULT_SIDE)
    rng = np.random.default_rng(0)
    shapes = [_sizes(tensor, batch, height, width) for tensor in session.inputs]
    sides = next((_sides(shape) for shape in shapes if _is_image(shape)), (height, width))
    return [
        _values(tensor, shape, sides, rng)
        for tensor, shape in zip(session.inputs, shapes, strict=True)
    ]


def _sizes(tensor: TensorInfo, batch: int, height: int, width: int) -> tuple[int, ...]:
    """The shape of an input with dynamic axes filled in."""
    wanted = [batch, *[1] * len(tensor.shape)]
    if len(tensor.shape) == 4:
        if tensor.shape[1] == 1:
            wanted[2:] = [height // _STRIDE, width // _STRIDE]
        elif _channels_last(tensor.shape):
            wanted[1:] = [height, width, 3]
        else:
            wanted[1:] = [3, height, width]
    elif len(tensor.shape) == 2:
        wanted[1] = 2
    return tuple(w if size < 0 else size for size, w in zip(tensor.shape, wanted, strict=False))


def _values(
    tensor: TensorInfo, shape: tuple[int, ...], sides: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    if tensor.name == "im_shape":  # PaddleDetection clips boxes to it
        return np.tile(np.asarray(sides, tensor.dtype), (shape[0], 1))
    if not _is_image(shape):
        return np.ones(shape, tensor.dtype)
    if tensor.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape, np.float32).astype(tensor.dtype, copy=False)


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[1] != 1


def _channels_last(shape: tuple[int, ...]) -> bool:
    return shape[3] == 3 and shape[1] != 3


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an image input."""
    return (shape[1], shape[2]) if _channels_last(shape) else (shape[2], shape[3])
