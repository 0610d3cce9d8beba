"""Peak detection in joint maps: the joint candidates of a bottom-up codec."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppose.utils.errors import PposeError

# Neighbours as (dy, dx): those before a cell in row-major order, and those after it.
_BEFORE = ((-1, -1), (-1, 0), (-1, 1), (0, -1))
_AFTER = ((0, 1), (1, -1), (1, 0), (1, 1))


@dataclass(frozen=True)
class Peaks:
    """Joint candidates, sorted by joint, then by descending value of their cell.

    Attributes:
        joint: (N,) int64 index of the joint's map.
        xy: (N, 2) float32 position in cells; 0, 0 is the centre of the first cell.
        score: (N,) float32 height of the peak in 0..1.
    """

    joint: np.ndarray
    xy: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.joint)


def find_peaks(maps: np.ndarray, threshold: float = 0.1, max_peaks: int = 256) -> Peaks:
    """Local maxima of each map with subcell positions.

    Position and height come from a least-squares paraboloid through the logarithm of the 3×3
    cells around the maximum, which is exact for a Gaussian. In the first and last row or column,
    a maximum is not refined in the direction of the border.

    Args:
        maps: (J, h, w) float32 or float16, a Gaussian of height up to 1 around each joint.
        threshold: minimum value of a maximum, exclusive; 0 or more.
        max_peaks: maximum number of peaks per joint; the highest ones are kept.

    Raises:
        ValueError: a map has NaN or infinity.
    """
    maps = check_maps(maps, "joint")
    _, height, width = maps.shape
    flat = maps.reshape(-1)
    cell = _maxima(maps, np.flatnonzero(flat > threshold))
    cell = _highest(cell, flat[cell], cell // (height * width), max_peaks)
    joint, index = np.divmod(cell, height * width)
    y, x = np.divmod(index, width)
    around = np.arange(-1, 2)
    rows = np.clip(y[:, None] + around, 0, height - 1)
    columns = np.clip(x[:, None] + around, 0, width - 1)
    patch = maps[joint[:, None, None], rows[:, :, None], columns[:, None, :]]
    return refine_peaks(joint, np.stack([x, y], 1), patch, (width, height))


def refine_peaks(
    joint: np.ndarray, cell: np.ndarray, patch: np.ndarray, size_wh: tuple[int, int]
) -> Peaks:
    """Second step of `find_peaks`: refines the cells of maxima to subcell positions.

    Args:
        joint: (N,) index of the map, ascending; maxima of one map by descending value.
        cell: (N, 2) x, y of the maximum.
        patch: (N, 3, 3) values of the map around it, with edge padding.
        size_wh: width and height of the maps, in cells.
    """
    step, score = _fit_paraboloid(patch.astype(np.float64), cell, size_wh)
    return Peaks(joint, (cell + step).astype(np.float32), np.clip(score, 0, 1).astype(np.float32))


class MapsError(PposeError, ValueError):
    """Maps that cannot be decoded; the message names the map and the reason."""


def check_maps(maps: np.ndarray, kind: str) -> np.ndarray:
    """The maps (C, h, w) as contiguous float32, copied only if needed.

    Raises:
        ValueError: the maps do not have three axes.
        MapsError: a map has NaN or infinity.
    """
    if maps.ndim != 3:
        raise ValueError(f"expected {kind} maps of shape (C, h, w), found {maps.shape}")
    maps = np.ascontiguousarray(maps, np.float32)
    # If the sum is finite, so are all values, and the sum is much faster to check.
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(maps.sum((1, 2)))
    for channel in np.flatnonzero(~finite):
        bad = np.argwhere(~np.isfinite(maps[channel]))
        if len(bad):
            y, x = bad[0]
            raise MapsError(
                f"{kind} map {channel} is {maps[channel, y, x]} at x={x}, y={y} "
                f"({len(bad)} such cells), expected finite values; possible causes are a network "
                "that diverged in training, or overflow in float16"
            )
    return maps


def _maxima(maps: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """The flat indices that are local maxima; among equal neighbours, the first one.

    Candidates are dropped after each comparison, so that noisy maps are almost as fast as empty
    ones.
    """
    height, width = maps.shape[1:]
    flat = maps.reshape(-1)
    for dy, dx in _BEFORE + _AFTER:
        y, x = cell // width % height + dy, cell % width + dx
        outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
        neighbour = flat[np.where(outside, cell, cell + dy * width + dx)]
        value = flat[cell]
        higher = value > neighbour if (dy, dx) in _BEFORE else value >= neighbour
        cell = cell[outside | higher]
    return cell


def _highest(cell: np.ndarray, value: np.ndarray, joint: np.ndarray, count: int) -> np.ndarray:
    """The `count` highest cells of each joint, sorted by joint, then by descending value."""
    order = np.lexsort((-value, joint))
    joint = joint[order]
    rank = np.arange(len(joint)) - np.searchsorted(joint, joint)
    return cell[order[rank < count]]


def _fit_paraboloid(
    patch: np.ndarray, cell: np.ndarray, size_wh: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) steps in x and y from the cell to the peak, and (N,) the height there."""
    top = patch[:, 1, 1]
    # The floor prevents the logarithm of a single empty neighbour from dominating the fit.
    log = np.log(np.maximum(patch, 0.01 * top[:, None, None]))
    profiles = np.stack([log.mean(1), log.mean(2)], 1)
    slope = (profiles[..., 2] - profiles[..., 0]) / 2
    bend = profiles[..., 2] - 2 * profiles[..., 1] + profiles[..., 0]
    last = np.array(size_wh) - 1
    fixed = (cell == 0) | (cell == last) | (bend >= 0)
    step = np.where(fixed, 0, np.clip(slope / np.where(fixed, -1, -bend), -0.5, 0.5))
    gain = (slope * step + bend * step**2 / 2).sum(1)
    return step, top * np.exp(gain)
