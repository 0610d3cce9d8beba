"""Collective communication between the processes of a run; without effect in a single process.

`paddle.distributed.launch` starts the processes. GPUs communicate by NCCL, CPUs by Gloo.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import paddle
from paddle import distributed

_T = TypeVar("_T")


def init() -> None:
    """Initializes communication if there are several processes."""
    if distributed.get_world_size() > 1 and not distributed.is_initialized():
        distributed.init_parallel_env()


def all_reduce_sum(values: paddle.Tensor) -> np.ndarray:
    """Sum of a tensor over all processes, the same on each."""
    total = values.clone()
    if distributed.get_world_size() > 1:
        distributed.all_reduce(total)
    return total.numpy()


def broadcast_object(value: _T) -> _T:
    """The object of the first process, on each process; the other objects are ignored."""
    if distributed.get_world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def broadcast_arrays(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of the first process, sent one by one, as a training state may be gigabytes."""
    if distributed.get_world_size() == 1:
        return arrays
    shapes = broadcast_object({name: (a.shape, a.dtype.str) for name, a in arrays.items()})
    received = {}
    for name, (shape, dtype) in shapes.items():
        tensor = paddle.to_tensor(arrays.get(name, np.zeros(shape, dtype)))
        distributed.broadcast(tensor, 0)
        received[name] = tensor.numpy()
    return received


def all_gather(items: list[_T]) -> list[_T]:
    """The items of all processes in the order of their ranks, on each process."""
    if distributed.get_world_size() == 1:
        return items
    by_rank: list[list[_T]] = []
    distributed.all_gather_object(by_rank, items)
    return [item for of_rank in by_rank for item in of_rank]


def barrier() -> None:
    """Waits until all processes have reached this call."""
    if distributed.get_world_size() > 1:
        distributed.barrier()


def broadcast_tensors(tensors: list[paddle.Tensor]) -> None:
    """Sets tensors to the values of the first process, in place."""
    if distributed.get_world_size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)
