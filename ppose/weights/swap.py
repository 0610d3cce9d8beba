"""Temporary replacement of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import paddle


@contextmanager
def swapped_weights(
    network: paddle.nn.Layer, weights: Mapping[str, np.ndarray | paddle.Tensor]
) -> Iterator[None]:
    """Context manager: replaces the weights of a network by others of the same names and shapes."""
    own = network.state_dict()
    kept = {name: tensor.clone() for name, tensor in own.items()}
    try:
        for name, tensor in own.items():
            given = weights[name]
            given = given if isinstance(given, paddle.Tensor) else paddle.to_tensor(given)
            tensor.set_value(given.astype(tensor.dtype))
        yield
    finally:
        for name, tensor in own.items():
            tensor.set_value(kept[name])
