"""From pictures and boxes to poses: the one path of evaluation, inference and deployment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from reprlib import repr as short

import cv2
import numpy as np

from ppose import geometry
from ppose.codecs.codec import Codec
from ppose.data.crops import Crop, View
from ppose.data.images import ImageError, read_image
from ppose.errors import PposeError
from ppose.postprocess import Postprocess
from ppose.skeleton import Skeleton
from ppose.stages import Stages
from ppose.structures import Poses

NO_BOXES = "no boxes: bottom-up"
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


class InputError(PposeError, ValueError):
    """An array or boxes in which no people can be looked for; the message says what is wrong."""


@dataclass(frozen=True)
class Request:
    """One picture in which people are looked for.

    Attributes:
        image: (H, W, 3) uint8 RGB, or the file that holds it.
        boxes_xywh: (P, 4) boxes of people, for top-down networks; None takes the whole picture
            as one.
        box_scores: (P,) scores of the boxes in 0..1; None for 1.
        box_source: where the boxes came from.
        image_id: id of the picture in its data set.
        size_wh: of the picture as annotated; tells whether EXIF rotation applies.
        file: that an array came from, to be named in the result.
    """

    image: np.ndarray | Path
    boxes_xywh: np.ndarray | None = None
    box_scores: np.ndarray | None = None
    box_source: str = "whole picture"
    image_id: int | None = None
    size_wh: tuple[int, int] | None = None
    file: Path | None = None


@dataclass(frozen=True)
class _Region:
    """A part of a picture as the network gets it.

    Attributes:
        views: what the matrices mean.
        pixels: (h, w, 3) uint8 of each view.
    """

    views: tuple[View, ...]
    pixels: tuple[np.ndarray, ...]

    @property
    def shape(self) -> tuple[tuple[int, int], ...]:
        """Regions of equal shape share batches."""
        return tuple(view.size_wh for view in self.views)


@dataclass(frozen=True)
class _Cut:
    """A picture's regions, with boxes one for each; the pixels of the whole are gone by then."""

    request: Request
    boxes_xywh: np.ndarray
    regions: list[_Region]


class Runner(ABC):
    """A network that takes pixels, whatever runs it; not for several threads at once.

    Attributes:
        size_multiple: what the sides of an input have to be multiples of.
        finds_peaks: whether the peaks of the maps are found where the network runs.
    """

    size_multiple: int
    finds_peaks = False

    @abstractmethod
    def maps(self, pixels: np.ndarray) -> np.ndarray:
        """Inputs (N, H, W, 3) uint8 RGB → maps (N, channels, h, w) float32."""

    def peaks(self, pixels: np.ndarray, cells_wh: np.ndarray) -> dict[str, np.ndarray]:
        """What `Codec.people_at` reads, of inputs whose maps count in the first `cells_wh` (N, 2)
        cells only; where `finds_peaks` is on."""
        raise NotImplementedError


