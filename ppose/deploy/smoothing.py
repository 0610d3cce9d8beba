"""Keypoints of a video without their jitter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ppose.deploy.tracking import UNTRACKED, Tracked

# Seconds over which a person's size is averaged.
_SIZE_SECONDS = 1.0


class OneEuroSmoother:
    """The One-Euro filter of Casiez, Roussel and Vogel (CHI 2012) on each joint of each track.

    A low pass whose cutoff rises with speed: strong at rest, where jitter is seen, weak in motion,
    where lag is. x and y share the cutoff, which follows the joint's speed in lengths of the person
    a second (the longer side of the box), so that the same arguments do at any resolution. Time is
    that of the frames, whatever their rate.

    Joints that were not found are left as they are and do not pull; those that come back after
    more than `memory` seconds start anew. People without a track are left as they are.

    Args:
        min_cutoff: cutoff at rest in Hz. Lower it against jitter.
        beta: Hz that the cutoff rises for each length a second. Raise it against lag.
        d_cutoff: cutoff in Hz of the speed itself.
        min_joint_score: below it a joint was not found.
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
                "min_cutoff and d_cutoff have to be above 0, beta and memory at least 0, found "
                f"{min_cutoff}, {d_cutoff}, {beta} and {memory}"
            )
        if not 0 <= min_joint_score <= 1:
            raise ValueError(f"min_joint_score has to be in 0..1, found {min_joint_score}")
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

    def __call__(self, tracked: Tracked, time: float) -> Tracked:
        """The people of the next frame with smoothed keypoints, and the raw ones beside them.

        Args:
            tracked: of the frame.
            time: of the frame in seconds, above that of the frame before.
        """
        raw = tracked.poses.keypoints
        people = np.flatnonzero(tracked.track_ids != UNTRACKED)
        ids = tracked.track_ids[people]
        self._forget(time)
        self._welcome(ids, raw.shape[1])
        at = np.searchsorted(self._ids, ids)
        found = (raw[people, :, 2] >= self.min_joint_score) & np.isfinite(raw[people]).all(-1)
        size = self._sizes(at, tracked.poses.boxes_xywh[people], time)
        smoothed = raw.copy()
        smoothed[people, :, :2] = self._filtered(at, raw[people, :, :2], found, size, time)
        return replace(tracked, poses=replace(tracked.poses, keypoints=smoothed), raw_keypoints=raw)

    def _filtered(
        self, at: np.ndarray, xy: np.ndarray, found: np.ndarray, size: np.ndarray, time: float
    ) -> np.ndarray:
        """(N, K, 2) positions of the tracks in rows `at`; the filters' state goes on."""
        before, velocity = self._xy[at], self._velocity[at]
        passed = time - self._time[at]
        known = found & (passed <= self.memory) & (passed > 0)
        passed = np.where(known, passed, 1.0)[..., None]
        measured = (xy - before) / passed
        velocity = velocity + _alpha(self.d_cutoff, passed) * (measured - velocity)
        speed = np.linalg.norm(velocity, axis=-1, keepdims=True) / size[:, None, None]
        cutoff = self.min_cutoff + self.beta * speed
        filtered = before + _alpha(cutoff, passed) * (xy - before)

        position = np.where(known[..., None], filtered, xy)
        self._xy[at] = np.where(found[..., None], position, before)
        self._velocity[at] = np.where(
            known[..., None], velocity, np.where(found[..., None], 0, self._velocity[at])
        )
        self._time[at] = np.where(found, time, self._time[at])
        return position

    def _sizes(self, at: np.ndarray, boxes_xywh: np.ndarray, time: float) -> np.ndarray:
        """(N,) lengths of people in pixels."""
        size = np.maximum(boxes_xywh[:, 2:].max(1, initial=0), 1.0)
        before = self._size[at]
        last = self._time[at].max(1, initial=-np.inf)
        with np.errstate(invalid="ignore"):
            share = 1 - np.exp(-(time - last) / _SIZE_SECONDS)
            size = np.where(np.isfinite(last), before + share * (size - before), size)
        self._size[at] = size
        return size

    def _welcome(self, ids: np.ndarray, joints: int) -> None:
        """Rows for tracks without one, sorted by id."""
        new = np.setdiff1d(ids, self._ids)
        zeros = np.zeros((len(new), joints, 2))
        self._xy = np.concatenate([self._xy.reshape(-1, joints, 2), zeros])
        self._velocity = np.concatenate([self._velocity.reshape(-1, joints, 2), zeros])
        unseen = np.full((len(new), joints), -np.inf)
        self._time = np.concatenate([self._time.reshape(-1, joints), unseen])
        self._size = np.concatenate([self._size, np.zeros(len(new))])
        self._ids = np.concatenate([self._ids, new])
        self._keep(np.argsort(self._ids))

    def _forget(self, time: float) -> None:
        """Drops tracks of which no joint would go on."""
        if len(self._ids):
            last = self._time.max(1, initial=-np.inf)
            self._keep(np.flatnonzero(time - last <= max(self.memory, _SIZE_SECONDS)))

    def _keep(self, rows: np.ndarray) -> None:
        for name in ("_ids", "_xy", "_velocity", "_time", "_size"):
            setattr(self, name, getattr(self, name)[rows])


def _alpha(cutoff: np.ndarray | float, passed: np.ndarray) -> np.ndarray:
    """Share of the new value in a low pass: 1 / (1 + τ/Te) with τ = 1 / (2π·cutoff)."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * passed))
