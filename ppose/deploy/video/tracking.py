"""Multi-person tracking."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ppose.metrics.oks import oks
from ppose.structures import Poses
from ppose.structures.geometry import iou

UNTRACKED = -1

# Seconds over which a body's velocity is averaged.
_VELOCITY_SECONDS = 0.2
# Seconds over which a box is averaged.
_BOX_SECONDS = 0.05
# Factor by which boxes and the sides of OKS areas are enlarged for people not found at their
# predicted position: initial value, increase per second since they were last seen, maximum.
_LOST_SCALE, _SCALE_PER_SECOND, _MAX_SCALE = 1.5, 1.5, 3.0
# Subtracted from the similarity of people who were missing in the previous frame.
_LOST_PENALTY = 0.1
# Minimum number of joints to measure motion.
_MIN_MOTION_JOINTS = 3
# Factor for the score of a hidden joint in each frame.
_HIDDEN_DECAY = 0.9


@dataclass(frozen=True)
class TrackedPoses:
    """The people of one frame with their track ids.

    Attributes:
        poses: all people detected in this frame; the keypoints may be smoothed.
        track_ids: (P,) int64, the same for a person in all frames; `UNTRACKED` for people who have
            not been seen in enough frames yet.
        raw_keypoints: (P, K, 3) before smoothing; None if `poses` is not smoothed.
    """

    poses: Poses
    track_ids: np.ndarray
    raw_keypoints: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.track_ids.shape != (len(self.poses),):
            raise ValueError(
                f"track_ids: expected ({len(self.poses)},), found {self.track_ids.shape}"
            )

    @classmethod
    def untracked(cls, poses: Poses) -> TrackedPoses:
        """People without tracks."""
        return cls(poses, np.full(len(poses), UNTRACKED, np.int64))

    def __len__(self) -> int:
        return len(self.poses)


@dataclass(frozen=True)
class _Tracks:
    """T tracks: the last pose of each person, and how they move.

    Attributes:
        ids: (T,) int64; `UNTRACKED` for tentative tracks.
        keypoints: (T, K, 3).
        boxes: (T, 4) x, y, width, height.
        velocity: (T, 2) of the body, in pixels per second.
        observed: (T,) seconds over which the velocity was measured.
        last_seen: (T,) time of the last frame with the person.
        hits, missed: (T,) number of frames with the person, and of frames without since then.
    """

    ids: np.ndarray
    keypoints: np.ndarray
    boxes: np.ndarray
    velocity: np.ndarray
    observed: np.ndarray
    last_seen: np.ndarray
    hits: np.ndarray
    missed: np.ndarray

    @classmethod
    def of(cls, poses: Poses, time: float) -> _Tracks:
        """Tentative tracks for new people."""
        people = len(poses)
        return cls(
            ids=np.full(people, UNTRACKED, np.int64),
            keypoints=poses.keypoints.astype(np.float64),
            boxes=poses.boxes_xywh.astype(np.float64),
            velocity=np.zeros((people, 2)),
            observed=np.zeros(people),
            last_seen=np.full(people, time),
            hits=np.ones(people, np.int64),
            missed=np.zeros(people, np.int64),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, chosen: np.ndarray) -> _Tracks:
        return _Tracks(**{name: values[chosen] for name, values in vars(self).items()})

    def __add__(self, other: _Tracks) -> _Tracks:
        theirs = vars(other)
        return _Tracks(
            **{name: np.concatenate([values, theirs[name]]) for name, values in vars(self).items()}
        )

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Predicted keypoints and boxes: the last pose moved by the body's velocity."""
        shift = self.velocity * (time - self.last_seen)[:, None]
        keypoints, boxes = self.keypoints.copy(), self.boxes.copy()
        keypoints[..., :2] += shift[:, None]
        boxes[:, :2] += shift
        return keypoints, boxes


