"""Heatmap codec of top-down networks.

Only this module handles the stride and half-pixel offsets of heatmaps.
"""

from __future__ import annotations

from typing import Annotated, Literal

import cv2
import numpy as np

from ppose.codecs.codec import Codec
from ppose.config import register
from ppose.config.ranges import Range, Sigma, Size, Stride
from ppose.structures import Sample
from ppose.structures.skeleton import Skeleton

# Target → (peak rounded to a cell, Gaussian truncated at 3 sigma)
_TARGETS = {"msra": (True, True), "dark": (False, False), "udp": (False, True)}


@register
class Heatmap(Codec):
    """One heatmap per joint, with a Gaussian of height 1 at the joint.

    Args:
        skeleton: joints, in the order of the channels.
        size_wh: width and height of the network's input in pixels.
        stride: input pixels per cell of the map.
        sigma: standard deviation of the Gaussian, in cells.
        target: "msra" puts the peak at the nearest cell (Simple Baselines, HRNet), "dark" at the
            exact position (Zhang et al., CVPR 2020), and "udp" at the exact position with a
            Gaussian truncated at 3 sigma (Huang et al., CVPR 2020).
        refine: subcell refinement of peaks: "argmax" uses the cell, "quarter" moves a quarter
            cell towards the higher neighbour (HRNet), "dark" takes a Newton step on the logarithm
            of the blurred map (DARK).
        blur: width in cells of DARK's Gaussian kernel, odd; 3 as in PaddleDetection.
        alignment: position of cell i in the input. "classic": stride·i. "udp": the outermost cells
            are at the outermost pixels. "tinypose": i·(size−1)/cells, as in PP-TinyPose, which
            crops with UDP and decodes without it.
        shift_flip: in flip testing, shift the flipped maps by one cell to the right, which
            compensates most of the asymmetry of the classic alignment.
    """

    uses_boxes = True

    def __init__(
        self,
        skeleton: Skeleton,
        size_wh: Size,
        stride: Stride = 4,
        sigma: Sigma = 2.0,
        target: Literal["msra", "dark", "udp"] = "msra",
        refine: Literal["argmax", "quarter", "dark"] = "quarter",
        blur: Annotated[int, Range(least=1, most=99, odd=True)] = 3,
        alignment: Literal["classic", "udp", "tinypose"] = "classic",
        shift_flip: bool = True,
    ):
        if any(side % stride for side in size_wh):
            raise ValueError(f"input size {size_wh} is not a multiple of the stride {stride}")
        self.skeleton = skeleton
        self.channels = len(skeleton)
        self.size_wh = size_wh
        self.stride = stride
        self.cells_wh = (size_wh[0] // stride, size_wh[1] // stride)
        if sigma >= min(self.cells_wh):
            raise ValueError(f"sigma: {sigma} cells do not fit into maps of {self.cells_wh} cells")
        self.sigma = sigma
        self.target = target
        self.refine = refine
        self.blur = blur
        self.alignment = alignment
        self.shift_flip = shift_flip
        self.cell_size = self._cell_size()

    def _cell_size(self) -> np.ndarray:
        """(2,) input pixels between neighbouring cells."""
        size, cells = np.array(self.size_wh, np.float64), np.array(self.cells_wh, np.float64)
        return {
            "classic": size / cells,
            "udp": (size - 1) / np.maximum(cells - 1, 1),
            "tinypose": (size - 1) / cells,
        }[self.alignment]

    def encode_keypoints(self, keypoints: np.ndarray) -> dict[str, np.ndarray]:
        """Training targets of one person.

        Args:
            keypoints: (K, 3) x, y in pixels of the input and visibility.

        Returns:
            target: (K, h, w) float32 in 0..1. weight: (K,) float32, 0 for joints that are
            unlabelled or more than 3 sigma outside the map.
        """
        rounded, cut = _TARGETS[self.target]
        centre = keypoints[:, :2] / self.cell_size
        cell = np.floor(centre + 0.5)
        # DARK as published truncates the corners of the window, the others use the rounded cell.
        reach = 3 * self.sigma
        low, high = (np.trunc(centre - reach), np.trunc(centre + reach + 1)) if not cut else (
            np.trunc(cell - reach), np.trunc(cell + reach + 1))  # fmt: skip
        inside = ((low < self.cells_wh) & (high >= 0)).all(-1)
        weight = ((keypoints[:, 2] > 0) & inside).astype(np.float32)

        peak = cell if rounded else centre
        profiles = []
        for axis, cells in enumerate(self.cells_wh):
            position = np.arange(cells)
            profile = np.exp(-((position - peak[:, axis, None]) ** 2) / (2 * self.sigma**2))
            if cut:
                profile *= np.abs(position - cell[:, axis, None]) <= reach
            profiles.append(profile.astype(np.float32))
        across, down = profiles
        target = (down * weight[:, None])[:, :, None] * across[:, None, :]
        return {"target": target, "weight": weight}

    def encode(self, sample: Sample) -> dict[str, np.ndarray]:
        """Targets of the sample's first person, see `encode_keypoints`."""
        return self.encode_keypoints(sample.keypoints[0])

    def decode_keypoints(self, maps: np.ndarray) -> np.ndarray:
        """Position and score of every joint.

        Args:
            maps: (N, K, h, w) float32, output of the network.

        Returns:
            (N, K, 3) float32 x, y in pixels of the input and the height of the peak in 0..1.
        """
        cells, score = self.peaks(maps)
        position = cells * self.cell_size
        return np.concatenate([position, np.clip(score, 0, 1)[..., None]], -1).astype(np.float32)

    def decode(self, maps: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """One person per input, see `decode_keypoints`."""
        return [(person[None], np.ones(1, np.float32)) for person in self.decode_keypoints(maps)]

    def decode_peaks(self, peaks: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """`decode` from given peaks.

        Args:
            peaks: cell: (N, K) int row-major index of each map's maximum. patch:
                (N, K, 2r+1, 2r+1) float32 cells around it, 0 outside the map; r is
                `patch_radius`.
        """
        (count, joints), width = peaks["cell"].shape, self.cells_wh[0]
        self._check_joints(joints)
        top = peaks["cell"].reshape(-1).astype(np.int64)
        patch = peaks["patch"].reshape(count * joints, *peaks["patch"].shape[2:])
        score = patch[:, self.patch_radius, self.patch_radius]
        cell = np.stack([top % width, top // width], -1)
        cell[score <= 0] = 0
        position, score = self._refine_cells(cell, patch, score), np.clip(score, 0, 1)
        found = np.column_stack([position * self.cell_size, score]).astype(np.float32)
        return [(one[None], np.ones(1, np.float32)) for one in found.reshape(count, joints, 3)]

    @property
    def patch_radius(self) -> int:
        """Number of cells on each side of a peak that refinement uses."""
        return {"argmax": 0, "quarter": 1, "dark": 2 + self.blur // 2}[self.refine]

    def peaks(self, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, K, 2) x, y of the refined peaks in cells, and (N, K) heights."""
        count, joints, height, width = maps.shape
        self._check_joints(joints)
        flat = np.ascontiguousarray(maps).reshape(count * joints, height * width)
        top = flat.argmax(1)
        score = flat[np.arange(len(flat)), top]
        cell = np.stack([top % width, top // width], -1)
        cell[score <= 0] = 0
        patch = _patches(flat.reshape(-1, height, width), cell, self.patch_radius)
        position = self._refine_cells(cell, patch, score)
        return position.reshape(count, joints, 2), score.reshape(count, joints)

    def _check_joints(self, joints: int) -> None:
        if joints != len(self.skeleton):
            raise ValueError(
                f"expected maps of {len(self.skeleton)} joints ({self.skeleton.name}), "
                f"found {joints}"
            )

    def _refine_cells(self, cell: np.ndarray, patch: np.ndarray, score: np.ndarray) -> np.ndarray:
        """(M, 2) float64 refined positions of the cells (M, 2), from the patches around them."""
        step = {"argmax": _no_step, "quarter": _quarter, "dark": self._dark}[self.refine]
        # Border cells have no neighbours; as published, one more column and row is not refined.
        first, last = {"argmax": (0, 0), "quarter": (1, 1), "dark": (1, 2)}[self.refine]
        border = (cell <= first) | (cell >= np.array(self.cells_wh) - last)
        fixed = border.any(-1, keepdims=True)
        return cell + np.where(fixed, 0, step(patch.astype(np.float64)))

    def _dark(self, patch: np.ndarray) -> np.ndarray:
        """(M, 2) Newton steps on the logarithm of the blurred map."""
        patch = _blurred(patch, self.blur)
        # The published code rescales the blurred map to the original height; in the logarithm
        # this is a constant, which does not change the derivatives.
        log = np.log(np.maximum(patch, 1e-10))
        dx = (log[:, 2, 3] - log[:, 2, 1]) / 2
        dy = (log[:, 3, 2] - log[:, 1, 2]) / 2
        dxx = (log[:, 2, 4] - 2 * log[:, 2, 2] + log[:, 2, 0]) / 4
        dyy = (log[:, 4, 2] - 2 * log[:, 2, 2] + log[:, 0, 2]) / 4
        dxy = (log[:, 3, 3] - log[:, 1, 3] - log[:, 3, 1] + log[:, 1, 1]) / 4
        determinant = dxx * dyy - dxy**2
        flat = determinant == 0
        determinant = np.where(flat, 1, determinant)
        step = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1) / determinant[:, None]
        return np.where(flat[:, None], 0, step)

    def flip_back(self, maps: np.ndarray) -> np.ndarray:
        """Converts (N, K, h, w) maps of a flipped input to maps of the original input."""
        back = maps[:, self.skeleton.mirror_index, :, ::-1]
        if not self.shift_flip:
            return back
        return np.concatenate([back[..., :1], back[..., :-1]], -1)


def _no_step(patch: np.ndarray) -> np.ndarray:
    return np.zeros((len(patch), 2))


def _quarter(patch: np.ndarray) -> np.ndarray:
    """(M, 2) steps of a quarter cell towards the higher neighbour."""
    slope = np.stack([patch[:, 1, 2] - patch[:, 1, 0], patch[:, 2, 1] - patch[:, 0, 1]], -1)
    return 0.25 * np.sign(slope)


def _patches(planes: np.ndarray, cell: np.ndarray, radius: int) -> np.ndarray:
    """(M, 2r+1, 2r+1) neighbourhood of one cell per plane, 0 outside the map."""
    count, height, width = planes.shape
    around = np.arange(-radius, radius + 1)
    x, y = cell[:, :1] + around, cell[:, 1:] + around
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    patch = planes[np.arange(count)[:, None, None], y[:, :, None], x[:, None, :]]
    return np.where(inside, patch, 0)


def _blurred(patch: np.ndarray, kernel_width: int) -> np.ndarray:
    """Gaussian blur of (M, S, S) patches without padding."""
    if kernel_width == 1:
        return patch
    kernel = cv2.getGaussianKernel(kernel_width, 0)[:, 0]
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(patch, kernel_width, axis)
        patch = windows @ kernel
    return patch
