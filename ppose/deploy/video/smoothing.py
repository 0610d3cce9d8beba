"""Temporal smoothing of keypoints with the One-Euro filter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ppose.deploy.video.tracking import UNTRACKED, TrackedPoses

# Seconds over which a person's size is averaged.
_SIZE_SECONDS = 1.0


class OneEuroSmoother:
    """One-Euro filter (Casiez, Roussel and Vogel, CHI 2012) for each joint of each track.

    A low-pass filter whose cutoff frequency increases with speed: strong at rest, where jitter is
    visible, and weak in motion, where lag is. x and y share the cutoff. Speed is measured in person
    lengths (the longer side of the box) per second, so the arguments are independent of the
    resolution; they are independent of the frame rate too, as the filter uses frame timestamps.

    Joints that were not detected are unchanged and do not affect the filter; after more than
    `memory` seconds without detection a joint's filter restarts. Untracked people are unchanged.

    Args:
        min_cutoff: cutoff at rest in Hz. Decrease it to reduce jitter.
        beta: increase of the cutoff in Hz per length per second. Increase it to reduce lag.
        d_cutoff: cutoff in Hz for the speed itself.
        min_joint_score: joints below this score count as not detected.
        memory: seconds.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        min_cutoff: float = 1.0,
        beta: float = 15.0,
        d_cutoff: float = 1.0,
        min_joint_score: float = 0.2,
        memory: float = 0.25,
    ):
        if not (min_cutoff > 0 and beta >= 0 and d_cutoff > 0 and memory >= 0):
            raise ValueError(
                "min_cutoff and d_cutoff must be above 0, beta and memory at least 0, found "
                f"{min_cutoff}, {d_cutoff}, {beta} and {memory}"
            )
        if not 0 <= min_joint_score <= 1:
            raise ValueError(f"min_joint_score must be in 0..1, found {min_joint_score}")
        self.min_cutoff = min_cutoff
        self.beta = beta
        self.d_cutoff = d_cutoff
        self.min_joint_score = min_joint_score
        self.memory = memory
        self._ids = np.zeros(0, np.int64)
        self._xy = np.zeros((0, 0, 2))
        self._velocity = np.zeros((0, 0, 2))
        self._time = np.zeros((0, 0))
        self._size = np.zeros(0)

    def __call__(self, tracked: TrackedPoses, time: float) -> TrackedPoses:
        """Smooths the next frame; the result contains smoothed and raw keypoints.

        Args:
            tracked: people of the frame.
            time: timestamp of the frame in seconds, larger than that of the previous frame.
        """
        raw = tracked.poses.keypoints
        people = np.flatnonzero(tracked.track_ids != UNTRACKED)
        ids = tracked.track_ids[people]
        self._drop_old_tracks(time)
        self._add_tracks(ids, raw.shape[1])
        rows = np.searchsorted(self._ids, ids)
        detected = (raw[people, :, 2] >= self.min_joint_score) & np.isfinite(raw[people]).all(-1)
        size = self._update_sizes(rows, tracked.poses.boxes_xywh[people], time)
        smoothed = raw.copy()
        smoothed[people, :, :2] = self._filter(rows, raw[people, :, :2], detected, size, time)
        return replace(tracked, poses=replace(tracked.poses, keypoints=smoothed), raw_keypoints=raw)

    def _filter(
        self, rows: np.ndarray, xy: np.ndarray, detected: np.ndarray, size: np.ndarray, time: float
    ) -> np.ndarray:
        """(N, K, 2) filtered positions of the tracks in `rows`; updates the filters' state."""
        previous, velocity = self._xy[rows], self._velocity[rows]
        elapsed = time - self._time[rows]
        known = detected & (elapsed <= self.memory) & (elapsed > 0)
        elapsed = np.where(known, elapsed, 1.0)[..., None]
        measured = (xy - previous) / elapsed
        velocity = velocity + _alpha(self.d_cutoff, elapsed) * (measured - velocity)
        speed = np.linalg.norm(velocity, axis=-1, keepdims=True) / size[:, None, None]
        cutoff = self.min_cutoff + self.beta * speed
        filtered = previous + _alpha(cutoff, elapsed) * (xy - previous)

        position = np.where(known[..., None], filtered, xy)
        self._xy[rows] = np.where(detected[..., None], position, previous)
        self._velocity[rows] = np.where(
            known[..., None], velocity, np.where(detected[..., None], 0, self._velocity[rows])
        )
        self._time[rows] = np.where(detected, time, self._time[rows])
        return position

    def _update_sizes(self, rows: np.ndarray, boxes_xywh: np.ndarray, time: float) -> np.ndarray:
        """(N,) averaged lengths of people in pixels."""
        size = np.maximum(boxes_xywh[:, 2:].max(1, initial=0), 1.0)
        previous = self._size[rows]
        last = self._time[rows].max(1, initial=-np.inf)
        with np.errstate(invalid="ignore"):
            share = 1 - np.exp(-(time - last) / _SIZE_SECONDS)
            size = np.where(np.isfinite(last), previous + share * (size - previous), size)
        self._size[rows] = size
        return size

    def _add_tracks(self, ids: np.ndarray, joints: int) -> None:
        """Adds rows for new tracks; rows are sorted by id."""
        new = np.setdiff1d(ids, self._ids)
        zeros = np.zeros((len(new), joints, 2))
        self._xy = np.concatenate([self._xy.reshape(-1, joints, 2), zeros])
        self._velocity = np.concatenate([self._velocity.reshape(-1, joints, 2), zeros])
        unseen = np.full((len(new), joints), -np.inf)
        self._time = np.concatenate([self._time.reshape(-1, joints), unseen])
        self._size = np.concatenate([self._size, np.zeros(len(new))])
        self._ids = np.concatenate([self._ids, new])
        self._keep(np.argsort(self._ids))

    def _drop_old_tracks(self, time: float) -> None:
        """Drops tracks whose joints and size would all restart."""
        if len(self._ids):
            last = self._time.max(1, initial=-np.inf)
            self._keep(np.flatnonzero(time - last <= max(self.memory, _SIZE_SECONDS)))

    def _keep(self, rows: np.ndarray) -> None:
        for name in ("_ids", "_xy", "_velocity", "_time", "_size"):
            setattr(self, name, getattr(self, name)[rows])


def _alpha(cutoff: np.ndarray | float, elapsed: np.ndarray) -> np.ndarray:
    """Smoothing factor, the weight of the new value: 1 / (1 + τ/Te) with τ = 1 / (2π·cutoff)."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * elapsed))
