"""Runner of a Paddle network in eager mode."""

from __future__ import annotations

import numpy as np
import paddle

from ppose.data.normalize import Normalize
from ppose.inference.runner import Runner
from ppose.models.network import Network


class EagerRunner(Runner):
    """Runs a network in eval mode with its current weights, and restores its mode afterwards.

    Args:
        network: normalised (N, 3, H, W) float32 → maps.
        normalize: pixels → input of the network.
    """

    def __init__(self, network: Network, normalize: Normalize):
        self.network = network
        self.normalize = normalize
        self.size_multiple = network.size_multiple

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        """Inputs (N, H, W, 3) uint8 RGB → maps (N, channels, h, w) float32."""
        was_training = self.network.training
        self.network.eval()
        try:
            with paddle.no_grad():
                # NumPy has no bfloat16: without the cast it would get the raw bits.
                return self.network(self.normalize(pixels)).astype("float32").numpy()
        finally:
            if was_training:
                self.network.train()
