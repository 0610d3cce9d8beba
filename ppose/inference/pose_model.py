"""Interface of pose models, with or without a person detector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from ppose.codecs.codec import Codec
from ppose.data.crops import Crop
from ppose.data.images import ImageError
from ppose.inference.request import Request
from ppose.structures import Poses, Skeleton


class PoseModel(Protocol):
    """A `PoseEstimator`, or a `PosePipeline` with a detector."""

    @property
    def skeleton(self) -> Skeleton:
        """The skeleton of the poses."""

    @property
    def crop(self) -> Crop:
        """Image, and boxes if it uses them → inputs."""

    @property
    def codec(self) -> Codec:
        """Decodes the maps."""

    @property
    def uses_boxes(self) -> bool:
        """Whether images need boxes of people."""

    @property
    def caution(self) -> str | None:
        """What users of its weights have to know, if anything."""

    def run(
        self, requests: Iterable[Request], failed: list[ImageError] | None = None
    ) -> Iterator[Poses]:
        """See `PoseEstimator.run`."""