class Tracker:
    """Associates people in consecutive frames (tracking by detection).

    Each track predicts its pose by moving the last one with the body's velocity. Tracks and people
    are matched by the mean of box IoU and OKS, with an optimal assignment. A second round with
    enlarged boxes matches the rest, including people with low scores (second association of
    ByteTrack, Zhang et al., ECCV 2022; enlarged boxes of C-BIoU, Yang et al., WACV 2023). Ids start
    at 1 and are never reused.

    Args:
        new_score: people with lower scores continue tracks, but do not start new ones.
        min_score: people with lower scores, such as fragments, are not tracked.
        min_similarity: smallest mean of IoU and OKS for a match.
        confirm_hits: consecutive frames after which a person gets an id; people in the first frame
            get theirs immediately, those after a cut do not, as it may be a flash.
        max_missed: frames without its person after which a track ends.
        max_gap: seconds between two frames after which all tracks end.
        min_joint_score: joints with lower scores are not compared.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        new_score: float = 0.2,
        min_score: float = 0.1,
        min_similarity: float = 0.3,
        confirm_hits: int = 3,
        max_missed: int = 30,
        max_gap: float = 2.0,
        min_joint_score: float = 0.2,
    ):
        shares = {
            "new_score": new_score,
            "min_score": min_score,
            "min_similarity": min_similarity,
            "min_joint_score": min_joint_score,
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in 0..1, found {value}")
        if confirm_hits < 1 or max_missed < 0 or not max_gap > 0:
            raise ValueError(
                "confirm_hits must be at least 1, max_missed at least 0 and max_gap above 0, "
                f"found {confirm_hits}, {max_missed} and {max_gap}"
            )
        self.new_score = new_score
        self.min_score = min_score
        self.min_similarity = min_similarity
        self.confirm_hits = confirm_hits
        self.max_missed = max_missed
        self.max_gap = max_gap
        self.min_joint_score = min_joint_score
        self._tracks: _Tracks | None = None
        self._time = -np.inf
        self._next_id = 1
        self._scene = 0
        self._other_scene: tuple[int, _Tracks | None] = (0, None)

    def __call__(self, poses: Poses, time: float, scene: int = 0) -> TrackedPoses:
        """Tracks the people of the next frame.

        Args:
            poses: people of the frame.
            time: timestamp of the frame in seconds, larger than that of the previous frame.
            scene: number of the scene, as of `SceneDetector`. Tracks do not go from one scene to
                another; those of the last scene go on if it is resumed.

        Raises:
            ValueError: time does not increase, or the number of joints changed.
        """
        if not time > self._time:
            raise ValueError(f"time: expected above {self._time:g} seconds, found {time:g}")
        restart = self._tracks is None or time - self._time > self.max_gap
        tracks = self._tracks_of(scene)
        if tracks is None or restart:
            tracks = _Tracks.of(poses[:0], time)
        if tracks.keypoints.shape[1:] != poses.keypoints.shape[1:]:
            raise ValueError(
                f"poses: expected {tracks.keypoints.shape[1]} joints as in previous frames, "
                f"found {poses.keypoints.shape[1]}"
            )
        self._time = time

        finite = np.isfinite(poses.keypoints).all((1, 2)) & np.isfinite(poses.boxes_xywh).all(1)
        usable = finite & (poses.scores >= self.min_score)
        track_rows, matched = self._match(tracks, poses, usable, time)
        tracks = self._update_tracks(tracks, poses, track_rows, matched, time)
        unmatched = usable & (poses.scores >= self.new_score)
        unmatched[matched] = False
        new_people = np.flatnonzero(unmatched)
        new_tracks = _Tracks.of(poses[new_people], time)
        people = np.concatenate([matched, new_people])
        rows = np.concatenate([track_rows, len(tracks) + np.arange(len(new_people))])
        tracks = self._assign_ids(tracks + new_tracks, poses, rows, people, at_once=restart)

        ids = np.full(len(poses), UNTRACKED, np.int64)
        ids[people] = tracks.ids[rows]
        max_missed = np.where(tracks.ids == UNTRACKED, 0, self.max_missed)
        self._tracks = tracks[tracks.missed <= max_missed]
        return TrackedPoses(poses, ids)

    def _tracks_of(self, scene: int) -> _Tracks | None:
        """The tracks that a frame of this scene continues."""
        if scene == self._scene:
            return self._tracks
        left, self._other_scene = self._other_scene, (self._scene, self._tracks)
        self._scene = scene
        return left[1] if left[0] == scene else None

    def _match(
        self, tracks: _Tracks, poses: Poses, usable: np.ndarray, time: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Indices of matched tracks and of their people."""
        keypoints, boxes = tracks.at(time)
        unseen = time - tracks.last_seen
        lost = (tracks.missed > 0)[:, None]
        enlarged = np.minimum(_LOST_SCALE + _SCALE_PER_SECOND * unseen, _MAX_SCALE)
        track_rows = person = np.zeros(0, np.int64)
        rounds = (
            (np.ones(len(tracks)), usable & (poses.scores >= self.new_score)),
            (enlarged, usable),
        )
        for scales, allowed in rounds:
            rows = np.setdiff1d(np.arange(len(tracks)), track_rows)
            columns = np.setdiff1d(np.flatnonzero(allowed), person)
            if not (len(rows) and len(columns)):
                continue
            similarity = self._similarity(
                keypoints[rows], boxes[rows], poses[columns], scales[rows]
            )
            gain = np.maximum(similarity - _LOST_PENALTY * lost[rows], 0)
            found = assign(np.where(similarity >= self.min_similarity, gain, 0))
            track_rows = np.concatenate([track_rows, rows[found[0]]])
            person = np.concatenate([person, columns[found[1]]])
        return track_rows, person

    def _similarity(
        self, keypoints: np.ndarray, boxes: np.ndarray, poses: Poses, scales: np.ndarray
    ) -> np.ndarray:
        """(T, P) mean of IoU and OKS, with boxes and sides of areas scaled for each track."""
        sides = np.maximum(boxes[:, None, 2:], poses.boxes_xywh[None, :, 2:])
        areas = sides.prod(-1) * scales[:, None] ** 2
        both = (keypoints[:, None, :, 2] >= self.min_joint_score) & (
            poses.keypoints[None, ..., 2] >= self.min_joint_score
        )
        offsets = keypoints[:, None, :, :2] - poses.keypoints[None, ..., :2]
        joints = offsets.shape[2]
        # The joints to compare differ between pairs, so each pair is passed as a separate row.
        similarity = oks(
            offsets.reshape(-1, joints, 2),
            np.zeros((1, joints, 2)),
            areas.reshape(-1),
            poses.skeleton.sigmas,
            both.reshape(-1, joints),
        )
        overlap = iou(boxes[:, None], poses.boxes_xywh, scales[:, None])
        return (overlap + similarity.reshape(areas.shape)) / 2

    def _update_tracks(
        self, tracks: _Tracks, poses: Poses, track_rows: np.ndarray, person: np.ndarray, time: float
    ) -> _Tracks:
        """Updates matched tracks with the people of this frame."""
        known, found = tracks[track_rows], poses[person]
        expected, boxes = known.at(time)
        keypoints = found.keypoints.astype(np.float64)
        elapsed = (time - known.last_seen)[:, None]
        motion, measurable = self._motion(known, keypoints)
        # The mean of all frames at first, later an exponential moving average.
        observed = known.observed[:, None] + elapsed
        gain = np.maximum(elapsed / observed, 1 - np.exp(-elapsed / _VELOCITY_SECONDS)) * measurable
        # Hidden joints keep their predicted position.
        hidden = keypoints[..., 2] < self.min_joint_score
        expected[..., 2] *= _HIDDEN_DECAY
        # The box of a partly visible person has a lower weight.
        expected_joints = (expected[..., 2] >= self.min_joint_score) | ~hidden
        visible = (~hidden).sum(1) / np.maximum(expected_joints.sum(1), 1)
        weight = (1 - np.exp(-elapsed / _BOX_SECONDS)) * visible[:, None]
        updates = {
            "keypoints": np.where(hidden[..., None], expected, keypoints),
            "boxes": boxes + weight * (found.boxes_xywh - boxes),
            "velocity": known.velocity + gain * (motion / elapsed - known.velocity),
            "observed": np.where(measurable, observed, known.observed[:, None])[:, 0],
            "last_seen": np.full(len(known), time),
            "hits": known.hits + 1,
            "missed": np.zeros(len(known), np.int64),
        }
        moved = replace(tracks, missed=tracks.missed + 1)
        for name, values in updates.items():
            whole = getattr(moved, name).copy()
            whole[track_rows] = values
            moved = replace(moved, **{name: whole})
        return moved

    def _motion(self, known: _Tracks, keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T, 2) motion of each body in pixels, and (T, 1) whether it can be measured.

        The median over joints is robust to moving arms and legs and to misplaced joints.
        """
        both = np.minimum(known.keypoints[..., 2], keypoints[..., 2]) >= self.min_joint_score
        measurable = both.sum(1, keepdims=True) >= _MIN_MOTION_JOINTS
        moves = np.where(both[..., None], keypoints[..., :2] - known.keypoints[..., :2], np.nan)
        moves[~measurable[:, 0]] = 0
        motion = np.nanmedian(moves, axis=1) if len(moves) else np.zeros((0, 2))
        return motion, measurable

    def _assign_ids(
        self,
        tracks: _Tracks,
        poses: Poses,
        rows: np.ndarray,
        people: np.ndarray,
        at_once: bool,
    ) -> _Tracks:
        """Assigns ids to confirmed tracks, in descending order of the people's scores."""
        needed = 1 if at_once else self.confirm_hits
        due = (tracks.ids[rows] == UNTRACKED) & (tracks.hits[rows] >= needed)
        rows, found = rows[due], poses[people[due]]
        x, y = found.boxes_xywh[:, 0], found.boxes_xywh[:, 1]
        order = np.lexsort((y, x, -found.scores))
        ids = tracks.ids.copy()
        ids[rows[order]] = self._next_id + np.arange(len(order))
        self._next_id += len(order)
        return replace(tracks, ids=ids)


