"""What the processes of one run tell each other; with one process there is nobody to tell.

`paddle.distributed.launch` starts them: NCCL joins GPUs, Gloo joins CPUs.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import paddle
from paddle import distributed

_Any = TypeVar("_Any")


def start() -> None:
    """Joins the processes of a launch; a process on its own has nothing to join."""
    if distributed.get_world_size() > 1 and not distributed.is_initialized():
        distributed.init_parallel_env()


def summed(values: paddle.Tensor) -> np.ndarray:
    """Sum of a tensor over all processes, the same on each."""
    total = values.clone()
    if distributed.get_world_size() > 1:
        distributed.all_reduce(total)
    return total.numpy()


def from_main(value: _Any) -> _Any:
    """What the first process holds; what the others pass is of no account."""
    if distributed.get_world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def arrays_from_main(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of the first process, one by one: a training state may be gigabytes."""
    if distributed.get_world_size() == 1:
        return arrays
    shapes = from_main({name: (a.shape, a.dtype.str) for name, a in arrays.items()})
    found = {}
    for name, (shape, dtype) in shapes.items():
        tensor = paddle.to_tensor(arrays.get(name, np.zeros(shape, dtype)))
        distributed.broadcast(tensor, 0)
        found[name] = tensor.numpy()
    return found


def gathered(items: list[_Any]) -> list[_Any]:
    """The items of all processes, process by process, on each."""
    if distributed.get_world_size() == 1:
        return items
    shares: list[list[_Any]] = []
    distributed.all_gather_object(shares, items)
    return [item for share in shares for item in share]


def barrier() -> None:
    """Waits until all processes are here."""
    if distributed.get_world_size() > 1:
        distributed.barrier()


def share(tensors: list[paddle.Tensor]) -> None:
    """Gives all processes the first one's values."""
    if distributed.get_world_size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)
