"""People in pictures: detectors exported by PaddleDetection, or as ONNX or OpenVINO."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ppose.deploy.bundle import DESCRIPTION as BUNDLE
from ppose.deploy.detections import Detections, FormError, read_outputs
from ppose.deploy.infer_cfg import (
    DETECTOR_YML,
    INFER_CFG,
    Description,
    Frame,
    RawDetector,
    check_fraction,
    read_detector_yml,
    read_infer_cfg,
)
from ppose.deploy.nms import suppress
from ppose.deploy.session import Session, open_session
from ppose.errors import PposeError
from ppose.estimator import InputError

_MIN_SCORE = 0.5
_FACTORS, _SIZES = "scale_factor", "im_shape"
_GENERIC = ("model", "inference")  # names that say nothing


class DetectorError(PposeError):
    """A model with which no people can be found; the message says why."""


class Detector:
    """Finds people. Not for several threads at once.

    Args:
        session: runs the network.
        description: what it takes and gives.
        min_score: people that score less are left out; None for what the export suggests, or 0.5.
        nms_iou: overlap above which the worse of two boxes goes; None for what the description
            says. Networks that suppress overlaps themselves do as they were exported.
        max_people: in a picture, the best ones.
        batch_size: pictures for each run, where the network takes more than one.

    Attributes:
        name: where boxes come from: the network and the lowest score.

    Raises:
        DetectorError: the network's inputs or outputs are not a detector's.
        ConfigError: none of its classes is people.
    """

    def __init__(
        self,
        session: Session,
        description: Description,
        *,
        min_score: float | None = None,
        nms_iou: float | None = None,
        max_people: int = 100,
        batch_size: int = 8,
    ):
        check_fraction(min_score, "min_score")
        check_fraction(nms_iou, "nms_iou")
        for name, value in (("max_people", max_people), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, found {value}")
        suggested = (min_score, description.min_score, _MIN_SCORE)
        self.min_score: float = next(s for s in suggested if s is not None)
        self.nms_iou = description.nms_iou if nms_iou is None else nms_iou
        self.max_people = max_people
        stem = session.path.stem
        if stem in _GENERIC:
            stem = session.path.resolve().parent.name
        self.name = f"{stem}, scores from {self.min_score:g}"
        self._session = session
        self._description = description
        self._image = _image_input(session)
        fixed = session.inputs[self._image].shape[0]
        self._fixed = fixed if fixed > 0 else None
        self._batch_size = self._fixed or (batch_size if self._takes_two(batch_size) else 1)
        self._try(1)

    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """People in pictures.

        Args:
            images: (H, W, 3) uint8 RGB, of any sizes.

        Returns:
            for each picture (P, 5) float32 x, y, width, height in its pixels and the score in
            0..1; inside the picture, the best first.

        Raises:
            InputError: an array is no such picture.
            DetectorError: the network gives what it did not give before.
        """
        for i, image in enumerate(images):
            _check_image(i, image)
        found: list[np.ndarray] = []
        for start in range(0, len(images), self._batch_size):
            found += self._batch(images[start : start + self._batch_size])
        return found

    def _batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Frames of one size share a run: padding one to another's would change what is found."""
        frames = [self._description.frame(image) for image in images]
        alike = defaultdict(list)
        for i, frame in enumerate(frames):
            alike[frame.pixels.shape].append(i)
        found: list[np.ndarray] = [np.zeros((0, 5), np.float32)] * len(images)
        for places in alike.values():
            detections = self._run([frames[i] for i in places])
            for i, people in zip(places, detections, strict=False):
                found[i] = self._boxes(people, frames[i], images[i].shape)
        return found

    def _run(self, frames: list[Frame]) -> list[Detections]:
        """Of frames of one size; a network for batches of one size gets the last one repeated."""
        frames = frames + frames[-1:] * ((self._fixed or 0) - len(frames))
        pixels = np.stack([self._description.pixels(frame) for frame in frames])
        given = {
            # Boxes then are in pixels of the input, whether the network uses it or not.
            _FACTORS: np.ones((len(frames), 2)),
            _SIZES: np.array([frame.size_hw for frame in frames]),
            self._session.inputs[self._image].name: pixels,
        }
        arrays = [_cast(given[tensor.name], tensor.dtype) for tensor in self._session.inputs]
        path, about, size_hw = self._session.path, self._description, frames[0].pixels.shape[:2]
        try:
            outputs = self._session.run(*arrays)
        except ValueError as error:
            source = about.source or "its inputs"
            raise DetectorError(f"{path}: it does not take what {source} says: {error}") from None
        try:
            return read_outputs(outputs, len(frames), size_hw, about, self.min_score)
        except FormError as error:
            raise DetectorError(f"{path}: {error}") from None

    def _boxes(self, people: Detections, frame: Frame, shape: tuple[int, ...]) -> np.ndarray:
        """(P, 5) in pixels of the picture."""
        scale_xy = np.array(frame.scale_yx[::-1] * 2)
        limits = np.array((shape[1], shape[0]) * 2)
        corners = (people.boxes_xyxy / scale_xy).clip(0, limits)
        seen = (corners[:, 2:] > corners[:, :2]).all(1)
        corners, scores = corners[seen], people.scores[seen]
        if people.suppressed:
            chosen = np.argsort(-scores, kind="stable")[: self.max_people]
        else:
            # What sticks out of the picture does not count as overlap.
            chosen = suppress(corners, scores, self.nms_iou, self.max_people)
        low, high = corners[chosen, :2], corners[chosen, 2:]
        return np.column_stack([low, high - low, scores[chosen]]).astype(np.float32)

    def _takes_two(self, batch_size: int) -> bool:
        """Whether it does what its open batch says: some exports reshape to one picture."""
        try:
            if batch_size > 1:
                self._try(2)
        except PposeError:
            return False
        return batch_size > 1

    def _try(self, count: int) -> None:
        """Runs black pictures, so that errors come before work."""
        self._run([self._description.frame(np.zeros((64, 48, 3), np.uint8))] * count)


