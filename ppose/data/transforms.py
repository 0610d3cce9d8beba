"""Transforms and data augmentation.

A transform is called as `transform(sample, rng)` and returns a new sample. The crop sets the
matrix from image to input, random geometry multiplies it, and one `Warp` transforms pixels and
keypoints together, so an image is resampled only once. Colour transforms come after the warp, on
the small input.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Literal, get_args

import cv2
import numpy as np

from ppose.config import register
from ppose.config.ranges import Grey, Padding, Range, Share
from ppose.structures import Sample, geometry
from ppose.structures.skeleton import Skeleton
from ppose.utils.errors import PposeError

if int(cv2.__version__.split(".")[0]) < 5:
    warnings.warn(
        f"OpenCV {cv2.__version__} rounds positions in crops to 1/32 pixel, so joints differ from "
        "those of OpenCV 5, by over a pixel in places: pip install 'opencv-python-headless>=5'",
        stacklevel=2,
    )

_Degrees = Annotated[float, Range(least=0, most=180)]
_Radius = Annotated[float, Range(above=0, most=1)]

Stage = Literal["box", "crop", "geometry", "warp", "pixels"]
STAGES: tuple[Stage, ...] = get_args(Stage)

# Fewer joints of a half give no box.
_LEAST_OF_HALF = 3
_LOWER = re.compile("hip|knee|ankle|foot|leg|toe|heel")


class PipelineError(PposeError, ValueError):
    """Transforms that do not form a valid input pipeline."""


class Transform:
    """One step of the input pipeline.

    Attributes:
        augments: whether this is data augmentation, which can be omitted at test time.
        stage: place in the order of `STAGES`; None for anywhere.
        skeleton: joints of the samples, for transforms that depend on them.
    """

    augments = True
    stage: Stage | None = None
    skeleton: Skeleton | None = None

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        raise NotImplementedError


class Geometry(Transform):
    """Base class of random linear maps about the pivot, applied with probability `p`."""

    stage = "geometry"

    def __init__(self, p: Share = 1.0):
        self.p = p

    def draw(self, sample: Sample, rng: np.random.Generator) -> np.ndarray:
        """(3, 3) matrix about the origin, in pixels of the input."""
        raise NotImplementedError

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if sample.size_wh == (0, 0):
            raise PipelineError(f"{type(self).__name__} has to come after the crop")
        if rng.random() >= self.p:
            return sample
        matrix = geometry.about(self.draw(sample, rng), sample.pivot_xy)
        return replace(sample, matrix=matrix @ sample.matrix)


@register
class HalfBody(Transform):
    """Replaces the box by a box around the upper or lower body.

    Comes before the crop. As in HRNet's training, the new box is centred at the mean of the
    joints, and people with few labelled joints keep their box.

    Args:
        skeleton: defines which joints are upper and lower, by their `part`.
        p: probability.
        min_joints: only people with more labelled joints than this are changed.
        padding: scale factor of the joints' extent, in addition to that of the crop.

    Raises:
        ValueError: the skeleton has not both halves, two partners are in different halves, or no
            person can have enough joints.
    """

    stage = "box"

    def __init__(
        self,
        skeleton: Skeleton,
        p: Share = 0.3,
        min_joints: Annotated[int, Range(least=0, most=1000)] = 8,
        padding: Padding = 1.2,
    ):
        self._check(skeleton, min_joints)
        self.skeleton = skeleton
        self.halves = (skeleton.upper_index, skeleton.lower_index)
        self.p = p
        self.min_joints = min_joints
        self.padding = padding

    @staticmethod
    def _check(skeleton: Skeleton, min_joints: int) -> None:
        about = f"HalfBody: skeleton '{skeleton.name}'"
        for half in ("upper", "lower"):
            count = sum(joint.part == half for joint in skeleton.joints)
            if count < _LEAST_OF_HALF:
                others = [joint for joint in skeleton.joints if joint.part != half]
                lower = [joint for joint in others if _LOWER.search(joint.name.lower())]
                example = lower[0] if lower and half == "lower" else others[-1]
                raise ValueError(
                    f"{about} has {count} joints with part: {half}, and each half needs "
                    f"{_LEAST_OF_HALF}; write for each joint of the {half} body such as "
                    f"{example.line(part=half)}, or remove HalfBody"
                )
        for joint, mirror in zip(skeleton.joints, skeleton.mirror_index, strict=True):
            if joint.part != skeleton.joints[mirror].part:
                raise ValueError(
                    f"{about}: '{joint.name}' is in the {joint.part} body, but its mirror "
                    f"'{joint.mirror}' in the {skeleton.joints[mirror].part} one; both need the "
                    "same part"
                )
        if not 0 <= min_joints < len(skeleton):
            raise ValueError(
                f"{about} has {len(skeleton)} joints, and only people with more than min_joints "
                f"change; min_joints has to be in 0..{len(skeleton) - 1}, found {min_joints}"
            )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        person = sample.keypoints[0]
        labelled = person[:, 2] > 0
        if labelled.sum() <= self.min_joints or rng.random() >= self.p:
            return sample
        first = int(rng.random() < 0.5)
        for half in (self.halves[first], self.halves[1 - first]):
            chosen = person[half][labelled[half], :2]
            if len(chosen) >= _LEAST_OF_HALF and np.ptp(chosen, axis=0).min() > 0:
                size = np.ptp(chosen, axis=0) * self.padding
                box = np.concatenate([chosen.mean(0) - size / 2, size])
                return replace(sample, box_xywh=box.astype(np.float32))
        return sample


@register
class RandomScale(Geometry):
    """Random scaling.

    Args:
        spread: maximum change.
        p: probability.
        uniform: scale the image by a uniform factor in 1 ± `spread` (SimplePose); else scale the
            box by a normal factor with standard deviation `spread`, clipped to 1 ± `spread`
            (HRNet).
    """

    def __init__(
        self,
        spread: Annotated[float, Range(least=0, below=1)],
        p: Share = 1.0,
        uniform: bool = False,
    ):
        super().__init__(p)
        self.spread = spread
        self.uniform = uniform

    def draw(self, sample: Sample, rng: np.random.Generator) -> np.ndarray:
        if self.uniform:
            return geometry.scaling(1 + self.spread * rng.uniform(-1, 1))
        return geometry.scaling(1 / (1 + self.spread * np.clip(rng.standard_normal(), -1, 1)))


@register
class RandomRotate(Geometry):
    """Random rotation about the pivot.

    Args:
        degrees: range of the angle, see `uniform`.
        p: probability.
        uniform: draw uniformly from ± `degrees` (SimplePose); else from a normal distribution with
            standard deviation `degrees`, clipped to ± 2 · `degrees` (HRNet).
    """

    def __init__(self, degrees: _Degrees, p: Share = 0.6, uniform: bool = False):
        super().__init__(p)
        self.degrees = degrees
        self.uniform = uniform

    def draw(self, sample: Sample, rng: np.random.Generator) -> np.ndarray:
        drawn = rng.uniform(-1, 1) if self.uniform else np.clip(rng.standard_normal(), -2, 2)
        return geometry.rotation(self.degrees * drawn)


@register
class RandomShift(Geometry):
    """Random translation, uniform in ± `fraction` of the input's width and height."""

    def __init__(self, fraction: Share, p: Share = 1.0):
        super().__init__(p)
        self.fraction = fraction

    def draw(self, sample: Sample, rng: np.random.Generator) -> np.ndarray:
        shift = rng.uniform(-self.fraction, self.fraction, 2) * sample.size_wh
        return geometry.translation(*shift)


