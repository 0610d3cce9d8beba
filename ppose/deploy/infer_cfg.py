"""What a detector takes and gives: PaddleDetection's `infer_cfg.yml`, or our `detector.yml`.

The operators do what those of the same name do in PaddleDetection's deploy/python/preprocess.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np

from ppose.config import read_yaml
from ppose.registry import ConfigError, build, check, nearest

INFER_CFG, DETECTOR_YML = "infer_cfg.yml", "detector.yml"
PEOPLE = ("person", "pedestrian")
NMS_IOU = 0.6

_LONGEST_SIDE = 8192
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Frame:
    """A picture on its way into a detector.

    Attributes:
        pixels: (H, W, 3) uint8 or float32 RGB.
        scale_yx: pixels of the frame for one of the picture.
        size_hw: height and width of what the last resize made, without padding.
    """

    pixels: np.ndarray
    scale_yx: tuple[float, float]
    size_hw: tuple[int, int]


class Operator(Protocol):
    """One step of preprocessing; ValueError for a picture on which it does not work."""

    def __call__(self, frame: Frame) -> Frame: ...


@dataclass(frozen=True)
class Resize:
    """To `target_size`, or inside of it.

    With `keep_ratio` the short side becomes the smaller one of the target's, or the long side the
    larger one, whichever gives less; the orientation of the target does not matter.

    Args:
        target_size: height and width, or both in one number.
        keep_ratio: one factor for both sides.
        interp: number of OpenCV's interpolation: 0 nearest, 1 linear, 2 cubic, 3 area, 4 Lanczos.
    """

    target_size: int | list[int]
    keep_ratio: bool = True
    interp: Literal[0, 1, 2, 3, 4] = 1

    def __post_init__(self) -> None:
        _pair("target_size", self.target_size)

    def __call__(self, frame: Frame) -> Frame:
        target = _pair("target_size", self.target_size)
        found = frame.pixels.shape[:2]
        scale_y, scale_x = target[0] / found[0], target[1] / found[1]
        if self.keep_ratio:
            scale_y = scale_x = min(target) / min(found)
            if round(scale_x * max(found)) > max(target):
                scale_y = scale_x = max(target) / max(found)
        size_wh = round(found[1] * scale_x), round(found[0] * scale_y)
        if min(size_wh) > 0:
            # OpenCV samples by the factors, not by the rounded sizes.
            pixels = cv2.resize(
                frame.pixels, None, fx=scale_x, fy=scale_y, interpolation=self.interp
            )
        else:
            size_wh = max(1, size_wh[0]), max(1, size_wh[1])
            pixels = cv2.resize(frame.pixels, size_wh, interpolation=self.interp)
        return Frame(pixels, (scale_y, scale_x), pixels.shape[:2])


@dataclass(frozen=True)
class NormalizeImage:
    """Subtracts `mean` and divides by `std`.

    Args:
        mean, std: of red, green, blue.
        is_scale: divide by 255 first.
        norm_type: "none" leaves mean and std out.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    is_scale: bool = True
    norm_type: Literal["mean_std", "none"] = "mean_std"

    def __post_init__(self) -> None:
        if not all(self.std):
            raise ValueError(f"std: expected numbers other than 0, found {list(self.std)}")

    def __call__(self, frame: Frame) -> Frame:
        if frame.pixels.dtype == np.uint8:
            values = np.repeat(np.arange(256, dtype=np.float32)[:, None, None], 3, axis=2)
            return replace(frame, pixels=cv2.LUT(frame.pixels, self._normalized(values)))
        return replace(frame, pixels=self._normalized(frame.pixels.copy()))

    def _normalized(self, values: np.ndarray) -> np.ndarray:
        """In place; (…, 3) float32."""
        if self.is_scale:
            values /= 255.0
        if self.norm_type == "mean_std":
            values -= self.mean
            values /= self.std
        return values


