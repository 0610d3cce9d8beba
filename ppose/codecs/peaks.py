"""Peaks of the joints' maps: the candidates that a bottom-up codec groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppose.errors import PposeError

# Neighbours as (dy, dx): those before a cell in reading order, and those behind it.
_BEFORE = ((-1, -1), (-1, 0), (-1, 1), (0, -1))
_BEHIND = ((0, 1), (1, -1), (1, 0), (1, 1))


@dataclass(frozen=True)
class Peaks:
    """Candidates of joints, sorted by joint, those of one joint by falling value of their cell.

    Attributes:
        joint: (N,) int64 index of the joint's map.
        xy: (N, 2) float32 place in cells; 0, 0 is the centre of the first cell.
        score: (N,) float32 height of the peak in 0..1.
    """

    joint: np.ndarray
    xy: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.joint)


def find_peaks(maps: np.ndarray, threshold: float = 0.1, max_peaks: int = 256) -> Peaks:
    """Local maxima of each map, placed between the cells.

    Place and height are those of the paraboloid that fits the logarithm of the 3×3 cells around
    the maximum best: exact for a Gaussian. On the border the place keeps to the border's cells.

    Args:
        maps: (J, h, w) float32 or float16, a Gaussian of height up to 1 around each joint.
        threshold: a maximum has to be above it; 0 or more.
        max_peaks: highest number of peaks a joint; the highest ones are kept.

    Raises:
        ValueError: a map that holds NaN or infinity.
    """
    maps = finite(maps, "joint")
    _, height, width = maps.shape
    flat = maps.reshape(-1)
    cell = _maxima(maps, np.flatnonzero(flat > threshold))
    cell = _highest(cell, flat[cell], cell // (height * width), max_peaks)
    joint, place = np.divmod(cell, height * width)
    y, x = np.divmod(place, width)
    around = np.arange(-1, 2)
    rows = np.clip(y[:, None] + around, 0, height - 1)
    columns = np.clip(x[:, None] + around, 0, width - 1)
    patch = maps[joint[:, None, None], rows[:, :, None], columns[:, None, :]]
    return placed(joint, np.stack([x, y], 1), patch, (width, height))


def placed(
    joint: np.ndarray, cell: np.ndarray, patch: np.ndarray, size_wh: tuple[int, int]
) -> Peaks:
    """The second half of `find_peaks`: from the cells of maxima to places between them.

    Args:
        joint: (N,) index of the map, rising; those of one map by falling value.
        cell: (N, 2) x, y of the maximum.
        patch: (N, 3, 3) values of the map around it; on the border the outermost ones repeat.
        size_wh: of the maps, in cells.
    """
    step, score = _refine(patch.astype(np.float64), cell, size_wh)
    return Peaks(joint, (cell + step).astype(np.float32), np.clip(score, 0, 1).astype(np.float32))


class MapsError(PposeError, ValueError):
    """Maps in which no people can be looked for; the message says which and why."""


def finite(maps: np.ndarray, kind: str) -> np.ndarray:
    """The maps (C, h, w) as contiguous float32, copied only if they are not.

    Raises:
        ValueError: maps that have not three axes.
        MapsError: NaN or infinity, with the first such map.
    """
    if maps.ndim != 3:
        raise ValueError(f"expected {kind} maps of shape (C, h, w), found {maps.shape}")
    maps = np.ascontiguousarray(maps, np.float32)
    # A sum that is finite is proof enough, at a fraction of the time.
    with np.errstate(invalid="ignore", over="ignore"):
        fine = np.isfinite(maps.sum((1, 2)))
    for channel in np.flatnonzero(~fine):
        bad = np.argwhere(~np.isfinite(maps[channel]))
        if len(bad):
            y, x = bad[0]
            raise MapsError(
                f"{kind} map {channel} is {maps[channel, y, x]} at x={x}, y={y} "
                f"({len(bad)} such cells): expected finite values; a network that diverged in "
                "training or an overflow in float16 gives such maps"
            )
    return maps


def _maxima(maps: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Those of the flat indices that are local maxima; of equal neighbours the first.

    Each neighbour is compared only where those before it left a candidate, so that noise costs
    little more than an empty map.
    """
    height, width = maps.shape[1:]
    flat = maps.reshape(-1)
    for dy, dx in _BEFORE + _BEHIND:
        y, x = cell // width % height + dy, cell % width + dx
        outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
        neighbour = flat[np.where(outside, cell, cell + dy * width + dx)]
        value = flat[cell]
        higher = value > neighbour if (dy, dx) in _BEFORE else value >= neighbour
        cell = cell[outside | higher]
    return cell


def _highest(cell: np.ndarray, value: np.ndarray, joint: np.ndarray, count: int) -> np.ndarray:
    """The `count` highest of each joint, sorted by joint, then by falling value."""
    order = np.lexsort((-value, joint))
    joint = joint[order]
    rank = np.arange(len(joint)) - np.searchsorted(joint, joint)
    return cell[order[rank < count]]


def _refine(
    patch: np.ndarray, cell: np.ndarray, size_wh: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) steps in x and y from the cell to the peak, and (N,) the height there."""
    top = patch[:, 1, 1]
    # The floor keeps the logarithm of a single empty neighbour from ruling the fit.
    log = np.log(np.maximum(patch, 0.01 * top[:, None, None]))
    profiles = np.stack([log.mean(1), log.mean(2)], 1)
    slope = (profiles[..., 2] - profiles[..., 0]) / 2
    bend = profiles[..., 2] - 2 * profiles[..., 1] + profiles[..., 0]
    last = np.array(size_wh) - 1
    fixed = (cell == 0) | (cell == last) | (bend >= 0)
    step = np.where(fixed, 0, np.clip(slope / np.where(fixed, -1, -bend), -0.5, 0.5))
    gain = (slope * step + bend * step**2 / 2).sum(1)
    return step, top * np.exp(gain)
