"""Weights made from names and shapes: the same numbers in every framework, without a file."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import paddle


def weight(name: str, shape: Sequence[int]) -> np.ndarray:
    """The float32 values of the parameter `name`; variances are positive, gains near 1."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith(("running_var", "_variance")):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith(("running_mean", "_mean")):
        values = 0.1 * rng.standard_normal(shape)
    elif len(shape) >= 2:
        fan_in = math.prod(shape[1:]) if len(shape) == 4 else max(shape)
        values = np.sqrt(1 / fan_in) * rng.standard_normal(shape)
    elif name.endswith("weight"):
        values = rng.uniform(0.4, 1.0, shape)
    else:
        values = 0.1 * rng.standard_normal(shape)
    return values.astype(np.float32)


def fill(network: paddle.nn.Layer) -> None:
    """Gives each tensor of the network's state its weight."""
    state = network.state_dict()
    network.set_state_dict({name: weight(name, tensor.shape) for name, tensor in state.items()})
