"""Codec of bottom-up networks: maps of joints and limbs.

Source: SimplePose (Li et al., "Simple Pose: Rethinking and Improving a Bottom-up Approach for
Multi-Person Pose Estimation", AAAI 2020).
"""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np

from ppose.codecs.codec import Codec
from ppose.codecs.grouping import Grouping
from ppose.codecs.part_layout import PartLayout
from ppose.codecs.peaks import check_maps, refine_peaks
from ppose.config import register
from ppose.config.ranges import Range, Sigma, Size, Stride
from ppose.structures import Sample, geometry

_PEAKS = ("cell", "height", "patch", "limbs")


@register
class BodyParts(Codec):
    """Maps of limbs and joints, a mask of all people, and the maximum over the joint maps.

    Cell i is at the centre of its pixels, stride·i + (stride − 1)/2.

    Args:
        parts: joints and limbs, in the order of their channels.
        size_wh: width and height of the network's input in training, in pixels.
        stride: input pixels per cell of the maps.
        sigma: standard deviation of the joints' Gaussians, in pixels of the input.
        limb_sigma: standard deviation across limbs, in pixels of the input.
        cut: value at which the Gaussians are truncated.
        limb_floor: value inside a limb's box, outside its Gaussian.
        grouping: groups joints into people; None for the published defaults.
    """

    uses_boxes = False

    def __init__(
        self,
        parts: PartLayout,
        size_wh: Size,
        stride: Stride = 4,
        sigma: Sigma = 9.0,
        limb_sigma: Sigma = 7.0,
        cut: Annotated[float, Range(above=0, below=1)] = 0.015,
        limb_floor: Annotated[float, Range(least=0, below=1)] = 0.01,
        grouping: Grouping | None = None,
    ):
        if any(side % stride for side in size_wh):
            raise ValueError(f"input size {size_wh} is not a multiple of the stride {stride}")
        self.parts = parts
        self.joint_channels = parts.joint_channels
        self.skeleton = parts.skeleton
        self.channels = parts.channels
        self.size_wh = size_wh
        self.stride = stride
        self.sigma = sigma
        self.limb_sigma = limb_sigma
        self.cut = cut
        self.limb_floor = limb_floor
        self.grouping = grouping or Grouping()
        if self.grouping.min_joints > len(parts.joints):
            raise ValueError(
                f"grouping.min_joints: nobody can have {self.grouping.min_joints} of "
                f"{len(parts.joints)} joints"
            )

    def encode_keypoints(
        self,
        keypoints: np.ndarray,
        people_mask: np.ndarray | None = None,
        known_mask: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Training targets of one image.

        Args:
            keypoints: (P, K, 3) x, y in pixels of the input and visibility.
            people_mask: (H, W) uint8 of the input's size, 255 on people; None for no people.
            known_mask: (H, W) uint8, 0 where there may be unlabelled joints; None if nowhere.

        Returns:
            target: (channels, h, w) float32 in 0..1. mask: (1, h, w) float32 in 0..1, the weight
            of each cell.
        """
        from ppose.codecs.part_maps import part_maps

        cells_wh = self.size_wh[0] // self.stride, self.size_wh[1] // self.stride
        target = part_maps(
            self.parts.from_skeleton(keypoints),
            self.parts.limb_index,
            _cells(people_mask, cells_wh, empty=0.0),
            self.stride,
            self.sigma,
            self.limb_sigma,
            self.cut,
            self.limb_floor,
        )
        return {"target": target, "mask": _cells(known_mask, cells_wh, empty=1.0)[None]}

    def encode(self, sample: Sample) -> dict[str, np.ndarray]:
        """Targets of all people in the sample, see `encode_keypoints`."""
        return self.encode_keypoints(sample.keypoints, sample.people_mask, sample.known_mask)

    def decode_keypoints(self, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the people in the maps of one input.

        Args:
            maps: (channels, h, w) float32, of any size.

        Returns:
            (P, K, 3) float32 x, y in pixels of the input and the score of each joint in 0..1; a
            missing joint has score 0 and the mean position of the others. (P,) float32 fraction of
            the skeleton's joints that were found: multiplied by their mean score, it gives the
            mean over all joints, which ranks people best.

        Raises:
            ValueError: wrong number of maps, or maps with NaN or infinity (`MapsError`).
        """
        if len(maps) != self.channels:
            raise ValueError(f"expected {self.channels} maps of {self.parts}, found {len(maps)}")
        people = self.grouping(
            maps[self.joint_channels],
            maps[self.parts.limb_channels],
            self.parts.limb_index,
        )
        return self._to_pixels(people)

    def _to_pixels(self, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Converts joints of the parts in cells to the result of `decode_keypoints`."""
        people = self.parts.to_skeleton(people)
        found = people[..., 2] > 0
        people = people[found.any(1)]
        found = found[found.any(1)]
        middle = (people[..., :2] * found[..., None]).sum(1) / found.sum(1, keepdims=True)
        people[..., :2] = np.where(found[..., None], people[..., :2], middle[:, None])
        people[..., :2] = geometry.transform_points(geometry.resizing(self.stride), people[..., :2])
        return people, found.mean(1, dtype=np.float32)

    def decode(self, maps: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """People of each input, see `decode_keypoints`."""
        return [self.decode_keypoints(one) for one in maps]

    def decode_peaks(self, peaks: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """`decode` from given peaks.

        Args:
            peaks: cell: (N, J, k) int row-major indices of the highest local maxima of each
                joint's map, by descending value. height: (N, J, k) float32 values there, negative
                if a map has fewer maxima. patch: (N, J, k, 3, 3) float32 values around them, with
                edge padding. limbs: (N, L, h, w) float32 maps.
        """
        return [
            self._decode_peaks(*one) for one in zip(*(peaks[name] for name in _PEAKS), strict=True)
        ]

    def _decode_peaks(
        self, cell: np.ndarray, height: np.ndarray, patch: np.ndarray, limbs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = limbs.shape[1:]
        joint, rank = np.nonzero(
            check_maps(height[None], "joint")[0] > self.grouping.joint_threshold
        )
        y, x = np.divmod(cell[joint, rank].astype(np.int64), columns)
        peaks = refine_peaks(joint, np.stack([x, y], 1), patch[joint, rank], (columns, rows))
        limb_index = self.parts.limb_index
        return self._to_pixels(self.grouping.group(peaks, limbs, limb_index, len(cell)))

    def check_flip(self) -> None:
        """Raises ValueError also if a limb or a derived joint has no left-right counterpart."""
        super().check_flip()
        _ = self.parts.mirror_channels

    def flip_back(self, maps: np.ndarray) -> np.ndarray:
        """Converts (N, channels, h, w) maps of a flipped input to maps of the original input."""
        return maps[:, self.parts.mirror_channels, :, ::-1]


def _cells(mask: np.ndarray | None, cells_wh: tuple[int, int], empty: float) -> np.ndarray:
    """(h, w) float32 fraction of each cell that a uint8 mask covers."""
    if mask is None:
        return np.full(cells_wh[::-1], empty, np.float32)
    return cv2.resize(mask, cells_wh, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
