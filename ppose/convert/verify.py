"""Runs a converted network beside the PyTorch network of its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import paddle

from ppose.convert.conversion import Conversion, float32
from ppose.errors import PposeError

if TYPE_CHECKING:
    import torch

# float32 alone differs by about 1e-6, a tensor at a wrong place by far more.
TOLERANCE = 1e-3


def largest_difference(made: Conversion, arrays: Mapping[str, np.ndarray]) -> float:
    """The largest difference between the outputs of both networks for the same images.

    Args:
        made: from `arrays`.
        arrays: the checkpoint's tensors; the PyTorch network is set to those that were converted.

    Returns:
        the largest of their outputs' differences, each divided by the largest value of PyTorch's.

    Raises:
        PposeError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise PposeError(
            "--verify needs PyTorch: pip install -r requirements-convert.txt"
        ) from None
    side = 2 * made.variant.network.size_multiple
    # Not square, so that height and width cannot be taken for one another.
    images = np.random.default_rng(0).normal(size=(1, 3, side, side * 3 // 2)).astype(np.float32)

    network = made.variant.reference().eval()
    network.load_state_dict(
        {n: torch.from_numpy(float32(n, arrays[n])) for n in made.variant.names.values()}
    )
    with torch.inference_mode():
        expected = network(torch.from_numpy(made.source.reference_input(images)))
    with paddle.no_grad():
        found = made.source.outputs(made.variant.network, paddle.to_tensor(images))
    if not isinstance(expected, list):
        expected = [expected]
    # Unlike Python's max, NumPy's lets NaN through, and NaN is above every tolerance.
    return float(np.max([_relative(a, b) for a, b in zip(found, expected, strict=True)]))


def _relative(ours: paddle.Tensor, theirs: torch.Tensor) -> float:
    expected = theirs.numpy()
    return float(np.abs(ours.numpy() - expected).max() / np.abs(expected).max())
