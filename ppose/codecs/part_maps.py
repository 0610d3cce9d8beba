"""Training targets of bottom-up networks, for all people of an image.

They are identical to those of the published SimplePose code (Li et al., AAAI 2020).
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ppose.utils.numba import compiled

_EROSION_KERNEL = np.ones((3, 3), np.uint8)


def part_maps(
    keypoints: np.ndarray,
    limb_index: np.ndarray,
    people_mask: np.ndarray,
    stride: int = 4,
    sigma: float = 9.0,
    limb_sigma: float = 7.0,
    cut: float = 0.015,
    limb_floor: float = 0.01,
) -> np.ndarray:
    """Maps of limbs and joints, the mask of people, and the maximum over the joint maps.

    Cell i is at stride·(i + ½) − ½ in the input. A joint is a Gaussian; where people overlap, the
    maximum is taken. A limb is a Gaussian of the distance to the line through its ends, inside the
    box of its ends expanded by one stride; where boxes of several people overlap, the mean is
    taken. Limbs of zero length are left out.

    Args:
        keypoints: (P, J, 3) x, y in pixels of the input, and visibility; 0 is left out.
        limb_index: (L, 2) joint indices of both ends of each limb.
        people_mask: (h, w) 1 on people, 0 elsewhere, of the size of the maps. Its map is eroded by
            one cell, as published.
        stride: input pixels per cell.
        sigma: standard deviation of the joints' Gaussians, in pixels of the input.
        limb_sigma: standard deviation across limbs, in pixels of the input.
        cut: value in 0..1 at which Gaussians are truncated; joints have a square window that
            extends at least to this value.
        limb_floor: value inside a limb's box where its Gaussian is not above `cut`.

    Returns:
        (L + J + 2, h, w) float32 in 0..1.

    Raises:
        ValueError: a labelled joint has a position that is not finite.
    """
    keypoints = np.ascontiguousarray(keypoints, np.float64)
    if not np.isfinite(keypoints[keypoints[..., 2] > 0]).all():
        raise ValueError("keypoints: a labelled joint has a position that is not finite")
    limbs, joints = len(limb_index), keypoints.shape[1]
    radius = math.sqrt(-2 * math.log(cut))
    maps = np.zeros((limbs + joints + 2, *people_mask.shape), np.float32)
    joint_maps = maps[limbs : limbs + joints]
    _draw_limbs(maps[:limbs], keypoints, limb_index, stride, limb_sigma, radius, limb_floor)
    _draw_joints(joint_maps, keypoints, stride, sigma, math.ceil(radius * sigma / stride))
    maps[-2] = cv2.erode(np.asarray(people_mask, np.float32), _EROSION_KERNEL)
    joint_maps.max(0, out=maps[-1])
    return maps


@compiled
def _span(first: float, last: float, cells: int) -> tuple[int, int]:
    """Start and stop of the cells from `first` to `last`, both rounded, clipped to the map."""
    start = min(max(np.rint(first), 0.0), float(cells))
    stop = min(max(np.rint(last) + 1.0, 0.0), float(cells))
    return int(start), int(stop)


@compiled
def _draw_joints(
    maps: np.ndarray, keypoints: np.ndarray, stride: int, sigma: float, reach: int
) -> None:
    """Draws the maximum of Gaussians into (J, h, w) maps, in windows of 2·reach + 1 cells."""
    _, height, width = maps.shape
    across = np.empty(width)
    for person in range(len(keypoints)):
        for joint in range(len(maps)):
            x, y, visibility = keypoints[person, joint]
            if visibility <= 0:
                continue
            column, row = np.rint(x / stride), np.rint(y / stride)
            left, right = _span(column - reach, column + reach, width)
            top, bottom = _span(row - reach, row + reach, height)
            for i in range(left, right):
                across[i] = math.exp(-0.5 * ((stride * (i + 0.5) - 0.5 - x) / sigma) ** 2)
            for k in range(top, bottom):
                down = math.exp(-0.5 * ((stride * (k + 0.5) - 0.5 - y) / sigma) ** 2)
                for i in range(left, right):
                    maps[joint, k, i] = max(maps[joint, k, i], np.float32(down * across[i]))


@compiled
def _draw_limbs(
    maps: np.ndarray,
    keypoints: np.ndarray,
    limb_index: np.ndarray,
    stride: int,
    sigma: float,
    radius: float,
    floor: float,
) -> None:
    """Draws the mean over people of each limb into (L, h, w) maps of zeros."""
    count = np.empty(maps.shape[1:], np.float32)
    for limb in range(len(maps)):
        count[:] = 0
        for person in range(len(keypoints)):
            start, end = (
                keypoints[person, limb_index[limb, 0]],
                keypoints[person, limb_index[limb, 1]],
            )
            if start[2] > 0 and end[2] > 0:
                _add_limb(maps[limb], count, start, end, stride, sigma, radius, floor)
        for k in range(maps.shape[1]):
            for i in range(maps.shape[2]):
                maps[limb, k, i] /= max(count[k, i], np.float32(1))


@compiled
def _add_limb(
    total: np.ndarray,
    count: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    stride: int,
    sigma: float,
    radius: float,
    floor: float,
) -> None:
    """Adds one limb to the (h, w) sum, and its box to the (h, w) count."""
    x1, y1, x2, y2 = start[0], start[1], end[0], end[1]
    length = math.hypot(x2 - x1, y2 - y1)
    if length == 0:
        return
    height, width = total.shape
    left, right = _span((min(x1, x2) - stride) / stride, (max(x1, x2) + stride) / stride, width)
    top, bottom = _span((min(y1, y2) - stride) / stride, (max(y1, y2) + stride) / stride, height)
    # Distance to the line, in sigmas: normal · (position - start)
    across, down = (y1 - y2) / (length * sigma), (x2 - x1) / (length * sigma)
    for k in range(top, bottom):
        row = down * (stride * (k + 0.5) - 0.5 - y1)
        for i in range(left, right):
            distance = row + across * (stride * (i + 0.5) - 0.5 - x1)
            inside = abs(distance) < radius
            total[k, i] += math.exp(-0.5 * distance * distance) if inside else floor
            count[k, i] += 1