def load_detector(
    model: str | Path,
    *,
    backend: str = "auto",
    device: str = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
    min_score: float | None = None,
    nms_iou: float | None = None,
    max_people: int = 100,
    batch_size: int = 8,
) -> Detector:
    """A detector from a folder or model file.

    What it takes and gives is said by PaddleDetection's `infer_cfg.yml` beside the model, or by a
    `detector.yml` (see `RawDetector`). Without either a network with one input of fixed size and
    outputs (N, A, 4) and (N, 1, A) is taken as one that `RawDetector()` describes.

    >>> find = load_detector("picodet_s_320_pedestrian", min_score=0.3)
    >>> [boxes] = find([image])  # (P, 5): x, y, width, height, score

    Args:
        model, backend, device, precision, threads: see `open_session`.
        min_score, nms_iou, max_people, batch_size: see `Detector`.

    Raises:
        DetectorError, ConfigError, BackendError: each says what is wrong and where.
    """
    folder = Path(model) if Path(model).is_dir() else Path(model).parent
    about = _about(folder)
    session = open_session(
        model,
        backend=backend,
        device=device,
        precision=precision,
        threads=threads,
        size_wh=_usual_size(about),
    )
    return Detector(
        session,
        _described(about, session) if isinstance(about, RawDetector) else about,
        min_score=min_score,
        nms_iou=nms_iou,
        max_people=max_people,
        batch_size=batch_size,
    )


def _about(folder: Path) -> Description | RawDetector:
    """What stands beside a model."""
    of_paddle, own = folder / INFER_CFG, folder / DETECTOR_YML
    if of_paddle.is_file() and own.is_file():
        raise DetectorError(f"{folder}: has {INFER_CFG} and {DETECTOR_YML}: remove the wrong one")
    if of_paddle.is_file():
        return read_infer_cfg(of_paddle)
    if own.is_file():
        return read_detector_yml(own)
    if (folder / BUNDLE).is_file():
        raise DetectorError(f"{folder}: finds poses, not people; give a detector's folder")
    return RawDetector()


def _usual_size(about: Description | RawDetector) -> tuple[int, int] | None:
    """Width and height of the input for a picture as cameras give it."""
    if isinstance(about, RawDetector):
        return about.size_wh
    height, width = about.frame(np.zeros((480, 640, 3), np.uint8)).pixels.shape[:2]
    return width, height


def _described(raw: RawDetector, session: Session) -> Description:
    shape = session.inputs[_image_input(session)].shape
    if shape[1] not in (3, -1):
        raise DetectorError(
            f"{session.path}: expected an input (N, 3, H, W), found {shape}; take a detector, or "
            f"put its {INFER_CFG} beside it"
        )
    size_wh = raw.size_wh or (shape[3], shape[2])
    if min(size_wh) < 0:
        raise DetectorError(
            f"{session.path}: its input has no fixed size: write size_wh: [width, height] into a "
            f"{DETECTOR_YML} beside it"
        )
    own = session.path.parent / DETECTOR_YML
    return raw.described(own if own.is_file() else None, size_wh)


def _image_input(session: Session) -> int:
    """Index of the input for pictures."""
    images = [i for i, tensor in enumerate(session.inputs) if len(tensor.shape) == 4]
    rest = [t.name for i, t in enumerate(session.inputs) if i not in images]
    if len(images) != 1 or not {_FACTORS, _SIZES}.issuperset(rest):
        inputs = ", ".join(f"{t.name} {t.shape}" for t in session.inputs)
        raise DetectorError(
            f"{session.path}: expected one input of pictures, and perhaps {_FACTORS} and "
            f"{_SIZES}; found {inputs}. It is no detector that is supported"
        )
    return images[0]


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    """In the type that a network takes, unless that would cut off fractions."""
    fits = np.can_cast(array.dtype, dtype, "same_kind")
    return np.ascontiguousarray(array, dtype if fits else array.dtype)


def _check_image(i: int, image: np.ndarray) -> None:
    fits = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3
    if not fits or image.dtype != np.uint8 or 0 in image.shape:
        found = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image)
        raise InputError(f"images[{i}]: expected (H, W, 3) uint8 RGB, found {found}")
