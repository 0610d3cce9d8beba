"""From pictures and boxes to poses: the one path of evaluation, inference and the Python API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from reprlib import repr as short

import numpy as np
import paddle

from ppose import geometry
from ppose.codecs.heatmap import Heatmap
from ppose.data.images import ImageError, read_image
from ppose.data.transforms import BoxCrop, Normalize, warp
from ppose.errors import PposeError
from ppose.postprocess import Postprocess
from ppose.structures import Poses


class InputError(PposeError, ValueError):
    """An array or boxes in which no people can be looked for; the message says what is wrong."""


@dataclass(frozen=True)
class Request:
    """One picture in which people are looked for.

    Attributes:
        image: (H, W, 3) uint8 RGB, or the file that holds it.
        boxes_xywh: (P, 4) boxes of people; None takes the whole picture as one.
        box_scores: (P,) scores of the boxes in 0..1; None for 1.
        box_source: where the boxes came from.
        image_id: id of the picture in its data set.
        size_wh: of the picture as annotated; tells whether EXIF rotation applies.
    """

    image: np.ndarray | Path
    boxes_xywh: np.ndarray | None = None
    box_scores: np.ndarray | None = None
    box_source: str = "whole picture"
    image_id: int | None = None
    size_wh: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Crops:
    """A picture's people, cut out."""

    request: Request
    boxes_xywh: np.ndarray
    pixels: np.ndarray
    to_image: np.ndarray