@dataclass(frozen=True)
class Pad:
    """Adds `fill_value` at the right and below, up to `size`.

    Args:
        size: height and width, or both in one number.
        fill_value: red, green, blue.
    """

    size: int | list[int]
    fill_value: tuple[float, float, float] = (114.0, 114.0, 114.0)

    def __post_init__(self) -> None:
        _pair("size", self.size)

    def __call__(self, frame: Frame) -> Frame:
        size = _pair("size", self.size)
        height, width = frame.pixels.shape[:2]
        if height > size[0] or width > size[1]:
            raise ValueError(
                f"Pad: a picture of {width} x {height} pixels does not fit into size {list(size)}; "
                "resize it to at most that first"
            )
        return replace(frame, pixels=_padded(frame.pixels, size, self.fill_value))


@dataclass(frozen=True)
class PadStride:
    """Adds zeros at the right and below, up to multiples of `stride`; 0 adds none."""

    stride: int = 0

    def __post_init__(self) -> None:
        if self.stride > _LONGEST_SIDE:
            raise ValueError(f"stride: expected at most {_LONGEST_SIDE}, found {self.stride}")

    def __call__(self, frame: Frame) -> Frame:
        if self.stride <= 0:
            return frame
        height, width = (-(-side // self.stride) * self.stride for side in frame.pixels.shape[:2])
        return replace(frame, pixels=_padded(frame.pixels, (height, width), (0, 0, 0)))


@dataclass(frozen=True)
class Permute:
    """The network takes (3, H, W); frames stay (H, W, 3) until they are handed to it."""

    def __call__(self, frame: Frame) -> Frame:
        return frame


OPERATORS: dict[str, type] = {
    cls.__name__: cls for cls in (NormalizeImage, Pad, PadStride, Permute, Resize)
}


@dataclass(frozen=True)
class Description:
    """All that is known of a detector beside its network.

    Attributes:
        source: file that says so; None for what was recognised.
        operators: what a picture goes through.
        labels: names of the classes.
        box_format: left, top, right, bottom; or the sizes last; or these with the middle first.
        nms_iou: for networks without non-maximum suppression.
        strides: of the levels whose raw output the network gives.
        min_score: that the export suggests.
    """

    source: Path | None
    operators: tuple[Operator, ...]
    labels: tuple[str, ...] = ("person",)
    box_format: Literal["xyxy", "xywh", "cxcywh"] = "xyxy"
    nms_iou: float = NMS_IOU
    strides: tuple[int, ...] = ()
    min_score: float | None = None

    @property
    def people(self) -> list[int]:
        """Indices of the classes that are people.

        Raises:
            ConfigError: there is none.
        """
        chosen = [i for i, name in enumerate(self.labels) if name.lower() in PEOPLE]
        if not chosen:
            more = " …" if len(self.labels) > 5 else ""
            raise ConfigError(
                f"{self.source}: no class is called {' or '.join(PEOPLE)}, they are: "
                f"{', '.join(self.labels[:5])}{more}; take a detector that finds people"
            )
        return chosen

    def frame(self, image: np.ndarray) -> Frame:
        """An (H, W, 3) uint8 RGB picture as the network takes it, but for `Permute`.

        Raises:
            ConfigError: an operator does not work on such a picture.
        """
        frame = Frame(image, (1.0, 1.0), image.shape[:2])
        try:
            for operator in self.operators:
                frame = operator(frame)
        except ValueError as error:
            raise ConfigError(f"{self.source}: {error}") from None
        return frame

    def pixels(self, frame: Frame) -> np.ndarray:
        """(3, H, W), or (H, W, 3) without a `Permute`."""
        permuted = any(isinstance(operator, Permute) for operator in self.operators)
        return frame.pixels.transpose(2, 0, 1) if permuted else frame.pixels


def read_infer_cfg(path: Path) -> Description:
    """What PaddleDetection wrote beside a detector.

    Raises:
        ConfigError: not YAML, other content, an operator or argument that is not known.
    """
    data = read_yaml(path)
    for key, hint in (("Preprocess", list[dict]), ("label_list", list)):
        if key not in data:
            raise ConfigError(
                f"{path}: has no '{key}', so PaddleDetection did not write it with a detector; "
                "take the file from the detector's own export"
            )
        check(data[key], hint, f"{path}: {key}")
    nms, threshold = data.get("NMS"), data.get("draw_threshold")
    iou = nms.get("nms_threshold", NMS_IOU) if isinstance(nms, dict) else NMS_IOU
    strides = data.get("fpn_stride") or []
    check(strides, list[int], f"{path}: fpn_stride")
    for name, value in (("NMS.nms_threshold", iou), ("draw_threshold", threshold)):
        check_fraction(value, f"{path}: {name}")
    return Description(
        path,
        tuple(_operator(n, f"{path}: Preprocess.{i}") for i, n in enumerate(data["Preprocess"])),
        labels=tuple(str(name) for name in data["label_list"]),
        nms_iou=iou,
        strides=tuple(strides),
        min_score=threshold,
    )


@dataclass(frozen=True)
class RawDetector:
    """The keys of a `detector.yml`, which stands beside a network that has no `infer_cfg.yml`.

    The picture is stretched to the input's size, and boxes are in pixels of the input.

    Args:
        size_wh: of the input; None takes it from the network.
        interp: as of `Resize`; PicoDet and PP-YOLOE are published with cubic.
        mean, std: of red, green, blue in 0..1.
        boxes: left, top, right, bottom; or the sizes last; or these with the middle first.
        nms_iou: for networks without non-maximum suppression.
        labels: names of the classes.
    """

    size_wh: tuple[int, int] | None = None
    interp: Literal[0, 1, 2, 3, 4] = 2
    mean: tuple[float, float, float] = _IMAGENET[0]
    std: tuple[float, float, float] = _IMAGENET[1]
    boxes: Literal["xyxy", "xywh", "cxcywh"] = "xyxy"
    nms_iou: float = NMS_IOU
    labels: list[str] | None = None

    def __post_init__(self) -> None:
        if self.size_wh is not None:
            _pair("size_wh", list(self.size_wh))
        check_fraction(self.nms_iou, "nms_iou")

    def described(self, source: Path | None, size_wh: tuple[int, int]) -> Description:
        """The same, for an input of this size."""
        return Description(
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


def read_detector_yml(path: Path) -> RawDetector:
    """What a user says of a network.

    Raises:
        ConfigError: not YAML, or keys and values other than those of `RawDetector`.
    """
    return build(read_yaml(path), RawDetector, f"{path}")


def check_fraction(value: Any, path: str) -> None:
    """ConfigError unless it is None or a number in 0..1."""
    check(value, float | None, path)
    if value is not None and not 0 <= value <= 1:
        raise ConfigError(f"{path}: expected a number in 0..1, found {value}")


def _operator(node: Any, path: str) -> Operator:
    name = node.get("type") if isinstance(node, dict) else None
    if not isinstance(name, str):
        raise ConfigError(f"{path}: expected an operator with its 'type', found {node!r}")
    if name not in OPERATORS:
        raise ConfigError(
            f"{path}: the operator '{name}' is not supported{nearest(name, list(OPERATORS))}"
        )
    return build({k: v for k, v in node.items() if k != "type"}, OPERATORS[name], path)


def _pair(name: str, size: int | list[int]) -> tuple[int, int]:
    """Height and width."""
    sides = [size, size] if isinstance(size, int) else size
    fits = len(sides) == 2 and all(type(s) is int and 0 < s <= _LONGEST_SIDE for s in sides)
    if not fits:
        raise ValueError(f"{name}: expected height and width in 1..{_LONGEST_SIDE}, found {size}")
    return sides[0], sides[1]


def _padded(
    pixels: np.ndarray, size_hw: tuple[int, int], fill: tuple[float, float, float]
) -> np.ndarray:
    height, width = pixels.shape[:2]
    if (height, width) == size_hw:
        return pixels
    colour = np.array(fill, np.float32)
    if pixels.dtype == np.uint8 and (colour != colour.clip(0, 255).round()).any():
        pixels = pixels.astype(np.float32)
    wide = np.empty((*size_hw, 3), pixels.dtype)
    wide[:] = colour
    wide[:height, :width] = pixels
    return wide
