"""Everybody in a picture: a detector where the network needs boxes, then the poses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from ppose.data.images import ImageError, read_image
from ppose.deploy.detector import Detector, load_detector
from ppose.deploy.model import load
from ppose.errors import PposeError
from ppose.estimator import PoseEstimator, Request
from ppose.skeleton import Skeleton
from ppose.stages import Stages
from ppose.structures import Poses


class PoseFinder:
    """Pictures → poses. Not for several threads at once.

    Args:
        estimator: of poses. The detector is given as many pictures at once as it has inputs in a
            batch.
        detector: of people; None for networks that find people by themselves. A top-down network
            without one takes each picture as one person who fills it.

    Raises:
        PposeError: a detector for a network that takes no boxes.
    """

    def __init__(self, estimator: PoseEstimator, detector: Detector | None = None):
        if detector:
            check_takes_boxes(estimator)
        self.estimator = estimator
        self.detector = detector

    @property
    def skeleton(self) -> Skeleton:
        """The joints that are found."""
        return self.estimator.skeleton

    @property
    def uses_boxes(self) -> bool:
        """Whether pictures have to come with the boxes of people."""
        return self.estimator.uses_boxes and self.detector is None

    @property
    def stages(self) -> Stages:
        """Where the time goes; reading and cropping go on beside the others."""
        return self.estimator.stages

    def __call__(self, images: Sequence[np.ndarray]) -> list[Poses]:
        """Poses in each picture (H, W, 3) uint8 RGB; the people of all share batches."""
        return list(self.run([Request(image) for image in images]))

    def run(
        self, requests: Iterable[Request], failed: list[ImageError] | None = None
    ) -> Iterator[Poses]:
        """As `PoseEstimator.run`; people are detected in requests without boxes."""
        if self.detector is not None:
            requests = self._with_boxes(requests, failed)
        return self.estimator.run(requests, failed)

    def _with_boxes(
        self, requests: Iterable[Request], failed: list[ImageError] | None
    ) -> Iterator[Request]:
        """Pictures are read in a thread while the detector looks at those before."""
        requests = iter(requests)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._read, requests, failed)
            while (batch := ahead.result()) is not None:
                ahead = pool.submit(self._read, requests, failed)
                yield from self._detected(batch)

    def _read(
        self, requests: Iterator[Request], failed: list[ImageError] | None
    ) -> list[Request] | None:
        """The next pictures that can be read; None behind the last."""
        batch = list(islice(requests, self.estimator.batch_size))
        read = []
        for request in batch:
            if isinstance(request.image, np.ndarray):
                read.append(request)
                continue
            try:
                with self.stages("reading"):
                    image = read_image(request.image, request.size_wh)
            except ImageError as error:
                if failed is None:
                    raise
                failed.append(error)
            else:
                read.append(replace(request, image=image, file=request.image))
        return read if batch else None

    def _detected(self, requests: list[Request]) -> list[Request]:
        assert self.detector is not None
        open_ones = [i for i, request in enumerate(requests) if request.boxes_xywh is None]
        with self.stages("detector"):
            found = self.detector([requests[i].image for i in open_ones])  # type: ignore[misc]
        for i, boxes in zip(open_ones, found, strict=True):
            requests[i] = replace(
                requests[i],
                boxes_xywh=boxes[:, :4],
                box_scores=boxes[:, 4],
                box_source=self.detector.name,
            )
        return requests


def check_takes_boxes(estimator: PoseEstimator) -> None:
    """PposeError if a detector would be of no use to the network."""
    if not estimator.uses_boxes:
        raise PposeError(
            "this network is bottom-up: it finds people by itself; leave the detector away"
        )


def load_finder(
    model_dir: str | Path,
    det_model_dir: str | Path | None = None,
    *,
    backend: str = "auto",
    device: str = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
    batch_size: int = 8,
    min_box_score: float = 0.5,
) -> PoseFinder:
    """A finder from a bundle and, for top-down networks, a detector.

    Args:
        model_dir, backend, device, precision, threads, batch_size: see `ppose.deploy.model.load`.
        det_model_dir: see `load_detector`. It runs on the same device, by the fastest backend
            that is installed and reads its files, in fp32.
        min_box_score: people whose boxes score less are left out.
    """
    estimator = load(
        model_dir,
        backend=backend,
        device=device,
        precision=precision,
        threads=threads,
        batch_size=batch_size,
    )
    detector = None
    if det_model_dir is not None:
        check_takes_boxes(estimator)
        detector = load_detector(
            det_model_dir,
            device=device,
            threads=threads,
            min_score=min_box_score,
            batch_size=batch_size,
        )
    return PoseFinder(estimator, detector)
