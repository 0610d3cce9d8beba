"""What a codec promises to training, evaluation, inference and deployment."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from ppose.skeleton import Skeleton
from ppose.structures import Sample


class Codec(ABC):
    """Base class of what `codec:` in a config may name: people ↔ maps.

    Attributes:
        skeleton: joints of the people.
        size_wh: width and height of the network's input in training, in pixels.
        stride: input pixels for each cell of the maps.
        channels: number of maps.
        uses_boxes: whether an input shows one person in a box (top-down) or everybody.
        joint_channels: the maps that show joints.
    """

    skeleton: Skeleton
    size_wh: tuple[int, int]
    stride: int
    channels: int
    uses_boxes: bool
    joint_channels: slice = slice(None)

    @abstractmethod
    def targets(self, sample: Sample) -> dict[str, np.ndarray]:
        """What the loss compares the network's maps with, for a sample behind the warp."""

    @abstractmethod
    def people(self, maps: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """The people that the maps (N, channels, h, w) of N inputs show.

        Returns:
            for each input keypoints (P, K, 3) float32, x, y in pixels of the input and the
            score of each joint in 0..1, and (P,) float32 factors in 0..1 of the people's scores.
        """

    @abstractmethod
    def people_at(self, peaks: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """`people` of maps whose peaks were found where the network ran; see
        `ppose.export.graph`."""

    @abstractmethod
    def unflip(self, maps: np.ndarray) -> np.ndarray:
        """(N, channels, h, w) maps of a mirrored input, as maps of the input itself."""

    def check_flip(self) -> None:  # noqa: B027  most maps have one
        """ValueError if the maps have no mirror image."""
