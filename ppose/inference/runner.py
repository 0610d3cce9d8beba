"""Interface of the backends that run a network."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np


class Runner(ABC):
    """Runs a network on pixels, in any backend. Not thread-safe.

    Attributes:
        size_multiple: the sides of an input have to be multiples of it.
        finds_peaks: whether the backend also finds the peaks of the maps.
    """

    size_multiple: int
    finds_peaks = False

    @abstractmethod
    def maps(self, pixels: np.ndarray) -> np.ndarray:
        """Inputs (N, H, W, 3) uint8 RGB → maps (N, channels, h, w) float32."""

    def peaks(self, pixels: np.ndarray, cells_wh: np.ndarray) -> dict[str, np.ndarray]:
        """Inputs (N, H, W, 3) uint8 RGB → input of `Codec.decode_peaks`, if `finds_peaks` is true.

        Args:
            pixels: see above.
            cells_wh: (N, 2) width and height of the valid region of each input's maps, in cells.
        """
        raise NotImplementedError