class PoseEstimator:
    """A network with all that turns pictures into its input and its output into poses.

    Top-down and bottom-up networks go the same way; what differs is in the crop and the codec. Not
    for several threads at once.

    Args:
        runner: the network.
        codec: reads the maps.
        crop: picture, and perhaps boxes → inputs.
        postprocess: rescoring and duplicate removal.
        flip_test: average the maps of each input with those of its mirror image.
        batch_size: inputs for each run of the network.
        workers: threads that read and crop pictures ahead.

    Attributes:
        stages: seconds spent on reading and cropping, in the network, and decoding; reading and
            cropping go on beside the others.

    Raises:
        ValueError: a runner that finds peaks, with a flip test or several scales, which need maps.
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
        if runner.finds_peaks and (flip_test or crop.views_each > 1):
            raise ValueError(
                "flip_test and several scales average maps, but this network gives peaks only"
            )
        self.runner = runner
        self.codec = codec
        self.crop = crop
        self.postprocess = postprocess
        self.flip_test = flip_test
        self.batch_size = batch_size
        self.workers = workers
        self.stages = Stages()

    @property
    def skeleton(self) -> Skeleton:
        """The joints that are found."""
        return self.codec.skeleton

    def __call__(
        self, image: str | Path | np.ndarray, boxes: np.ndarray | Sequence | None = None
    ) -> Poses:
        """People in one picture.

        Args:
            image: a file, or (H, W, 3) uint8 RGB.
            boxes: (P, 4) x, y, width, height of people in pixels; None takes the whole picture
                as one person. (P, 5) has the boxes' scores in 0..1 behind them. Bottom-up
                networks find people by themselves and take none.

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
        waiting: list[_Cut] = []
        count = 0
        # Regions of one shape fill a batch; pictures of many shapes need more to choose from.
        enough = self.batch_size if self.crop.uses_boxes else 4 * self.batch_size
        for cut in self._cuts(requests, failed):
            waiting.append(cut)
            count += len(cut.regions)
            # Pictures without anybody would wait for ever.
            if count >= enough or len(waiting) >= 4 * self.batch_size:
                yield from self._finish(waiting)
                waiting, count = [], 0
        yield from self._finish(waiting)

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        """(N, channels, h, w) float32 maps of uint8 inputs (N, H, W, 3), flip test included."""
        with self.stages("network"):
            maps = self.runner.maps(pixels)
            if self.flip_test:
                mirrored = self.runner.maps(np.ascontiguousarray(pixels[:, :, ::-1]))
                maps = (maps + self.codec.unflip(mirrored)) / 2
        return maps

    def _cuts(self, requests: Iterable[Request], failed: list[ImageError] | None) -> Iterator[_Cut]:
        """Reads and crops ahead in threads, in order; a single picture needs none."""
        requests = iter(requests)
        first = list(islice(requests, 2))
        if len(first) < 2:
            for request in first:
                try:
                    yield self._cut(request)
                except ImageError as error:
                    if failed is None:
                        raise
                    failed.append(error)
            return
        requests = chain(first, requests)
        with ThreadPoolExecutor(self.workers) as pool:
            ahead: list[Future[_Cut]] = [
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

    def _cut(self, request: Request) -> _Cut:
        image = request.image
        if isinstance(image, np.ndarray):
            image = _checked(image)
            request = replace(request, image=_NO_PIXELS)
        else:
            with self.stages("reading"):
                image = read_image(image, request.size_wh)
        size_wh = (image.shape[1], image.shape[0])
        boxes = self._boxes(request, size_wh)
        with self.stages("crop"):
            regions = [
                _Region(views, tuple(view(image) for view in views))
                for views in self.crop.views(size_wh, boxes, self.runner.size_multiple)
            ]
        return _Cut(request, boxes, regions)

    @property
    def uses_boxes(self) -> bool:
        """Whether people are looked for in boxes (top-down) or everywhere (bottom-up)."""
        return self.crop.uses_boxes

    def _boxes(self, request: Request, size_wh: tuple[int, int]) -> np.ndarray:
        boxes = request.boxes_xywh
        name = request.image if isinstance(request.image, Path) else "image"
        if not self.crop.uses_boxes and boxes is not None:
            raise InputError(
                f"{name}: this network finds people in the whole picture; run it without boxes"
            )
        if boxes is None:
            return np.array([[0, 0, *size_wh]], np.float32)
        bad = ~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1))
        if bad.any():
            raise InputError(
                f"{name}: box {boxes[bad][0].tolist()} is not x, y, width, height with a width "
                "and height above 0"
            )
        return boxes

    def _finish(self, waiting: list[_Cut]) -> Iterator[Poses]:
        """Runs the network over all waiting regions and gives each picture its people."""
        found = iter(self._found([region for cut in waiting for region in cut.regions]))
        for cut in waiting:
            people = [next(found) for _ in cut.regions]
            covered = _covered(cut.regions) if self.crop.uses_boxes else None
            yield self.postprocess(self._poses(cut, people), covered)

    def _found(self, regions: list[_Region]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Keypoints (P, K, 3) in pixels of the picture and (P,) factors, for each region."""
        alike = defaultdict(list)
        for i, region in enumerate(regions):
            alike[region.shape].append(i)
        found: list[tuple[np.ndarray, np.ndarray]] = [()] * len(regions)  # type: ignore[list-item]
        for places in alike.values():
            for start in range(0, len(places), self.batch_size):
                batch = places[start : start + self.batch_size]
                chosen = [regions[i] for i in batch]
                people = _in_picture(self._people(chosen), chosen)
                for i, of_one in zip(batch, people, strict=True):
                    found[i] = of_one
        return found

    def _people(self, regions: list[_Region]) -> list[tuple[np.ndarray, np.ndarray]]:
        """What `Codec.people` gives for regions of one shape."""
        cells = self._cells_wh(regions)
        if self.runner.finds_peaks:
            pixels = np.stack([region.pixels[0] for region in regions])
            with self.stages("network"):
                peaks = self.runner.peaks(pixels, cells)
            with self.stages("decode"):
                return self.codec.people_at(peaks)
        maps = self._averaged(regions)
        with self.stages("decode"):
            return self.codec.people(without_padding(maps, cells))

    def _cells_wh(self, regions: list[_Region]) -> np.ndarray:
        """(N, 2) cells of the maps that the picture reaches; the others are padding."""
        contents = np.array([region.views[0].content_wh for region in regions])
        return -(-contents // self.codec.stride)

    def _averaged(self, regions: list[_Region]) -> np.ndarray:
        """(N, channels, h, w) maps of regions of one shape, the mean over their views."""
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

    def _poses(self, cut: _Cut, people: list[tuple[np.ndarray, np.ndarray]]) -> Poses:
        request = cut.request
        keypoints = np.concatenate(
            [np.zeros((0, len(self.skeleton), 3), np.float32), *(k for k, _ in people)]
        )
        factors = np.concatenate([np.zeros(0, np.float32), *(f for _, f in people)])
        if self.crop.uses_boxes:
            boxes, source = np.asarray(cut.boxes_xywh, np.float32), request.box_source
        else:
            boxes, source = extents(keypoints), NO_BOXES
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
        )


def _in_picture(
    people: list[tuple[np.ndarray, np.ndarray]], regions: list[_Region]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """People with keypoints in pixels of the picture, from those in pixels of each input."""
    counts = [len(keypoints) for keypoints, _ in people]
    to_picture = np.linalg.inv(np.stack([region.views[0].matrix for region in regions]))
    moved = np.concatenate([keypoints for keypoints, _ in people])
    matrices = np.repeat(to_picture, counts, 0)
    moved[..., :2] = geometry.transform_points(matrices, moved[..., :2])
    parts = np.split(moved, np.cumsum(counts)[:-1])
    return [(part, factors) for part, (_, factors) in zip(parts, people, strict=True)]


def _covered(regions: list[_Region]) -> np.ndarray:
    """(P,) pixels² of the picture that each input shows."""
    if not regions:
        return np.zeros(0)
    sizes = np.array([region.views[0].size_wh for region in regions])
    matrices = np.stack([region.views[0].matrix for region in regions])
    return sizes.prod(1) / np.abs(np.linalg.det(matrices))


def resample(
    maps: np.ndarray, matrix: np.ndarray, stride: int, size_hw: tuple[int, ...]
) -> np.ndarray:
    """Maps of one view on the grid of another.

    Args:
        maps: (C, h, w) float32.
        matrix: (3, 3) pixels of the wanted view's input → pixels of the input of `maps`.
        stride: pixels for each cell, whose centre is the mean of its pixels' centres.
        size_hw: height and width of the wanted maps.
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


def without_padding(maps: np.ndarray, cells_wh: np.ndarray) -> np.ndarray:
    """The maps (N, C, h, w), in place, with nothing beyond the first `cells_wh` (N, 2) cells."""
    for one, (width, height) in zip(maps, cells_wh, strict=True):
        one[:, height:] = 0
        one[:, :, width:] = 0
    return maps


def extents(keypoints: np.ndarray) -> np.ndarray:
    """(P, 4) boxes x, y, width, height around the joints that were found, of (P, K, 3)."""
    seen = keypoints[..., 2:] > 0
    low = np.where(seen, keypoints[..., :2], np.inf).min(1)
    high = np.where(seen, keypoints[..., :2], -np.inf).max(1)
    nobody = ~np.isfinite(low)
    low, high = np.where(nobody, 0, low), np.where(nobody, 0, high)
    return np.concatenate([low, high - low], -1).astype(np.float32)


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
