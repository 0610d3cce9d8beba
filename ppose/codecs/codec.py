"""Codec interface: encodes keypoints into maps, and decodes maps into keypoints."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from ppose.structures import Sample
from ppose.structures.skeleton import Skeleton


class Codec(ABC):
    """Base class of the codecs that `codec:` in a config can select.

    Attributes:
        skeleton: joints of the people.
        size_wh: width and height of the network's input in training, in pixels.
        stride: input pixels per cell of the maps.
        channels: number of maps.
        uses_boxes: whether an input is the box of one person (top-down) or an image (bottom-up).
        joint_channels: the maps of joints.
    """

    skeleton: Skeleton
    size_wh: tuple[int, int]
    stride: int
    channels: int
    uses_boxes: bool
    joint_channels: slice = slice(None)

    @abstractmethod
    def encode(self, sample: Sample) -> dict[str, np.ndarray]:
        """Training targets of a sample, after `Warp`."""

    @abstractmethod
    def decode(self, maps: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """The people in the maps (N, channels, h, w) of N inputs.

        Returns:
            for each input: (P, K, 3) float32 keypoints, x, y in pixels of the input and the score
            of each joint in 0..1; and (P,) float32 factors in 0..1 of the people's scores.
        """

    @abstractmethod
    def decode_peaks(self, peaks: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """`decode` from peaks that the exported network found, see `ppose.export.wrapper`."""

    @abstractmethod
    def flip_back(self, maps: np.ndarray) -> np.ndarray:
        """Converts (N, channels, h, w) maps of a flipped input to maps of the original input."""

    def check_flip(self) -> None:
        """Raises ValueError if the maps cannot be flipped, or joints without swapping sides."""
        self.skeleton.check_flip()