@register
class RandomFlip(Geometry):
    """Random horizontal flip; left and right joints swap.

    Args:
        skeleton: defines which joints swap, see `Skeleton.check_flip`.
        p: probability.
    """

    def __init__(self, skeleton: Skeleton, p: Share = 0.5):
        super().__init__(p)
        skeleton.check_flip()
        self.skeleton = skeleton
        self.mirror_index = skeleton.mirror_index

    def draw(self, sample: Sample, rng: np.random.Generator) -> np.ndarray:
        return geometry.scaling(-1, 1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        moved = super().__call__(sample, rng)
        if moved is sample:
            return sample
        return replace(moved, keypoints=sample.keypoints[:, self.mirror_index])


@register
class Warp(Transform):
    """Applies the matrix to the image (bilinear), the keypoints, and the segmentations.

    Segmentations become masks. `known_mask` is 0 on people without labelled joints, and on crowds
    except where they overlap a single person (SimplePose).

    Args:
        border: grey level in 0..255 outside the image; use the value of the crop at test time.
    """

    augments = False
    stage = "warp"

    def __init__(self, border: Grey = 0):
        self.border = border

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if sample.size_wh == (0, 0):
            raise PipelineError("Warp has to come after the crop")
        keypoints = sample.keypoints.copy()
        keypoints[..., :2] = geometry.transform_points(sample.matrix, keypoints[..., :2])
        people, known = _masks(sample)
        return replace(
            sample,
            image=warp(sample.image, sample.matrix, sample.size_wh, self.border),
            keypoints=keypoints,
            people_mask=people,
            known_mask=known,
        )


def _masks(sample: Sample) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(H, W) uint8 masks of all people, and of the area where all joints are labelled."""
    if not sample.segmentations:
        return None, None
    width, height = sample.size_wh
    people, known = np.zeros((height, width), np.uint8), np.full((height, width), 255, np.uint8)
    for segmentation in sample.segmentations:
        segmentation.draw(people, sample.matrix, 255)
    single = [segmentation for segmentation in sample.segmentations if not segmentation.crowd]
    if len(single) < len(sample.segmentations):
        known -= people
        for segmentation in single:
            segmentation.draw(known, sample.matrix, 255)
    for segmentation in single:
        if not segmentation.labelled:
            segmentation.draw(known, sample.matrix, 0)
    return people, known


def warp(
    image: np.ndarray, matrix: np.ndarray, size_wh: tuple[int, int], border: int = 0
) -> np.ndarray:
    """Warps an (H, W, 3) image by a (3, 3) matrix; bilinear, with grey level `border` outside."""
    return cv2.warpAffine(
        image, matrix[:2], tuple(size_wh), flags=cv2.INTER_LINEAR, borderValue=(border,) * 3
    )


@register
class ColorJitter(Transform):
    """Random brightness, contrast, saturation and hue, as one affine map of RGB.

    Args:
        brightness, contrast, saturation: in 0..1; factors are uniform in 1 ± this value.
        hue: in 0..180; degrees of rotation about the grey axis, uniform in ± this value.
        p: probability.
    """

    stage = "pixels"
    _LUMA = np.array([0.299, 0.587, 0.114])

    def __init__(
        self,
        brightness: Share = 0.0,
        contrast: Share = 0.0,
        saturation: Share = 0.0,
        hue: _Degrees = 0.0,
        p: Share = 1.0,
    ):
        self.spread = np.array([brightness, contrast, saturation])
        self.hue = hue
        self.p = p

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.p:
            return sample
        brightness, contrast, saturation = 1 + self.spread * rng.uniform(-1, 1, 3)
        rotation = self._hue_rotation(rng.uniform(-self.hue, self.hue))
        grey = np.outer(np.ones(3), self._LUMA)
        linear = brightness * (saturation * rotation + (1 - saturation) * grey)
        middle = self._LUMA @ np.array(cv2.mean(sample.image)[:3]) * brightness
        colours = np.column_stack([contrast * linear, np.full(3, (1 - contrast) * middle)])
        return replace(sample, image=cv2.transform(sample.image, colours))

    @staticmethod
    def _hue_rotation(degrees: float) -> np.ndarray:
        """Rotation of RGB about the grey axis (Rodrigues' formula)."""
        axis = np.full(3, np.sqrt(1 / 3)) * np.deg2rad(degrees)
        return cv2.Rodrigues(axis)[0]


@register
class InformationDropping(Transform):
    """Blacks out discs near labelled joints, so that the network learns to infer hidden joints.

    Source: AID (Huang et al., 2020); the defaults are those of PP-TinyPose.

    Args:
        p: probability.
        patches: number of discs.
        radius: minimum and maximum radius relative to the input's width.
        offset: maximum distance from the joint in x and y, relative to the input's size.
    """

    stage = "pixels"

    def __init__(
        self,
        p: Share = 0.5,
        patches: Annotated[int, Range(least=1, most=100)] = 1,
        radius: tuple[_Radius, _Radius] = (0.1, 0.2),
        offset: Share = 0.05,
    ):
        if radius[0] > radius[1]:
            raise ValueError(f"radius: expected the minimum first, found {radius}")
        self.p = p
        self.patches = patches
        self.radius = radius
        self.offset = offset

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        joints = sample.keypoints[sample.keypoints[..., 2] > 0][:, :2]
        if rng.random() >= self.p or not len(joints):
            return sample
        image = sample.image.copy()
        for _ in range(self.patches):
            shift = rng.uniform(-self.offset, self.offset, 2) * sample.size_wh
            x, y = np.clip(joints[rng.integers(len(joints))] + shift, -1e4, 1e4)
            radius = rng.uniform(*self.radius) * sample.size_wh[0]
            cv2.circle(image, (round(x), round(y)), round(radius), (0, 0, 0), -1)
        return replace(sample, image=image)


def check_order(transforms: Sequence[Transform]) -> None:
    """Raises PipelineError unless there are one crop and one `Warp`, and all is in its order.

    Out of order, a transform would change pixels without keypoints, or nothing.
    """
    names = [type(transform).__name__ for transform in transforms]
    placed = [(STAGES.index(t.stage), i) for i, t in enumerate(transforms) if t.stage]
    for stage, what in (("warp", "Warp"), ("crop", "crop")):
        if sum(t.stage == stage for t in transforms) != 1:
            raise PipelineError(
                f"train_transforms: expected one {what}, found {', '.join(names) or 'nothing'}"
            )
    for (one, i), (other, j) in pairwise(placed):
        if other < one:
            raise PipelineError(
                f"train_transforms.{j}: {names[j]} ({STAGES[other]}) has to come before "
                f"{names[i]} ({STAGES[one]}); the order is {', '.join(STAGES)}"
            )


def apply_transforms(
    sample: Sample, transforms: Sequence[Transform], rng: np.random.Generator
) -> Sample:
    """The sample after all transforms, in order."""
    for transform in transforms:
        sample = transform(sample, rng)
    return sample
