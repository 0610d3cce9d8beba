"""`Detector`: person detection with a network, and `load_detector`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ppose.deploy.backends.open import open_session
from ppose.deploy.backends.session import Session
from ppose.deploy.bundle import DESCRIPTION as BUNDLE
from ppose.deploy.detection.infer_cfg import (
    DETECTOR_YML,
    INFER_CFG,
    DetectorConfig,
    DetectorSpec,
    ScaledImage,
    check_fraction,
    read_detector_yml,
    read_infer_cfg,
)
from ppose.deploy.detection.nms import nms
from ppose.deploy.detection.outputs import Detections, OutputFormatError, read_outputs
from ppose.inference.request import InputError
from ppose.utils.errors import PposeError

_MIN_SCORE = 0.5
_FACTORS, _SIZES = "scale_factor", "im_shape"
_GENERIC_NAMES = ("model", "inference")


class DetectorError(PposeError):
    """A model that cannot be used as a person detector; the message says why."""


class Detector:
    """Detects people in images. Not thread-safe.

    Args:
        session: runs the network.
        spec: preprocessing, classes and output format.
        min_score: people with lower scores are omitted; None for the export's suggestion, or 0.5.
        nms_iou: IoU above which the box with the lower score is removed; None for the value of
            `spec`. Ignored if the network applies non-maximum suppression itself.
        max_people: maximum number of people in an image; those with the highest scores are kept.
        batch_size: images per run, if the network supports batches.

    Attributes:
        name: name of the network and the score threshold, the source of boxes in results.

    Raises:
        DetectorError: the network's inputs or outputs are not those of a detector.
        ConfigError: no class for people.
    """

    def __init__(
        self,
        session: Session,
        spec: DetectorSpec,
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
        candidates = (min_score, spec.min_score, _MIN_SCORE)
        self.min_score: float = next(s for s in candidates if s is not None)
        self.nms_iou = spec.nms_iou if nms_iou is None else nms_iou
        self.max_people = max_people
        stem = session.path.stem
        if stem in _GENERIC_NAMES:
            stem = session.path.resolve().parent.name
        self.name = f"{stem}, scores from {self.min_score:g}"
        self._session = session
        self._spec = spec
        self._image_index = _image_input(session)
        fixed = session.inputs[self._image_index].shape[0]
        self._fixed_batch = fixed if fixed > 0 else None
        if self._fixed_batch is None and not self._supports_batches(batch_size):
            batch_size = 1
        self._batch_size = self._fixed_batch or batch_size
        self._dry_run(1)

    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Detects people.

        Args:
            images: (H, W, 3) uint8 RGB, of any sizes.

        Returns:
            for each image (P, 5) float32: x, y, width, height in pixels, clipped to the image, and
            the score in 0..1; sorted by descending score.

        Raises:
            InputError: an array is not such an image.
            DetectorError: the network's outputs have an unexpected format.
        """
        for i, image in enumerate(images):
            _check_image(i, image)
        found: list[np.ndarray] = []
        for start in range(0, len(images), self._batch_size):
            found += self._batch(images[start : start + self._batch_size])
        return found

    def _batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Runs images of equal size together; padding to a common size would change results."""
        scaled_images = [self._spec.preprocess(image) for image in images]
        same_size = defaultdict(list)
        for i, scaled in enumerate(scaled_images):
            same_size[scaled.pixels.shape].append(i)
        found: list[np.ndarray] = [np.zeros((0, 5), np.float32)] * len(images)
        for indices in same_size.values():
            detections = self._run([scaled_images[i] for i in indices])
            for i, people in zip(indices, detections, strict=False):
                found[i] = self._boxes(people, scaled_images[i], images[i].shape)
        return found

    def _run(self, scaled_images: list[ScaledImage]) -> list[Detections]:
        """Runs images of equal size; fills a fixed batch by repeating the last one."""
        missing = (self._fixed_batch or 0) - len(scaled_images)
        scaled_images = scaled_images + scaled_images[-1:] * missing
        pixels = np.stack([self._spec.network_input(scaled) for scaled in scaled_images])
        inputs = {
            # With 1 boxes are in pixels of the input, whether the network uses the factor or not.
            _FACTORS: np.ones((len(scaled_images), 2)),
            _SIZES: np.array([scaled.size_hw for scaled in scaled_images]),
            self._session.inputs[self._image_index].name: pixels,
        }
        arrays = [_cast(inputs[tensor.name], tensor.dtype) for tensor in self._session.inputs]
        path, spec, size_hw = self._session.path, self._spec, scaled_images[0].pixels.shape[:2]
        try:
            outputs = self._session.run(*arrays)
        except ValueError as error:
            source = spec.source or "the default preprocessing"
            raise DetectorError(f"{path}: its inputs do not match {source}: {error}") from None
        try:
            return read_outputs(outputs, len(scaled_images), size_hw, spec, self.min_score)
        except OutputFormatError as error:
            raise DetectorError(f"{path}: {error}") from None

    def _boxes(self, people: Detections, scaled: ScaledImage, shape: tuple[int, ...]) -> np.ndarray:
        """(P, 5) in pixels of the image."""
        scale_xy = np.array(scaled.scale_yx[::-1] * 2)
        limits = np.array((shape[1], shape[0]) * 2)
        corners = (people.boxes_xyxy / scale_xy).clip(0, limits)
        visible = (corners[:, 2:] > corners[:, :2]).all(1)
        corners, scores = corners[visible], people.scores[visible]
        if people.suppressed:
            kept = np.argsort(-scores, kind="stable")[: self.max_people]
        else:
            # Overlaps outside the image do not count.
            kept = nms(corners, scores, self.nms_iou, self.max_people)
        low, high = corners[kept, :2], corners[kept, 2:]
        return np.column_stack([low, high - low, scores[kept]]).astype(np.float32)

    def _supports_batches(self, batch_size: int) -> bool:
        """Whether a dynamic batch works: some exports contain a reshape to a single image."""
        try:
            if batch_size > 1:
                self._dry_run(2)
        except PposeError:
            return False
        return batch_size > 1

    def _dry_run(self, count: int) -> None:
        """Runs black images to detect errors early."""
        self._run([self._spec.preprocess(np.zeros((64, 48, 3), np.uint8))] * count)


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
    """Loads a detector from a folder or model file.

    The detector is described by PaddleDetection's `infer_cfg.yml` next to the model, or by a
    `detector.yml` (see `DetectorConfig`). Without either the defaults of `DetectorConfig` apply:
    the network must have one input of fixed size and outputs (N, A, 4) and (N, 1, A).

    >>> detect = load_detector("picodet_s_320_pedestrian", min_score=0.3)
    >>> [boxes] = detect([image])  # (P, 5): x, y, width, height, score

    Args:
        model, backend, device, precision, threads: see `open_session`.
        min_score, nms_iou, max_people, batch_size: see `Detector`.

    Raises:
        DetectorError, ConfigError, BackendError: each says what is wrong and where.
    """
    folder = Path(model) if Path(model).is_dir() else Path(model).parent
    description = _read_description(folder)
    session = open_session(
        model,
        backend=backend,
        device=device,
        precision=precision,
        threads=threads,
        size_wh=_typical_size(description),
    )
    return Detector(
        session,
        _resolved(description, session),
        min_score=min_score,
        nms_iou=nms_iou,
        max_people=max_people,
        batch_size=batch_size,
    )


def _read_description(folder: Path) -> DetectorSpec | DetectorConfig:
    """The description next to a model, or the defaults."""
    infer_cfg, detector_yml = folder / INFER_CFG, folder / DETECTOR_YML
    if infer_cfg.is_file() and detector_yml.is_file():
        raise DetectorError(f"{folder}: has {INFER_CFG} and {DETECTOR_YML}: remove one of them")
    if infer_cfg.is_file():
        return read_infer_cfg(infer_cfg)
    if detector_yml.is_file():
        return read_detector_yml(detector_yml)
    if (folder / BUNDLE).is_file():
        raise DetectorError(f"{folder}: a pose estimator, not a detector; give a detector's folder")
    return DetectorConfig()


def _typical_size(description: DetectorSpec | DetectorConfig) -> tuple[int, int] | None:
    """Width and height of the input for an image of 640 × 480 pixels."""
    if isinstance(description, DetectorConfig):
        return description.size_wh
    height, width = description.preprocess(np.zeros((480, 640, 3), np.uint8)).pixels.shape[:2]
    return width, height


def _resolved(description: DetectorSpec | DetectorConfig, session: Session) -> DetectorSpec:
    if isinstance(description, DetectorSpec):
        return description
    shape = session.inputs[_image_input(session)].shape
    if shape[1] not in (3, -1):
        raise DetectorError(
            f"{session.path}: expected an input (N, 3, H, W), found {shape}; use a detector, or "
            f"put its {INFER_CFG} next to it"
        )
    size_wh = description.size_wh or (shape[3], shape[2])
    if min(size_wh) < 0:
        raise DetectorError(
            f"{session.path}: its input size is dynamic: add size_wh: [width, height] to a "
            f"{DETECTOR_YML} next to it"
        )
    source = session.path.parent / DETECTOR_YML
    return description.to_spec(source if source.is_file() else None, size_wh)


def _image_input(session: Session) -> int:
    """Index of the input for images."""
    images = [i for i, tensor in enumerate(session.inputs) if len(tensor.shape) == 4]
    others = [t.name for i, t in enumerate(session.inputs) if i not in images]
    if len(images) != 1 or not {_FACTORS, _SIZES}.issuperset(others):
        inputs = ", ".join(f"{t.name} {t.shape}" for t in session.inputs)
        raise DetectorError(
            f"{session.path}: expected one image input, and optionally {_FACTORS} and {_SIZES}; "
            f"found {inputs}. This detector is not supported"
        )
    return images[0]


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    """Casts to the network's type, unless that would truncate fractions."""
    fits = np.can_cast(array.dtype, dtype, "same_kind")
    return np.ascontiguousarray(array, dtype if fits else array.dtype)


def _check_image(i: int, image: np.ndarray) -> None:
    fits = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3
    if not fits or image.dtype != np.uint8 or 0 in image.shape:
        found = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image)
        raise InputError(f"images[{i}]: expected (H, W, 3) uint8 RGB, found {found}")
