"""Verification of a conversion: compares the outputs with those of the PyTorch network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import paddle

from ppose.convert.conversion import Conversion, float32
from ppose.utils.errors import PposeError

if TYPE_CHECKING:
    import torch

# Rounding causes differences of about 1e-6, a misplaced tensor much larger ones.
TOLERANCE = 1e-3


def largest_difference(made: Conversion, arrays: Mapping[str, np.ndarray]) -> float:
    """The largest difference between the outputs of both networks for the same images.

    Args:
        made: the conversion of `arrays`.
        arrays: the tensors of the checkpoint, which are loaded into the PyTorch network.

    Returns:
        the largest difference, relative to the largest absolute value of PyTorch's output.

    Raises:
        PposeError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise PposeError("--verify needs PyTorch: pip install torch") from None
    side = 2 * made.target.network.size_multiple
    # Not square, so that swapped height and width are detected.
    images = np.random.default_rng(0).normal(size=(1, 3, side, side * 3 // 2)).astype(np.float32)

    network = made.target.reference().eval()
    network.load_state_dict(
        {n: torch.from_numpy(float32(n, arrays[n])) for n in made.target.names.values()}
    )
    with torch.inference_mode():
        expected = network(torch.from_numpy(made.source.reference_input(images)))
    with paddle.no_grad():
        found = made.source.outputs(made.target.network, paddle.to_tensor(images))
    if not isinstance(expected, list):
        expected = [expected]
    # Unlike Python's max, NumPy's propagates NaN, which fails the check.
    return float(np.max([_relative(a, b) for a, b in zip(found, expected, strict=True)]))


def _relative(ours: paddle.Tensor, theirs: torch.Tensor) -> float:
    expected = theirs.numpy()
    return float(np.abs(ours.numpy() - expected).max() / np.abs(expected).max())
