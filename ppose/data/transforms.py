"""From a picture and a box to the network's input.

A transform is called as `transform(sample, rng)` and returns a new sample. The crop sets the
matrix from image to input, random geometry multiplies it, and one `Warp` moves pixels and
keypoints together, so that a picture is resampled once. Colours change after the warp, on the
small input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from ppose import geometry
from ppose.errors import PposeError
from ppose.registry import register
from ppose.skeleton import Skeleton
from ppose.structures import Sample


class PipelineError(PposeError, ValueError):
    """Transforms that do not make an input of the network together."""


class Transform:
    """One step of the input pipeline.

    Attributes:
        augments: only makes training samples more varied; without it there still is an input.
    """

    augments = True

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        raise NotImplementedError


class Geometry(Transform):
    """A random linear map about the pivot, applied with probability `p`."""

    def __init__(self, p: float = 1.0):
        self.p = _probability(p)

    def draw(self, sample: Sample, rng: np.random.Generator) -> np.ndarray:
        """(3, 3) matrix about the origin, in pixels of the input."""
        raise NotImplementedError

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if sample.size_wh == (0, 0):
            raise PipelineError(f"{type(self).__name__} stands before the crop; put it behind")
        if rng.random() >= self.p:
            return sample
        matrix = geometry.about(self.draw(sample, rng), sample.pivot_xy)
        return replace(sample, matrix=matrix @ sample.matrix)


@register
class HalfBody(Transform):
    """Replaces the box by one around the upper or the lower body.

    Stands before the crop. As in HRNet's training: the new box has the joints' mean as its
    middle; people with few labelled joints keep theirs.

    Args:
        skeleton: says which joints are upper and lower.
        p: probability.
        min_joints: only people with more labelled joints than this.
        padding: growth of the joints' extent, besides that of the crop.
    """

    def __init__(
        self, skeleton: Skeleton, p: float = 0.3, min_joints: int = 8, padding: float = 1.2
    ):
        self.halves = (skeleton.upper_index, skeleton.lower_index)
        self.p = _probability(p)
        self.min_joints = min_joints
        self.padding = positive("padding", padding)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        person = sample.keypoints[0]
        labelled = person[:, 2] > 0
        if labelled.sum() <= self.min_joints or rng.random() >= self.p:
            return sample
        first = int(rng.random() < 0.5)
        for half in (self.halves[first], self.halves[1 - first]):
            chosen = person[half][labelled[half], :2]
            if len(chosen) > 2 and np.ptp(chosen, axis=0).min() > 0:
                size = np.ptp(chosen, axis=0) * self.padding
                box = np.concatenate([chosen.mean(0) - size / 2, size])
                return replace(sample, box_xywh=box.astype(np.float32))
        return sample


@register
class RandomScale(Geometry):
    """Scales the person.

    Args:
        spread: largest change.
        p: probability.
        uniform: scales the picture by an even factor 1 ± `spread` (SimplePose's recipe); else
            the box by a normal one with this deviation, cut at it (HRNet's recipe).
    """

    def __init__(self, spread: float, p: float = 1.0, uniform: bool = False):
        super().__init__(p)
        if not 0 <= spread < 1:
            raise ValueError(f"spread has to be in 0..1, found {spread}")
        self.spread = spread
        self.uniform = uniform

    def draw(self, sample: Sample, rng: np.random.Generator) -> np.ndarray:
        if self.uniform:
            return geometry.scaling(1 + self.spread * rng.uniform(-1, 1))
        return geometry.scaling(1 / (1 + self.spread * np.clip(rng.standard_normal(), -1, 1)))


@register
class RandomRotate(Geometry):
    """Rotates about the pivot.

    Args:
        degrees: of the angle, see `uniform`.
        p: probability.
        uniform: draw evenly from ± `degrees` (SimplePose); else from a normal distribution with
            this deviation, cut at twice that (HRNet's recipe).
    """

    def __init__(self, degrees: float, p: float = 0.6, uniform: bool = False):
        super().__init__(p)
        self.degrees = within("degrees", degrees, 0, 180)
        self.uniform = uniform

    def draw(self, sample: Sample, rng: np.random.Generator) -> np.ndarray:
        drawn = rng.uniform(-1, 1) if self.uniform else np.clip(rng.standard_normal(), -2, 2)
        return geometry.rotation(self.degrees * drawn)


@register
class RandomShift(Geometry):
    """Moves by a uniform part of the input's width and height, up to `fraction` of each."""

    def __init__(self, fraction: float, p: float = 1.0):
        super().__init__(p)
        self.fraction = within("fraction", fraction, 0, 1)

    def draw(self, sample: Sample, rng: np.random.Generator) -> np.ndarray:
        shift = rng.uniform(-self.fraction, self.fraction, 2) * sample.size_wh
        return geometry.translation(*shift)


@register
class RandomFlip(Geometry):
    """Mirrors left and right; joints swap with their mirror joints by name."""

    def __init__(self, skeleton: Skeleton, p: float = 0.5):
        super().__init__(p)
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
    """Resamples the picture (bilinear) and moves the keypoints by the matrix.

    Outlines become masks. Unknown are people whose joints nobody labelled, and crowds where
    they show no single person (SimplePose).

    Args:
        border: grey level in 0..255 outside the picture; that of the crop at test time.
    """

    augments = False

    def __init__(self, border: int = 0):
        self.border = int(within("border", border, 0, 255))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if sample.size_wh == (0, 0):
            raise PipelineError("Warp stands before the crop; put it behind")
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
    """(H, W) uint8 masks of all people, and of where all joints are known."""
    if not sample.outlines:
        return None, None
    width, height = sample.size_wh
    people, known = np.zeros((height, width), np.uint8), np.full((height, width), 255, np.uint8)
    for outline in sample.outlines:
        outline.draw(people, sample.matrix, 255)
    single = [outline for outline in sample.outlines if not outline.crowd]
    if len(single) < len(sample.outlines):
        known -= people
        for outline in single:
            outline.draw(known, sample.matrix, 255)
    for outline in single:
        if not outline.labelled:
            outline.draw(known, sample.matrix, 0)
    return people, known


def warp(
    image: np.ndarray, matrix: np.ndarray, size_wh: tuple[int, int], border: int = 0
) -> np.ndarray:
    """(H, W, 3) picture through a (3, 3) matrix into size_wh; bilinear, grey `border` outside."""
    return cv2.warpAffine(
        image, matrix[:2], tuple(size_wh), flags=cv2.INTER_LINEAR, borderValue=(border,) * 3
    )


@register
class ColorJitter(Transform):
    """Random brightness, contrast, saturation and hue, as one affine map of RGB.

    Args:
        brightness, contrast, saturation: factors are drawn from 1 ± this, which is in 0..1.
        hue: degrees of turn about the grey axis, drawn from 0 ± this, up to 180.
        p: probability.
    """

    _LUMA = np.array([0.299, 0.587, 0.114])

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        p: float = 1.0,
    ):
        self.spread = np.array(
            [
                within("brightness", brightness, 0, 1),
                within("contrast", contrast, 0, 1),
                within("saturation", saturation, 0, 1),
            ]
        )
        self.hue = within("hue", hue, 0, 180)
        self.p = _probability(p)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.p:
            return sample
        brightness, contrast, saturation = 1 + self.spread * rng.uniform(-1, 1, 3)
        turn = self._hue_turn(rng.uniform(-self.hue, self.hue))
        grey = np.outer(np.ones(3), self._LUMA)
        linear = brightness * (saturation * turn + (1 - saturation) * grey)
        middle = self._LUMA @ np.array(cv2.mean(sample.image)[:3]) * brightness
        colours = np.column_stack([contrast * linear, np.full(3, (1 - contrast) * middle)])
        return replace(sample, image=cv2.transform(sample.image, colours))

    @staticmethod
    def _hue_turn(degrees: float) -> np.ndarray:
        """Rotation of RGB about the grey axis (Rodrigues' formula)."""
        axis = np.full(3, np.sqrt(1 / 3)) * np.deg2rad(degrees)
        return cv2.Rodrigues(axis)[0]


@register
class InformationDropping(Transform):
    """Blanks discs near labelled joints, so that the network learns to infer hidden ones.

    Source: AID (Huang et al., 2020); the defaults are those of PP-TinyPose.

    Args:
        p: probability.
        patches: number of discs.
        radius: smallest and largest radius as part of the input's width.
        offset: largest distance from the joint, as part of the input's size.
    """

    def __init__(
        self,
        p: float = 0.5,
        patches: int = 1,
        radius: tuple[float, float] = (0.1, 0.2),
        offset: float = 0.05,
    ):
        if patches < 1:
            raise ValueError(f"patches has to be at least 1, found {patches}")
        if not 0 < radius[0] <= radius[1] <= 1:
            raise ValueError(f"radius is smallest, largest in 0..1, found {radius}")
        self.p = _probability(p)
        self.patches = patches
        self.radius = radius
        self.offset = within("offset", offset, 0, 1)

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


@register
class Normalize:
    """uint8 RGB pictures → the network's float input.

    Stands outside the pipeline of single samples: batches travel as bytes and are normalised on
    the device.

    Args:
        mean, std: of R, G and B, in 0..1; the defaults are ImageNet's.
    """

    def __init__(
        self,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ):
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3 or not all(0 <= value <= 1 for value in values):
                raise ValueError(f"{name} has three values in 0..1, of R, G and B; found {values}")
        if min(std) == 0:
            raise ValueError(f"std has to be above 0, found {std}")
        self.mean = np.array(mean, np.float32) * 255
        self.std = np.array(std, np.float32) * 255

    def __call__(self, images):
        """(N, H, W, 3) uint8 array or Paddle tensor → (N, 3, H, W) float32 Paddle tensor."""
        import paddle

        scale, offset = 1 / self.std, -self.mean / self.std
        pixels = images if isinstance(images, paddle.Tensor) else paddle.to_tensor(images)
        pixels = pixels.astype("float32")
        normal = pixels * paddle.to_tensor(scale) + paddle.to_tensor(offset)
        return normal.transpose([0, 3, 1, 2])


def augmented(sample: Sample, transforms: Sequence[Transform], rng: np.random.Generator) -> Sample:
    """The sample after all transforms, in order."""
    for transform in transforms:
        sample = transform(sample, rng)
    return sample


def _probability(p: float) -> float:
    if not 0 <= p <= 1:
        raise ValueError(f"p is a probability in 0..1, found {p}")
    return p


def within(name: str, value: float, low: float, high: float) -> float:
    """`value`; ValueError if it is not in low..high."""
    if not low <= value <= high:
        raise ValueError(f"{name} has to be in {low}..{high}, found {value}")
    return value


def positive(name: str, value: float) -> float:
    """`value`; ValueError if it is not above 0 and finite."""
    if not 0 < value < np.inf:
        raise ValueError(f"{name} has to be above 0, found {value}")
    return value