class PoseEstimator:
    """A network with all that turns pictures into its input and its output into poses.

    Args:
        network: maps normalised (N, 3, H, W) float32 to heat maps (N, K, h, w).
        codec: reads the maps.
        crop: box → input.
        normalize: bytes → float input.
        postprocess: rescoring and duplicate removal.
        flip_test: average the maps of each crop with those of its mirror image.
        batch_size: crops for each run of the network.
        workers: threads that read and crop pictures ahead.
    """

    def __init__(
        self,
        network: paddle.nn.Layer,
        codec: Heatmap,
        crop: BoxCrop,
        normalize: Normalize,
        postprocess: Postprocess,
        flip_test: bool = False,
        batch_size: int = 32,
        workers: int = 2,
    ):
        self.network = network
        self.codec = codec
        self.crop = crop
        self.normalize = normalize
        self.postprocess = postprocess
        self.flip_test = flip_test
        self.batch_size = batch_size
        self.workers = workers

    @property
    def skeleton(self):
        """The joints that are found."""
        return self.codec.skeleton

    def __call__(
        self, image: str | Path | np.ndarray, boxes: np.ndarray | Sequence | None = None
    ) -> Poses:
        """People in one picture.

        Args:
            image: a file, or (H, W, 3) uint8 RGB.
            boxes: (P, 4) x, y, width, height of people in pixels; None takes the whole picture
                as one person. (P, 5) has the boxes' scores in 0..1 behind them.

        Raises:
            ImageError: the file cannot be read.
            InputError: the array or the boxes are not of the form above.
        """
        source, boxes_xywh, scores = "whole picture", None, None
        if boxes is not None:
            source = "given boxes"
            table = _box_table(boxes)
            boxes_xywh, scores = table[:, :4], table[:, 4] if table.shape[1] == 5 else None
        image = image if isinstance(image, np.ndarray) else Path(image)
        return next(self.run([Request(image, boxes_xywh, scores, source)]))

    def run(
        self, requests: Iterable[Request], failed: list[ImageError] | None = None
    ) -> Iterator[Poses]:
        """Poses of many pictures, in order; crops of several pictures share a batch.

        Args:
            requests: pictures and boxes; read lazily.
            failed: a picture that cannot be read is added here and left out of the result; with
                None it raises.

        Raises:
            ImageError, InputError: as `__call__`.
        """
        waiting: list[_Crops] = []
        count = 0
        for crops in self._cropped(requests, failed):
            waiting.append(crops)
            count += len(crops.pixels)
            if count >= self.batch_size:
                yield from self._finish(waiting)
                waiting, count = [], 0
        yield from self._finish(waiting)

    def heatmaps(self, pixels: np.ndarray) -> np.ndarray:
        """(N, K, h, w) float32 maps of uint8 crops (N, H, W, 3), averaged with their mirrors'."""
        was_training = self.network.training
        self.network.eval()
        with paddle.no_grad():
            inputs = self.normalize(pixels)
            maps = self.network(inputs).numpy()
            if self.flip_test:
                mirrored = self.network(inputs.flip(axis=[3])).numpy()
                maps = (maps + self.codec.unflip(mirrored)) / 2
        if was_training:
            self.network.train()
        return maps

    def _cropped(
        self, requests: Iterable[Request], failed: list[ImageError] | None
    ) -> Iterator[_Crops]:
        """Reads and crops ahead in threads, in order."""
        requests = iter(requests)
        with ThreadPoolExecutor(self.workers) as pool:
            ahead: list[Future[_Crops]] = [
                pool.submit(self._cut, r) for r in islice(requests, 4 * self.workers)
            ]
            while ahead:
                done = ahead.pop(0)
                ahead += [pool.submit(self._cut, r) for r in islice(requests, 1)]
                try:
                    yield done.result()
                except ImageError as error:
                    if failed is None:
                        raise
                    failed.append(error)

    def _cut(self, request: Request) -> _Crops:
        image = request.image
        image = _checked(image) if isinstance(image, np.ndarray) else read_image(
            image, request.size_wh
        )  # fmt: skip
        boxes = request.boxes_xywh
        if boxes is None:
            boxes = np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)
        bad = ~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1))
        if bad.any():
            raise InputError(
                f"{request.image if isinstance(request.image, Path) else 'image'}: box "
                f"{boxes[bad][0].tolist()} is not x, y, width, height with a width and height "
                "above 0"
            )
        matrices = [self.crop.matrix(box) for box in boxes]
        width, height = self.crop.size_wh
        pixels = [warp(image, matrix, self.crop.size_wh) for matrix in matrices]
        return _Crops(
            request,
            boxes,
            np.array(pixels, np.uint8).reshape(-1, height, width, 3),
            np.linalg.inv(np.array(matrices).reshape(-1, 3, 3)),
        )

    def _finish(self, waiting: list[_Crops]) -> Iterator[Poses]:
        """Runs the network over all waiting crops and gives each picture its people."""
        if not waiting:
            return
        pixels = np.concatenate([crops.pixels for crops in waiting])
        found = np.zeros((len(pixels), len(self.skeleton), 3), np.float32)
        for start in range(0, len(pixels), self.batch_size):
            part = slice(start, start + self.batch_size)
            found[part] = self.codec.decode(self.heatmaps(pixels[part]))
        to_image = np.concatenate([crops.to_image for crops in waiting])
        found[..., :2] = geometry.transform_points(to_image, found[..., :2])

        ends = np.cumsum([len(crops.pixels) for crops in waiting])[:-1]
        for crops, keypoints in zip(waiting, np.split(found, ends), strict=True):
            areas = np.prod(self.crop.size_wh) * np.linalg.det(crops.to_image)
            yield self.postprocess(self._poses(crops, keypoints), areas)

    def _poses(self, crops: _Crops, keypoints: np.ndarray) -> Poses:
        request = crops.request
        scores = request.box_scores
        return Poses(
            keypoints=keypoints,
            scores=np.ones(len(keypoints), np.float32) if scores is None else scores,
            boxes_xywh=np.asarray(crops.boxes_xywh, np.float32),
            box_source=request.box_source,
            skeleton=self.skeleton,
            image_id=request.image_id,
            file=request.image if isinstance(request.image, Path) else None,
        )


def _box_table(boxes: np.ndarray | Sequence) -> np.ndarray:
    """(P, 4) or, with scores in 0..1, (P, 5) float32."""
    try:
        table = np.asarray(boxes, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"boxes: expected rows of 4 or 5 numbers, found {short(boxes)}") from None
    if table.size == 0:
        return np.zeros((0, 4), np.float32)
    if table.ndim != 2 or table.shape[1] not in (4, 5):
        raise InputError(f"boxes: expected shape (P, 4) or (P, 5), found {table.shape}")
    scores = table[:, 4:]
    wrong = scores[~((scores >= 0) & (scores <= 1))]
    if wrong.size:
        raise InputError(f"boxes: expected scores in 0..1, found {wrong[0]:g}")
    return table


def _checked(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(f"image: expected (H, W, 3) uint8 RGB, found {image.shape} {image.dtype}")
    return image
