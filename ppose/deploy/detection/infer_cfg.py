"""Detector descriptions: PaddleDetection's `infer_cfg.yml` and our `detector.yml`.

The preprocessing operators behave as those of the same name in PaddleDetection's
deploy/python/preprocess.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import cv2
import numpy as np

from ppose.config import ConfigError, build, check, nearest, read_yaml
from ppose.config.ranges import Deviation, Length, Range, Share, Side, Size, Stride, checked

INFER_CFG, DETECTOR_YML = "infer_cfg.yml", "detector.yml"
PEOPLE = ("person", "pedestrian")
NMS_IOU = 0.6

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


_Steps = Annotated[list[dict], Length(0, 16)]
_Labels = Annotated[list[str | int], Length(0, 10_000)]
_Strides = Annotated[list[Stride], Length(0, 16)]
_Sides = Side | Annotated[list[Side], Length(2, 2)]
_Interpolation = Literal[0, 1, 2, 3, 4]
_Value = Annotated[float, Range(least=-1000, most=1000)]
_Offset = Annotated[float, Range(least=-10, most=10)]
_Divisor = Annotated[float, Range(above=0, most=1000)]


@dataclass(frozen=True)
class ScaledImage:
    """An image during preprocessing for a detector.

    Attributes:
        pixels: (H, W, 3) uint8 or float32 RGB.
        scale_yx: size of the scaled image divided by that of the original.
        size_hw: height and width after the last resize, without padding.
    """

    pixels: np.ndarray
    scale_yx: tuple[float, float]
    size_hw: tuple[int, int]


class PreprocessOp(Protocol):
    """A preprocessing step; raises ValueError for an image that it cannot process."""

    def __call__(self, scaled: ScaledImage) -> ScaledImage: ...


@checked
@dataclass(frozen=True)
class Resize:
    """Resizes to `target_size`, or to fit into it.

    With `keep_ratio` the image gets the largest size whose short side is at most the target's
    shorter side and whose long side at most its longer side; the target's orientation is ignored.

    Args:
        target_size: height and width, or one number for both.
        keep_ratio: scale both sides by the same factor.
        interp: OpenCV interpolation flag: 0 nearest, 1 linear, 2 cubic, 3 area, 4 Lanczos.
    """

    target_size: _Sides
    keep_ratio: bool = True
    interp: _Interpolation = 1

    def __call__(self, scaled: ScaledImage) -> ScaledImage:
        target = _pair(self.target_size)
        size_hw = scaled.pixels.shape[:2]
        scale_y, scale_x = target[0] / size_hw[0], target[1] / size_hw[1]
        if self.keep_ratio:
            scale_y = scale_x = min(target) / min(size_hw)
            if round(scale_x * max(size_hw)) > max(target):
                scale_y = scale_x = max(target) / max(size_hw)
        size_wh = round(size_hw[1] * scale_x), round(size_hw[0] * scale_y)
        if min(size_wh) > 0:
            # With factors OpenCV samples at exact positions, not those of the rounded size.
            pixels = cv2.resize(
                scaled.pixels, None, fx=scale_x, fy=scale_y, interpolation=self.interp
            )
        else:
            size_wh = max(1, size_wh[0]), max(1, size_wh[1])
            pixels = cv2.resize(scaled.pixels, size_wh, interpolation=self.interp)
        return ScaledImage(pixels, (scale_y, scale_x), pixels.shape[:2])


@checked
@dataclass(frozen=True)
class NormalizeImage:
    """Subtracts `mean` and divides by `std`.

    Args:
        mean, std: of red, green, blue.
        is_scale: divide by 255 first.
        norm_type: "none" omits mean and std.
    """

    mean: tuple[_Value, _Value, _Value] = (0.0, 0.0, 0.0)
    std: tuple[_Divisor, _Divisor, _Divisor] = (1.0, 1.0, 1.0)
    is_scale: bool = True
    norm_type: Literal["mean_std", "none"] = "mean_std"

    def __call__(self, scaled: ScaledImage) -> ScaledImage:
        if scaled.pixels.dtype == np.uint8:
            values = np.repeat(np.arange(256, dtype=np.float32)[:, None, None], 3, axis=2)
            return replace(scaled, pixels=cv2.LUT(scaled.pixels, self._normalize(values)))
        return replace(scaled, pixels=self._normalize(scaled.pixels.copy()))

    def _normalize(self, values: np.ndarray) -> np.ndarray:
        """Normalizes (…, 3) float32 values in place."""
        if self.is_scale:
            values /= 255.0
        if self.norm_type == "mean_std":
            values -= self.mean
            values /= self.std
        return values


@checked
@dataclass(frozen=True)
class Pad:
    """Pads with `fill_value` at the right and bottom, to `size`.

    Args:
        size: height and width, or one number for both.
        fill_value: red, green, blue.
    """

    size: _Sides
    fill_value: tuple[_Value, _Value, _Value] = (114.0, 114.0, 114.0)

    def __call__(self, scaled: ScaledImage) -> ScaledImage:
        size = _pair(self.size)
        height, width = scaled.pixels.shape[:2]
        if height > size[0] or width > size[1]:
            raise ValueError(
                f"Pad: an image of {width} x {height} pixels does not fit into size {list(size)}; "
                "resize it first"
            )
        return replace(scaled, pixels=_padded(scaled.pixels, size, self.fill_value))


@checked
@dataclass(frozen=True)
class PadStride:
    """Pads with zeros at the right and bottom, to multiples of `stride`; 0 adds none."""

    stride: Annotated[int, Range(least=-1, most=1024)] = 0

    def __call__(self, scaled: ScaledImage) -> ScaledImage:
        if self.stride <= 0:
            return scaled
        height, width = (-(-side // self.stride) * self.stride for side in scaled.pixels.shape[:2])
        return replace(scaled, pixels=_padded(scaled.pixels, (height, width), (0, 0, 0)))


@dataclass(frozen=True)
class Permute:
    """The network expects (3, H, W); images stay (H, W, 3) until `DetectorSpec.network_input`."""

    def __call__(self, scaled: ScaledImage) -> ScaledImage:
        return scaled


OPERATORS: dict[str, type] = {
    cls.__name__: cls for cls in (NormalizeImage, Pad, PadStride, Permute, Resize)
}


@dataclass(frozen=True)
class DetectorSpec:
    """Preprocessing, classes and output format of a detector.

    Attributes:
        source: the file that describes the detector; None for the defaults.
        operators: preprocessing steps.
        labels: class names.
        box_format: left, top, right, bottom; left, top, width, height; or centre, width, height.
        nms_iou: IoU threshold for networks without non-maximum suppression.
        strides: of the feature levels, for networks without post-processing.
        min_score: score threshold suggested by the export.
    """

    source: Path | None
    operators: tuple[PreprocessOp, ...]
    labels: tuple[str, ...] = ("person",)
    box_format: Literal["xyxy", "xywh", "cxcywh"] = "xyxy"
    nms_iou: float = NMS_IOU
    strides: tuple[int, ...] = ()
    min_score: float | None = None

    @property
    def people_classes(self) -> list[int]:
        """Indices of the classes `person` and `pedestrian`.

        Raises:
            ConfigError: no such class.
        """
        chosen = [i for i, name in enumerate(self.labels) if name.lower() in PEOPLE]
        if not chosen:
            more = " …" if len(self.labels) > 5 else ""
            raise ConfigError(
                f"{self.source}: no class is named {' or '.join(PEOPLE)}, the classes are: "
                f"{', '.join(self.labels[:5])}{more}; use a detector for people"
            )
        return chosen

    def preprocess(self, image: np.ndarray) -> ScaledImage:
        """Applies all operators except `Permute` to an (H, W, 3) uint8 RGB image.

        Raises:
            ConfigError: an operator cannot process the image.
        """
        scaled = ScaledImage(image, (1.0, 1.0), image.shape[:2])
        try:
            for operator in self.operators:
                scaled = operator(scaled)
        except ValueError as error:
            raise ConfigError(f"{self.source}: {error}") from None
        return scaled

    def network_input(self, scaled: ScaledImage) -> np.ndarray:
        """(3, H, W), or (H, W, 3) without a `Permute`."""
        permuted = any(isinstance(operator, Permute) for operator in self.operators)
        return scaled.pixels.transpose(2, 0, 1) if permuted else scaled.pixels


def read_infer_cfg(path: Path) -> DetectorSpec:
    """Reads the `infer_cfg.yml` of PaddleDetection's export.

    Raises:
        ConfigError: not YAML, other content, or an unknown operator or argument.
    """
    data = read_yaml(path)
    for key, hint in (("Preprocess", _Steps), ("label_list", _Labels)):
        if key not in data:
            raise ConfigError(
                f"{path}: has no '{key}', so it does not describe a detector of PaddleDetection; "
                "use the file that was exported with the model"
            )
        check(data[key], hint, f"{path}: {key}")
    nms, threshold = data.get("NMS"), data.get("draw_threshold")
    iou = nms.get("nms_threshold", NMS_IOU) if isinstance(nms, dict) else NMS_IOU
    strides = data.get("fpn_stride") or []
    check(strides, _Strides, f"{path}: fpn_stride")
    for name, value in (("NMS.nms_threshold", iou), ("draw_threshold", threshold)):
        check_fraction(value, f"{path}: {name}")
    return DetectorSpec(
        path,
        tuple(_operator(n, f"{path}: Preprocess.{i}") for i, n in enumerate(data["Preprocess"])),
        labels=tuple(str(name) for name in data["label_list"]),
        nms_iou=iou,
        strides=tuple(strides),
        min_score=threshold,
    )


@checked
@dataclass(frozen=True)
class DetectorConfig:
    """The keys of a `detector.yml`, for networks without an `infer_cfg.yml`.

    The image is resized to the input size without keeping its aspect ratio, and boxes are in pixels
    of the input.

    Args:
        size_wh: input size; None takes it from the network.
        interp: see `Resize`; PicoDet and PP-YOLOE are published with cubic.
        mean, std: of red, green, blue in 0..1.
        boxes: left, top, right, bottom; left, top, width, height; or centre, width, height.
        nms_iou: IoU threshold for networks without non-maximum suppression.
        labels: class names.
    """

    size_wh: Size | None = None
    interp: _Interpolation = 2
    mean: tuple[_Offset, _Offset, _Offset] = _IMAGENET[0]
    std: Deviation = _IMAGENET[1]
    boxes: Literal["xyxy", "xywh", "cxcywh"] = "xyxy"
    nms_iou: Share = NMS_IOU
    labels: list[str] | None = None

    def to_spec(self, source: Path | None, size_wh: tuple[int, int]) -> DetectorSpec:
        """The specification for this input size."""
        return DetectorSpec(
            source,
            (
                Resize(list(size_wh[::-1]), keep_ratio=False, interp=self.interp),
                NormalizeImage(self.mean, self.std),
                Permute(),
            ),
            labels=tuple(self.labels or ["person"]),
            box_format=self.boxes,
            nms_iou=self.nms_iou,
        )


def read_detector_yml(path: Path) -> DetectorConfig:
    """Reads a `detector.yml`.

    Raises:
        ConfigError: not YAML, or keys or values that `DetectorConfig` does not accept.
    """
    about = read_yaml(path)
    try:
        return build(about, DetectorConfig)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def check_fraction(value: Any, path: str) -> None:
    """Raises ConfigError unless `value` is None or a number in 0..1."""
    check(value, Share | None, path)


def _operator(node: Any, path: str) -> PreprocessOp:
    name = node.get("type") if isinstance(node, dict) else None
    if not isinstance(name, str):
        raise ConfigError(f"{path}: expected an operator with a 'type', found {node!r}")
    if name not in OPERATORS:
        raise ConfigError(
            f"{path}: the operator '{name}' is not supported{nearest(name, list(OPERATORS))}"
        )
    return build({k: v for k, v in node.items() if k != "type"}, OPERATORS[name], path)


def _pair(size: int | list[int]) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _padded(
    pixels: np.ndarray, size_hw: tuple[int, int], fill: tuple[float, float, float]
) -> np.ndarray:
    height, width = pixels.shape[:2]
    if (height, width) == size_hw:
        return pixels
    color = np.array(fill, np.float32)
    if pixels.dtype == np.uint8 and (color != color.clip(0, 255).round()).any():
        pixels = pixels.astype(np.float32)
    padded = np.empty((*size_hw, 3), pixels.dtype)
    padded[:] = color
    padded[:height, :width] = pixels
    return padded
