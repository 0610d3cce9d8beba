"""Pose estimator: images and boxes → poses, in evaluation, inference and deployment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import cv2
import numpy as np

from ppose.codecs.codec import Codec
from ppose.data.crops import Crop, View
from ppose.data.images import ImageError, read_image
from ppose.inference.postprocess import Postprocess
from ppose.inference.request import InputError, Request, check_boxes, check_image
from ppose.inference.runner import Runner
from ppose.structures import Poses, geometry
from ppose.structures.skeleton import Skeleton
from ppose.utils.timer import Timer

NO_BOXES = "no boxes: bottom-up"
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)
_MAX_KEPT = 2**28  # bytes of whole images that wait for their batch


@dataclass(frozen=True)
class _Region:
    """A region of an image as inputs of the network.

    Attributes:
        views: a view for each scale.
        pixels: (h, w, 3) uint8 of each view.
    """

    views: tuple[View, ...]
    pixels: tuple[np.ndarray, ...]

    @property
    def shape(self) -> tuple[tuple[int, int], ...]:
        """Sizes of the views; only regions of the same shape share a batch."""
        return tuple(view.size_wh for view in self.views)


@dataclass(frozen=True)
class _CroppedImage:
    """The regions of an image: top-down one for each box.

    Attributes:
        pixels: of the whole image, only if the request asks to keep it.
    """

    request: Request
    boxes_xywh: np.ndarray
    regions: list[_Region]
    pixels: np.ndarray | None


class PoseEstimator:
    """A network with its preprocessing, decoding and postprocessing.

    Top-down and bottom-up networks differ only in the crop and the codec. Not thread-safe.

    Args:
        runner: runs the network.
        codec: decodes the maps.
        crop: image, and boxes if it uses them → inputs.
        postprocess: rescoring and duplicate removal.
        flip_test: average the maps of each input with those of its mirror image.
        batch_size: maximum number of inputs in a run of the network.
        workers: number of threads that read and crop images in advance.

    Attributes:
        timer: seconds spent on reading, cropping, the network, and decoding; reading and cropping
            run in parallel with the others.

    Raises:
        ValueError: a flip test or several scales, which need maps, with a runner that finds peaks;
            or a flip test with a skeleton whose sides are not known.
    """

    def __init__(
        self,
        runner: Runner,
        codec: Codec,
        crop: Crop,
        postprocess: Postprocess,
        flip_test: bool = False,
        batch_size: int = 32,
        workers: int = 2,
    ):
        if runner.finds_peaks and (flip_test or crop.views_per_region > 1):
            raise ValueError(
                "flip_test and several scales average maps, but this network outputs peaks only"
            )
        if flip_test:
            codec.check_flip()
        self.runner = runner
        self.codec = codec
        self.crop = crop
        self.postprocess = postprocess
        self.flip_test = flip_test
        self.batch_size = batch_size
        self.workers = workers
        self.timer = Timer()
        self.caution: str | None = None

    @property
    def skeleton(self) -> Skeleton:
        """The skeleton of the poses."""
        return self.codec.skeleton

    def __call__(
        self, image: str | Path | np.ndarray, boxes: np.ndarray | Sequence | None = None
    ) -> Poses:
        """Estimates the poses of the people in one image.

        Args:
            image: a file, or (H, W, 3) uint8 RGB.
            boxes: (P, 4) x, y, width, height of people in pixels, or (P, 5) with a score in 0..1;
                None treats the whole image as one person. Bottom-up networks detect people
                themselves and take no boxes.

        Raises:
            ImageError: the file cannot be read.
            InputError: the array or the boxes are invalid.
        """
        source, boxes_xywh, scores = "whole picture", None, None
        if boxes is not None:
            source = "given boxes"
            table = check_boxes(boxes)
            boxes_xywh, scores = table[:, :4], table[:, 4] if table.shape[1] == 5 else None
        image = image if isinstance(image, np.ndarray) else Path(image)
        return next(self.run([Request(image, boxes_xywh, scores, source)]))

    def run(
        self, requests: Iterable[Request], failed: list[ImageError] | None = None
    ) -> Iterator[Poses]:
        """Poses of many images, in order; crops of several images share a batch.

        Args:
            requests: images and boxes, consumed lazily.
            failed: list that gets the errors of unreadable images, which have no result; None
                raises the first.

        Raises:
            ImageError, InputError: as `__call__`.
        """
        pending: list[_CroppedImage] = []
        count, kept = 0, 0
        # A batch has regions of one shape; images of many shapes need more to choose from.
        enough = self.batch_size if self.crop.uses_boxes else 4 * self.batch_size
        for cropped in self._crop_all(requests, failed):
            pending.append(cropped)
            count += len(cropped.regions)
            kept += 0 if cropped.pixels is None else cropped.pixels.nbytes
            # The second condition bounds the number of images without people.
            if count >= enough or len(pending) >= 4 * self.batch_size or kept > _MAX_KEPT:
                yield from self._estimate(pending)
                pending, count, kept = [], 0, 0
        yield from self._estimate(pending)

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        """Inputs (N, H, W, 3) uint8 → maps (N, channels, h, w) float32, with the flip test."""
        with self.timer("network"):
            maps = self.runner.maps(pixels)
            if self.flip_test:
                mirrored = self.runner.maps(np.ascontiguousarray(pixels[:, :, ::-1]))
                maps = (maps + self.codec.flip_back(mirrored)) / 2
        return maps

    def _crop_all(
        self, requests: Iterable[Request], failed: list[ImageError] | None
    ) -> Iterator[_CroppedImage]:
        """Reads and crops images in order, in threads if there are several."""
        requests = iter(requests)
        first = list(islice(requests, 2))
        if len(first) < 2:
            for request in first:
                try:
                    yield self._crop_one(request)
                except ImageError as error:
                    if failed is None:
                        raise
                    failed.append(error)
            return
        requests = chain(first, requests)
        with ThreadPoolExecutor(self.workers) as pool:
            ahead: list[Future[_CroppedImage]] = [
                pool.submit(self._crop_one, r) for r in islice(requests, 4 * self.workers)
            ]
            while ahead:
                done = ahead.pop(0)
                ahead += [pool.submit(self._crop_one, r) for r in islice(requests, 1)]
                try:
                    yield done.result()
                except ImageError as error:
                    if failed is None:
                        raise
                    failed.append(error)

    def _crop_one(self, request: Request) -> _CroppedImage:
        image = request.image
        if isinstance(image, np.ndarray):
            image = check_image(image)
            request = replace(request, image=_NO_PIXELS)
        else:
            with self.timer("reading"):
                image = read_image(image, request.size_wh)
        size_wh = (image.shape[1], image.shape[0])
        boxes = self._boxes(request, size_wh)
        with self.timer("crop"):
            regions = [
                _Region(views, tuple(view(image) for view in views))
                for views in self.crop.views(size_wh, boxes, self.runner.size_multiple)
            ]
        return _CroppedImage(request, boxes, regions, image if request.keep_image else None)

    @property
    def uses_boxes(self) -> bool:
        """Whether images need boxes of people (top-down) or not (bottom-up)."""
        return self.crop.uses_boxes

    def _boxes(self, request: Request, size_wh: tuple[int, int]) -> np.ndarray:
        boxes = request.boxes_xywh
        name = request.image if isinstance(request.image, Path) else "image"
        if not self.crop.uses_boxes and boxes is not None:
            raise InputError(
                f"{name}: this network detects people in the whole image; run it without boxes"
            )
        if boxes is None:
            return np.array([[0, 0, *size_wh]], np.float32)
        invalid = ~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1))
        if invalid.any():
            raise InputError(
                f"{name}: box {boxes[invalid][0].tolist()} is not x, y, width, height with a width "
                "and height above 0"
            )
        return boxes

    def _estimate(self, images: list[_CroppedImage]) -> Iterator[Poses]:
        """Runs the network on all regions of some images and yields the poses of each image."""
        people = iter(self._run_regions([region for image in images for region in image.regions]))
        for image in images:
            of_image = [next(people) for _ in image.regions]
            areas = _region_areas(image.regions) if self.crop.uses_boxes else None
            yield self.postprocess(self._poses(image, of_image), areas)

    def _run_regions(self, regions: list[_Region]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Keypoints (P, K, 3) in pixels of the image and (P,) score factors, for each region."""
        by_shape = defaultdict(list)
        for i, region in enumerate(regions):
            by_shape[region.shape].append(i)
        found: list[tuple[np.ndarray, np.ndarray]] = [()] * len(regions)  # type: ignore[list-item]
        for indices in by_shape.values():
            for start in range(0, len(indices), self.batch_size):
                batch = indices[start : start + self.batch_size]
                chosen = [regions[i] for i in batch]
                people = _to_image(self._run_batch(chosen), chosen)
                for i, of_region in zip(batch, people, strict=True):
                    found[i] = of_region
        return found

    def _run_batch(self, regions: list[_Region]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The result of `Codec.decode` for regions of the same shape."""
        cells = self._cells_wh(regions)
        if self.runner.finds_peaks:
            pixels = np.stack([region.pixels[0] for region in regions])
            with self.timer("network"):
                peaks = self.runner.peaks(pixels, cells)
            with self.timer("decode"):
                return self.codec.decode_peaks(peaks)
        maps = self._averaged_maps(regions)
        with self.timer("decode"):
            return self.codec.decode(zero_padding(maps, cells))

    def _cells_wh(self, regions: list[_Region]) -> np.ndarray:
        """(N, 2) width and height of the maps in cells, without the padding of the inputs."""
        contents = np.array([region.views[0].content_wh for region in regions])
        return -(-contents // self.codec.stride)

    def _averaged_maps(self, regions: list[_Region]) -> np.ndarray:
        """(N, channels, h, w) maps of regions of the same shape, averaged over their views."""
        views = range(len(regions[0].views))
        of_view = [self.maps(np.stack([r.pixels[v] for r in regions])) for v in views]
        first = of_view[0]
        if len(of_view) == 1:
            return first
        total = first.copy()
        for v in views[1:]:
            for i, region in enumerate(regions):
                between = region.views[v].matrix @ np.linalg.inv(region.views[0].matrix)
                total[i] += resample(of_view[v][i], between, self.codec.stride, first.shape[2:])
        return total / len(of_view)

    def _poses(self, image: _CroppedImage, people: list[tuple[np.ndarray, np.ndarray]]) -> Poses:
        request = image.request
        keypoints = np.concatenate(
            [np.zeros((0, len(self.skeleton), 3), np.float32), *(k for k, _ in people)]
        )
        factors = np.concatenate([np.zeros(0, np.float32), *(f for _, f in people)])
        if self.crop.uses_boxes:
            boxes, source = np.asarray(image.boxes_xywh, np.float32), request.box_source
        else:
            boxes, source = keypoint_boxes(keypoints), NO_BOXES
        if request.box_scores is not None:
            factors = factors * request.box_scores
        return Poses(
            keypoints=keypoints,
            scores=factors.astype(np.float32),
            boxes_xywh=boxes,
            box_source=source,
            skeleton=self.skeleton,
            image_id=request.image_id,
            file=request.image if isinstance(request.image, Path) else request.file,
            image=image.pixels,
            category_ids=request.category_ids if self.crop.uses_boxes else None,
        )


def _to_image(
    people: list[tuple[np.ndarray, np.ndarray]], regions: list[_Region]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Transforms keypoints from pixels of each input to pixels of the image."""
    counts = [len(keypoints) for keypoints, _ in people]
    to_image = np.linalg.inv(np.stack([region.views[0].matrix for region in regions]))
    moved = np.concatenate([keypoints for keypoints, _ in people])
    matrices = np.repeat(to_image, counts, 0)
    moved[..., :2] = geometry.transform_points(matrices, moved[..., :2])
    parts = np.split(moved, np.cumsum(counts)[:-1])
    return [(part, factors) for part, (_, factors) in zip(parts, people, strict=True)]


def _region_areas(regions: list[_Region]) -> np.ndarray:
    """(P,) area of each region in pixels² of the image."""
    if not regions:
        return np.zeros(0)
    sizes = np.array([region.views[0].size_wh for region in regions])
    matrices = np.stack([region.views[0].matrix for region in regions])
    return sizes.prod(1) / np.abs(np.linalg.det(matrices))


def resample(
    maps: np.ndarray, matrix: np.ndarray, stride: int, size_hw: tuple[int, ...]
) -> np.ndarray:
    """Resamples the maps of one view on the grid of another.

    Args:
        maps: (C, h, w) float32.
        matrix: (3, 3) pixels of the target view's input → pixels of the input of `maps`.
        stride: pixels per cell; the centre of a cell is the mean of its pixels' centres.
        size_hw: height and width of the target maps.
    """
    to_pixels = geometry.resizing(stride)
    cells = np.linalg.inv(to_pixels) @ matrix @ to_pixels
    height, width = size_hw
    return np.stack(
        [
            cv2.warpAffine(
                of_one,
                cells[:2],
                (width, height),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for of_one in maps
        ]
    )


def zero_padding(maps: np.ndarray, cells_wh: np.ndarray) -> np.ndarray:
    """Sets maps (N, C, h, w) to 0, in place, outside the first `cells_wh` (N, 2) cells."""
    for one, (width, height) in zip(maps, cells_wh, strict=True):
        one[:, height:] = 0
        one[:, :, width:] = 0
    return maps


def keypoint_boxes(keypoints: np.ndarray) -> np.ndarray:
    """Keypoints (P, K, 3) → boxes (P, 4) x, y, width, height around the detected joints."""
    detected = keypoints[..., 2:] > 0
    low = np.where(detected, keypoints[..., :2], np.inf).min(1)
    high = np.where(detected, keypoints[..., :2], -np.inf).max(1)
    empty = ~np.isfinite(low)
    low, high = np.where(empty, 0, low), np.where(empty, 0, high)
    return np.concatenate([low, high - low], -1).astype(np.float32)