def assign(gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linear assignment: pairs of rows and columns with the largest sum of gains.

    Shortest augmenting paths with potentials (the Hungarian method; Jonker and Volgenant,
    Computing 38, 1987), O(n²·m). Pairs with zero gain are omitted.

    Args:
        gains: (N, M), nonnegative.

    Returns:
        (L,) row indices in ascending order, and (L,) column indices.
    """
    if len(gains) > gains.shape[1]:
        columns, rows = assign(gains.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    costs = -np.asarray(gains, np.float64)
    rows_free, columns_free = costs.shape
    row_potential, column_potential = np.zeros(rows_free), np.zeros(columns_free)
    row_of = np.full(columns_free, -1)
    for row in range(rows_free):
        _augment(costs, row, row_of, row_potential, column_potential)
    columns = np.flatnonzero(row_of >= 0)
    rows = row_of[columns]
    order = np.argsort(rows)
    rows, columns = rows[order], columns[order]
    positive = gains[rows, columns] > 0
    return rows[positive], columns[positive]


def _augment(
    costs: np.ndarray,
    row: int,
    row_of: np.ndarray,
    row_potential: np.ndarray,
    column_potential: np.ndarray,
) -> None:
    """Assigns one more row, along the shortest augmenting path (Dijkstra)."""
    distance = np.full(costs.shape[1], np.inf)
    reached_from = np.full(costs.shape[1], -1)
    done = np.zeros(costs.shape[1], bool)
    at, so_far, column, on_path = row, 0.0, -1, [row]
    while True:
        through = so_far + costs[at] - row_potential[at] - column_potential
        shorter = ~done & (through < distance)
        distance[shorter], reached_from[shorter] = through[shorter], column
        column = int(np.argmin(np.where(done, np.inf, distance)))
        so_far = float(distance[column])
        if row_of[column] < 0:
            break
        done[column] = True
        at = int(row_of[column])
        on_path.append(at)
    row_potential[row] += so_far
    row_potential[row_of[done]] += so_far - distance[done]
    column_potential[done] -= so_far - distance[done]
    while column >= 0:
        before = reached_from[column]
        row_of[column] = row if before < 0 else row_of[before]
        column = before
