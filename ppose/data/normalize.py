"""Normalization of image batches on the device of the network."""

from __future__ import annotations

import numpy as np
import paddle

from ppose.config import register
from ppose.config.ranges import Colour, Deviation


@register
class Normalize:
    """Normalizes batches of uint8 RGB images to the network's float input.

    Not part of the sample pipeline: batches are transferred as uint8 and normalized on the device.

    Args:
        mean, std: of R, G and B, in 0..1; the defaults are ImageNet's.
    """

    def __init__(
        self,
        mean: Colour = (0.485, 0.456, 0.406),
        std: Deviation = (0.229, 0.224, 0.225),
    ):
        self.mean = np.array(mean, np.float32) * 255
        self.std = np.array(std, np.float32) * 255

    def __call__(self, images: np.ndarray | paddle.Tensor) -> paddle.Tensor:
        """(N, H, W, 3) uint8 array or Paddle tensor → (N, 3, H, W) float32 Paddle tensor."""
        scale, offset = 1 / self.std, -self.mean / self.std
        pixels = images if isinstance(images, paddle.Tensor) else paddle.to_tensor(images)
        pixels = pixels.astype("float32")
        normalized = pixels * paddle.to_tensor(scale) + paddle.to_tensor(offset)
        return normalized.transpose([0, 3, 1, 2])
