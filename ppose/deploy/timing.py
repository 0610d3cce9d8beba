"""How long models take, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from ppose.deploy.session import Session, Tensor

_OPEN_SIDE = 256
_STRIDE = 4


def latencies(
    sessions: Sequence[Session],
    batch: int = 1,
    *,
    size_wh: tuple[int, int] | None = None,
    runs: int = 50,
    warmup: int = 5,
) -> list[tuple[float, float]]:
    """Milliseconds of a run of each model, from array to array; all take turns.

    Args:
        sessions: of one or several models.
        batch: pictures in a run.
        size_wh: of a picture, where a model leaves it open; None for 256 × 256.
        runs: that are timed.
        warmup: runs before.

    Returns:
        the 50th and 95th percentile of each.

    Raises:
        ValueError: a model is for batches of another size.
    """
    for session in sessions:
        fixed = session.inputs[0].shape[0]
        if fixed not in (-1, batch):
            raise ValueError(f"{session.path}: takes batches of {fixed}, not of {batch}")
    calls = [_call(session, some_inputs(session, batch, size_wh=size_wh)) for session in sessions]
    seconds = take_turns(calls, runs, warmup)
    p50, p95 = np.percentile(1000 * seconds, [50, 95], axis=0).tolist()
    return list(zip(p50, p95, strict=True))


def take_turns(calls: Sequence[Callable[[], object]], runs: int, warmup: int) -> np.ndarray:
    """(runs, calls) seconds."""
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


def some_inputs(
    session: Session, batch: int = 1, size_wh: tuple[int, int] | None = None
) -> list[np.ndarray]:
    """Inputs that a model takes, always the same: noise for pictures, ones for the rest.

    Args:
        session: of the model.
        batch: of the first axis, where it is open.
        size_wh: of a picture, where it is open; None for 256 × 256. What has one channel is a
            mask of cells, as networks of stride 4 take it.
    """
    width, height = size_wh or (_OPEN_SIDE, _OPEN_SIDE)
    rng = np.random.default_rng(0)
    shapes = [_sizes(tensor, batch, height, width) for tensor in session.inputs]
    sides = next((_sides(shape) for shape in shapes if _is_picture(shape)), (height, width))
    return [
        _values(tensor, shape, sides, rng)
        for tensor, shape in zip(session.inputs, shapes, strict=True)
    ]


def _sizes(tensor: Tensor, batch: int, height: int, width: int) -> tuple[int, ...]:
    """The shape of an input, with every axis given."""
    wanted = [batch, *[1] * len(tensor.shape)]
    if len(tensor.shape) == 4:
        if tensor.shape[1] == 1:
            wanted[2:] = [height // _STRIDE, width // _STRIDE]
        elif _colours_last(tensor.shape):
            wanted[1:] = [height, width, 3]
        else:
            wanted[1:] = [3, height, width]
    elif len(tensor.shape) == 2:
        wanted[1] = 2
    return tuple(w if size < 0 else size for size, w in zip(tensor.shape, wanted, strict=False))


def _values(
    tensor: Tensor, shape: tuple[int, ...], sides: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    if tensor.name == "im_shape":  # of PaddleDetection's detectors, which cut boxes there
        return np.tile(np.asarray(sides, tensor.dtype), (shape[0], 1))
    if not _is_picture(shape):
        return np.ones(shape, tensor.dtype)
    if tensor.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape, np.float32).astype(tensor.dtype, copy=False)


def _is_picture(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[1] != 1


def _colours_last(shape: tuple[int, ...]) -> bool:
    return shape[3] == 3 and shape[1] != 3


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of pictures."""
    return (shape[1], shape[2]) if _colours_last(shape) else (shape[2], shape[3])
