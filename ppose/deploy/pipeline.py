"""`PosePipeline`: person detection, where the network needs boxes, and pose estimation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from ppose.codecs.codec import Codec
from ppose.data.crops import Crop
from ppose.data.images import ImageError, read_image
from ppose.deploy.detection.detector import Detector, load_detector
from ppose.deploy.session_runner import load_estimator
from ppose.inference.estimator import PoseEstimator
from ppose.inference.request import Request
from ppose.structures import Poses
from ppose.structures.skeleton import Skeleton
from ppose.utils.errors import PposeError
from ppose.utils.timer import Timer


class PosePipeline:
    """Estimates the poses in images. Not thread-safe.

    Args:
        estimator: the pose estimator. Its batch size is also that of the detector.
        detector: the person detector, for top-down networks. Without one a top-down network
            estimates one person per image, with the whole image as the box.

    Raises:
        PposeError: a detector for a bottom-up network.
    """

    def __init__(self, estimator: PoseEstimator, detector: Detector | None = None):
        if detector:
            check_takes_boxes(estimator)
        self.estimator = estimator
        self.detector = detector

    @property
    def skeleton(self) -> Skeleton:
        """The skeleton of the poses."""
        return self.estimator.skeleton

    @property
    def crop(self) -> Crop:
        """That of the estimator."""
        return self.estimator.crop

    @property
    def codec(self) -> Codec:
        """That of the estimator."""
        return self.estimator.codec

    @property
    def uses_boxes(self) -> bool:
        """Whether requests must contain boxes of people."""
        return self.estimator.uses_boxes and self.detector is None

    @property
    def timer(self) -> Timer:
        """Time spent in each stage; reading and cropping run in parallel to the other stages."""
        return self.estimator.timer

    def __call__(self, images: Sequence[np.ndarray]) -> list[Poses]:
        """Poses in each image (H, W, 3) uint8 RGB; people of all images share batches."""
        return list(self.run([Request(image) for image in images]))

    def run(
        self, requests: Iterable[Request], failed: list[ImageError] | None = None
    ) -> Iterator[Poses]:
        """Like `PoseEstimator.run`, but detects people in requests without boxes."""
        if self.detector is not None:
            requests = self._add_boxes(requests, failed)
        return self.estimator.run(requests, failed)

    def _add_boxes(
        self, requests: Iterable[Request], failed: list[ImageError] | None
    ) -> Iterator[Request]:
        """Detects people, while a thread reads the next images."""
        requests = iter(requests)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._read, requests, failed)
            while (batch := ahead.result()) is not None:
                ahead = pool.submit(self._read, requests, failed)
                yield from self._detect(batch)

    def _read(
        self, requests: Iterator[Request], failed: list[ImageError] | None
    ) -> list[Request] | None:
        """The next batch, without images that cannot be read; None at the end."""
        batch = list(islice(requests, self.estimator.batch_size))
        read = []
        for request in batch:
            if isinstance(request.image, np.ndarray):
                read.append(request)
                continue
            try:
                with self.timer("reading"):
                    image = read_image(request.image, request.size_wh)
            except ImageError as error:
                if failed is None:
                    raise
                failed.append(error)
            else:
                read.append(replace(request, image=image, file=request.image))
        return read if batch else None

    @property
    def caution(self) -> str | None:
        """See `PoseModel`."""
        return self.estimator.caution

    def _detect(self, requests: list[Request]) -> list[Request]:
        assert self.detector is not None
        indices = [i for i, request in enumerate(requests) if request.boxes_xywh is None]
        with self.timer("detector"):
            results = self.detector([requests[i].image for i in indices])  # type: ignore[misc]
        for i, boxes in zip(indices, results, strict=True):
            requests[i] = replace(
                requests[i],
                boxes_xywh=boxes[:, :4],
                box_scores=boxes[:, 4],
                box_source=self.detector.name,
            )
        return requests


def check_takes_boxes(estimator: PoseEstimator) -> None:
    """Raises PposeError if the network does not use boxes."""
    if not estimator.uses_boxes:
        raise PposeError("this network is bottom-up and does not use boxes; omit the detector")


def load_pipeline(
    model_dir: str | Path,
    det_model_dir: str | Path | None = None,
    *,
    backend: str = "auto",
    device: str = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
    batch_size: int = 8,
    min_box_score: float = 0.5,
) -> PosePipeline:
    """Loads a pipeline from a bundle and, for top-down networks, a detector.

    Args:
        model_dir, backend, device, precision, threads, batch_size: see `load_estimator`.
        det_model_dir: see `load_detector`. The detector runs on the same device in fp32, with the
            fastest installed backend that supports it.
        min_box_score: people whose boxes have lower scores are omitted.
    """
    estimator = load_estimator(
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
    return PosePipeline(estimator, detector)
