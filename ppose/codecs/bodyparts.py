"""Maps of body parts for bottom-up networks: `encode` makes them, `decode` finds the people.

Source: SimplePose (Li et al., "Simple Pose: Rethinking and Improving a Bottom-up Approach for
Multi-Person Pose Estimation", AAAI 2020).
"""

from __future__ import annotations

import cv2
import numpy as np

from ppose import geometry
from ppose.codecs.codec import Codec
from ppose.codecs.grouping import Grouping
from ppose.codecs.parts import Parts
from ppose.codecs.peaks import finite, placed
from ppose.registry import register
from ppose.structures import Sample

_PEAKS = ("cell", "height", "patch", "limbs")


@register
class BodyParts(Codec):
    """Maps of limbs, joints, a mask of all people, and the maximum over the joints.

    Cell i lies in the middle of its pixels, at stride·i + (stride − 1)/2.

    Args:
        parts: joints and limbs, in the order of their channels.
        size_wh: width and height of the network's input in training, in pixels.
        stride: input pixels for each cell of the maps.
        sigma: of the joints' Gaussians, in pixels of the input.
        limb_sigma: across the limbs, in pixels of the input.
        cut: height where the Gaussians end.
        limb_floor: value inside a limb's box, off the limb.
        grouping: how people are found in the maps; None for the published defaults.
    """

    uses_boxes = False

    def __init__(
        self,
        parts: Parts,
        size_wh: tuple[int, int],
        stride: int = 4,
        sigma: float = 9.0,
        limb_sigma: float = 7.0,
        cut: float = 0.015,
        limb_floor: float = 0.01,
        grouping: Grouping | None = None,
    ):
        if stride < 1 or any(side < 1 or side % stride for side in size_wh):
            raise ValueError(f"input size {size_wh} is not a multiple of the stride {stride}")
        if sigma <= 0 or limb_sigma <= 0:
            raise ValueError(f"sigma and limb_sigma have to be above 0: {sigma}, {limb_sigma}")
        if not 0 < cut < 1 or not 0 <= limb_floor < 1:
            raise ValueError(f"cut and limb_floor are heights in 0..1: {cut}, {limb_floor}")
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

    def encode(
        self,
        keypoints: np.ndarray,
        people_mask: np.ndarray | None = None,
        known_mask: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Training targets of one picture.

        Args:
            keypoints: (P, K, 3) x, y in pixels of the input and visibility.
            people_mask: (H, W) uint8 of the input's size, 255 on people; None for none.
            known_mask: (H, W) uint8, 0 where unlabelled joints may be; None for nowhere.

        Returns:
            target: (channels, h, w) float32 in 0..1. mask: (1, h, w) float32 in 0..1, the weight
            of each cell.
        """
        from ppose.codecs.targets import part_maps

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

    def targets(self, sample: Sample) -> dict[str, np.ndarray]:
        """`encode` of everybody in the sample."""
        return self.encode(sample.keypoints, sample.people_mask, sample.known_mask)

    def decode(self, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the people in the maps of one input.

        Args:
            maps: (channels, h, w) float32, of any size.

        Returns:
            (P, K, 3) float32 x, y in pixels of the input and the score of each joint in 0..1; a
            joint that was not found has score 0 and lies at the mean of the others. (P,) float32
            share of the skeleton's joints that were found: times the mean score of those, it is
            the mean over all joints, which ranks people best.

        Raises:
            ValueError: another number of maps, or maps with NaN or infinity (`MapsError`).
        """
        if len(maps) != self.channels:
            raise ValueError(f"expected {self.channels} maps of {self.parts}, found {len(maps)}")
        people = self.grouping(
            maps[self.joint_channels],
            maps[self.parts.limb_channels],
            self.parts.limb_index,
        )
        return self._in_pixels(people)

    def _in_pixels(self, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From joints of the parts in cells to what `decode` gives."""
        people = self.parts.to_skeleton(people)
        found = people[..., 2] > 0
        people = people[found.any(1)]
        found = found[found.any(1)]
        middle = (people[..., :2] * found[..., None]).sum(1) / found.sum(1, keepdims=True)
        people[..., :2] = np.where(found[..., None], people[..., :2], middle[:, None])
        people[..., :2] = geometry.transform_points(geometry.resizing(self.stride), people[..., :2])
        return people, found.mean(1, dtype=np.float32)

    def people(self, maps: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """`decode` of each input."""
        return [self.decode(of_one) for of_one in maps]

    def people_at(self, peaks: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """`people` of maps whose peaks are known.

        Args:
            peaks: cell: (N, J, k) int places of the highest local maxima of each joint's map in
                reading order, by falling value. height: (N, J, k) float32 values there, below 0
                where a map has fewer. patch: (N, J, k, 3, 3) float32 values around them; on the
                border the outermost ones repeat. limbs: (N, L, h, w) float32 maps.
        """
        return [
            self._people_at(*of_one)
            for of_one in zip(*(peaks[name] for name in _PEAKS), strict=True)
        ]

    def _people_at(
        self, cell: np.ndarray, height: np.ndarray, patch: np.ndarray, limbs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = limbs.shape[1:]
        joint, rank = np.nonzero(finite(height[None], "joint")[0] > self.grouping.joint_threshold)
        y, x = np.divmod(cell[joint, rank].astype(np.int64), columns)
        peaks = placed(joint, np.stack([x, y], 1), patch[joint, rank], (columns, rows))
        limb_index = self.parts.limb_index
        return self._in_pixels(self.grouping.grouped(peaks, limbs, limb_index, len(cell)))

    def check_flip(self) -> None:
        """ValueError if a limb or a derived joint has no mirror image."""
        _ = self.parts.mirror_channels

    def unflip(self, maps: np.ndarray) -> np.ndarray:
        """(N, channels, h, w) maps of a mirrored input, as maps of the input itself."""
        return maps[:, self.parts.mirror_channels, :, ::-1]


def _cells(mask: np.ndarray | None, cells_wh: tuple[int, int], empty: float) -> np.ndarray:
    """(h, w) float32 share of each cell that a uint8 mask covers."""
    if mask is None:
        return np.full(cells_wh[::-1], empty, np.float32)
    return cv2.resize(mask, cells_wh, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
