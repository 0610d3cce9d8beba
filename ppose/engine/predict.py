"""A Paddle layer as the network of a `PoseEstimator`."""

from __future__ import annotations

import numpy as np
import paddle

from ppose.data.transforms import Normalize
from ppose.estimator import Runner
from ppose.models.network import Network


class EagerRunner(Runner):
    """Runs a network as it is now, in eval mode; afterwards it is in its mode again.

    Args:
        network: normalised (N, 3, H, W) float32 → maps.
        normalize: pixels → the network's input.
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
                # Half precision too: as NumPy has no bfloat16, it would arrive as bits.
                return self.network(self.normalize(pixels)).astype("float32").numpy()
        finally:
            if was_training:
                self.network.train()
