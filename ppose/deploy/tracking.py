"""Who is who over the frames of a video."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ppose.metrics.oks import oks
from ppose.structures import Poses

UNTRACKED = -1

# Seconds over which a body's velocity is averaged.
_VELOCITY_SECONDS = 0.2
# Seconds over which a box is averaged.
_BOX_SECONDS = 0.05
# How much boxes and OKS areas' sides grow for those who were not found at the place expected,
# and how much more for each second since they were seen.
_WIDER, _WIDER_EACH_SECOND, _WIDEST = 1.5, 1.5, 3.0
# What a person who was not seen last time has to be more similar by than one who was.
_LOST_HANDICAP = 0.1
# Joints that tell how a body moved.
_FEWEST_JOINTS = 3
# What is left each frame of the score of a joint that is hidden.
_FADING = 0.9


@dataclass(frozen=True)
class Tracked:
    """The people of one frame, and who they are.

    Attributes:
        poses: as found in this frame, nobody more and nobody less; the keypoints may be smoothed.
        track_ids: (P,) int64, the same for a person in all frames; `UNTRACKED` for somebody who
            has not been seen often enough yet.
        raw_keypoints: (P, K, 3) as found, where `poses` has smoothed ones; else None.
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
    def untracked(cls, poses: Poses) -> Tracked:
        """Nobody is known."""
        return cls(poses, np.full(len(poses), UNTRACKED, np.int64))

    def __len__(self) -> int:
        return len(self.poses)


@dataclass(frozen=True)
class _Tracks:
    """T tracks: people as they were last seen, and how they move.

    Attributes:
        ids: (T,) int64; `UNTRACKED` for tentative tracks.
        keypoints: (T, K, 3).
        boxes: (T, 4) x, y, width, height.
        velocity: (T, 2) of the body, pixels a second.
        watched: (T,) seconds over which the velocity has been measured.
        seen_at: (T,) time of the last frame with them.
        hits, missed: (T,) frames with them, and frames without since then.
    """

    ids: np.ndarray
    keypoints: np.ndarray
    boxes: np.ndarray
    velocity: np.ndarray
    watched: np.ndarray
    seen_at: np.ndarray
    hits: np.ndarray
    missed: np.ndarray

    @classmethod
    def of(cls, poses: Poses, time: float) -> _Tracks:
        """Tentative tracks of people seen for the first time."""
        people = len(poses)
        return cls(
            ids=np.full(people, UNTRACKED, np.int64),
            keypoints=poses.keypoints.astype(np.float64),
            boxes=poses.boxes_xywh.astype(np.float64),
            velocity=np.zeros((people, 2)),
            watched=np.zeros(people),
            seen_at=np.full(people, time),
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
        """Keypoints and boxes at a time: poses as last seen, moved with the body's velocity."""
        shift = self.velocity * (time - self.seen_at)[:, None]
        keypoints, boxes = self.keypoints.copy(), self.boxes.copy()
        keypoints[..., :2] += shift[:, None]
        boxes[:, :2] += shift
        return keypoints, boxes


class Tracker:
    """Gives people found in single frames identities.

    Each person is expected where the last pose, moved on with the body's velocity, lies, and is
    recognised by the mean of box IoU and OKS, all people at once by the best assignment. Who is
    left over is looked for once more within wider bounds, which is also where people of low score
    come in (the second association of ByteTrack, Zhang et al., ECCV 2022; the wider boxes of
    C-BIoU, Yang et al., WACV 2023). Ids count from 1 and are never used again.

    Args:
        new_score: people with a lower score continue tracks, but start none.
        min_score: people with a lower score, such as fragments, are not tracked at all.
        min_similarity: mean of IoU and OKS below which two poses are not one person's.
        confirm_hits: frames in a row after which a person gets an id; people of the first frame
            get theirs at once.
        max_missed: frames that a track survives without its person.
        max_gap: seconds between two frames after which nobody is recognised and all begins anew.
        min_joint_score: joints below it are not compared.

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
                raise ValueError(f"{name} has to be in 0..1, found {value}")
        if confirm_hits < 1 or max_missed < 0 or not max_gap > 0:
            raise ValueError(
                "confirm_hits has to be at least 1, max_missed at least 0 and max_gap above 0, "
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

    def __call__(self, poses: Poses, time: float) -> Tracked:
        """The people of the next frame with their ids.

        Args:
            poses: of the frame.
            time: of the frame in seconds, above that of the frame before.

        Raises:
            ValueError: time does not go on, or the skeleton is another one.
        """
        if not time > self._time:
            raise ValueError(f"time: expected above {self._time:g} seconds, found {time:g}")
        tracks = self._tracks
        anew = tracks is None or time - self._time > self.max_gap
        if tracks is None or anew:
            tracks = _Tracks.of(poses[:0], time)
        if tracks.keypoints.shape[1:] != poses.keypoints.shape[1:]:
            raise ValueError(
                f"poses: expected {tracks.keypoints.shape[1]} joints as in the frames before, "
                f"found {poses.keypoints.shape[1]}"
            )
        self._time = time

        finite = np.isfinite(poses.keypoints).all((1, 2)) & np.isfinite(poses.boxes_xywh).all(1)
        usable = finite & (poses.scores >= self.min_score)
        of_track, person = self._matches(tracks, poses, usable, time)
        tracks = self._moved_on(tracks, poses, of_track, person, time)
        fresh = usable & (poses.scores >= self.new_score)
        fresh[person] = False
        newcomers = np.flatnonzero(fresh)
        started = _Tracks.of(poses[newcomers], time)
        holder = np.concatenate([person, newcomers])
        place = np.concatenate([of_track, len(tracks) + np.arange(len(newcomers))])
        tracks = self._confirmed(tracks + started, poses, place, holder, at_once=anew)

        ids = np.full(len(poses), UNTRACKED, np.int64)
        ids[holder] = tracks.ids[place]
        patience = np.where(tracks.ids == UNTRACKED, 0, self.max_missed)
        self._tracks = tracks[tracks.missed <= patience]
        return Tracked(poses, ids)

    def _matches(
        self, tracks: _Tracks, poses: Poses, usable: np.ndarray, time: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Indices of tracks and of the people who are theirs."""
        keypoints, boxes = tracks.at(time)
        unseen = time - tracks.seen_at
        lost = (tracks.missed > 0)[:, None]
        wider = np.minimum(_WIDER + _WIDER_EACH_SECOND * unseen, _WIDEST)
        of_track = person = np.zeros(0, np.int64)
        rounds = (
            (np.ones(len(tracks)), usable & (poses.scores >= self.new_score)),
            (wider, usable),
        )
        for widths, allowed in rounds:
            rows = np.setdiff1d(np.arange(len(tracks)), of_track)
            columns = np.setdiff1d(np.flatnonzero(allowed), person)
            if not (len(rows) and len(columns)):
                continue
            similarity = self._similarity(
                keypoints[rows], boxes[rows], poses[columns], widths[rows]
            )
            gain = np.maximum(similarity - _LOST_HANDICAP * lost[rows], 0)
            found = assign(np.where(similarity >= self.min_similarity, gain, 0))
            of_track = np.concatenate([of_track, rows[found[0]]])
            person = np.concatenate([person, columns[found[1]]])
        return of_track, person

    def _similarity(
        self, keypoints: np.ndarray, boxes: np.ndarray, poses: Poses, widths: np.ndarray
    ) -> np.ndarray:
        """(T, P) mean of IoU and OKS, with boxes and areas' sides widened for each track."""
        sides = np.maximum(boxes[:, None, 2:], poses.boxes_xywh[None, :, 2:])
        areas = sides.prod(-1) * widths[:, None] ** 2
        both = (keypoints[:, None, :, 2] >= self.min_joint_score) & (
            poses.keypoints[None, ..., 2] >= self.min_joint_score
        )
        apart = keypoints[:, None, :, :2] - poses.keypoints[None, ..., :2]
        joints = apart.shape[2]
        # Which joints count differs from pair to pair, so each pair is a row of its own.
        close = oks(
            apart.reshape(-1, joints, 2),
            np.zeros((1, joints, 2)),
            areas.reshape(-1),
            poses.skeleton.sigmas,
            both.reshape(-1, joints),
        )
        return (iou(boxes, poses.boxes_xywh, widths) + close.reshape(areas.shape)) / 2

    def _moved_on(
        self, tracks: _Tracks, poses: Poses, of_track: np.ndarray, person: np.ndarray, time: float
    ) -> _Tracks:
        """The tracks with what this frame shows of them."""
        known, found = tracks[of_track], poses[person]
        expected, boxes = known.at(time)
        keypoints = found.keypoints.astype(np.float64)
        passed = (time - known.seen_at)[:, None]
        motion, measurable = self._motion(known, keypoints)
        # A mean of all frames at first, later one in which old frames fade.
        watched = known.watched[:, None] + passed
        gain = np.maximum(passed / watched, 1 - np.exp(-passed / _VELOCITY_SECONDS)) * measurable
        # Joints that are hidden now are expected where they were on the body.
        hidden = keypoints[..., 2] < self.min_joint_score
        expected[..., 2] *= _FADING
        # A box around a part of somebody says little about the whole.
        expected_joints = (expected[..., 2] >= self.min_joint_score) | ~hidden
        shown = (~hidden).sum(1) / np.maximum(expected_joints.sum(1), 1)
        share = (1 - np.exp(-passed / _BOX_SECONDS)) * shown[:, None]
        updates = {
            "keypoints": np.where(hidden[..., None], expected, keypoints),
            "boxes": boxes + share * (found.boxes_xywh - boxes),
            "velocity": known.velocity + gain * (motion / passed - known.velocity),
            "watched": np.where(measurable, watched, known.watched[:, None])[:, 0],
            "seen_at": np.full(len(known), time),
            "hits": known.hits + 1,
            "missed": np.zeros(len(known), np.int64),
        }
        moved = replace(tracks, missed=tracks.missed + 1)
        for name, values in updates.items():
            whole = getattr(moved, name).copy()
            whole[of_track] = values
            moved = replace(moved, **{name: whole})
        return moved

    def _motion(self, known: _Tracks, keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T, 2) pixels that bodies moved, and (T, 1) whether that can be told.

        The median over joints: arms and legs that swing, and single joints found on somebody
        else, do not count.
        """
        both = np.minimum(known.keypoints[..., 2], keypoints[..., 2]) >= self.min_joint_score
        measurable = both.sum(1, keepdims=True) >= _FEWEST_JOINTS
        moves = np.where(both[..., None], keypoints[..., :2] - known.keypoints[..., :2], np.nan)
        moves[~measurable[:, 0]] = 0
        motion = np.nanmedian(moves, axis=1) if len(moves) else np.zeros((0, 2))
        return motion, measurable

    def _confirmed(
        self,
        tracks: _Tracks,
        poses: Poses,
        place: np.ndarray,
        holder: np.ndarray,
        at_once: bool,
    ) -> _Tracks:
        """The tracks with ids for those seen often enough; the surest person gets the first."""
        needed = 1 if at_once else self.confirm_hits
        due = (tracks.ids[place] == UNTRACKED) & (tracks.hits[place] >= needed)
        place, people = place[due], poses[holder[due]]
        x, y = people.boxes_xywh[:, 0], people.boxes_xywh[:, 1]
        order = np.lexsort((y, x, -people.scores))
        ids = tracks.ids.copy()
        ids[place[order]] = self._next_id + np.arange(len(order))
        self._next_id += len(order)
        return replace(tracks, ids=ids)


def iou(boxes_a: np.ndarray, boxes_b: np.ndarray, widths: np.ndarray | float = 1.0) -> np.ndarray:
    """(P, Q) intersection over union of boxes x, y, width, height; 0 for boxes without area.

    Args:
        boxes_a: (P, 4).
        boxes_b: (Q, 4).
        widths: (P,) factors by which the sides of both boxes of a pair are stretched about
            their middles.
    """
    widths = np.broadcast_to(widths, len(boxes_a))[:, None, None]
    corners = []
    for boxes in (boxes_a[:, None], boxes_b[None]):
        middle, half = boxes[..., :2] + boxes[..., 2:] / 2, widths * boxes[..., 2:] / 2
        corners.append((middle - half, middle + half))
    (low_a, high_a), (low_b, high_b) = corners
    common = np.maximum(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0).prod(-1)
    union = (high_a - low_a).prod(-1) + (high_b - low_b).prod(-1) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def assign(gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns in pairs, each at most once, of the greatest sum of gains.

    Shortest augmenting paths with potentials (the Hungarian method; Jonker and Volgenant,
    Computing 38, 1987), O(n²·m). Pairs without gain are left out.

    Args:
        gains: (N, M), 0 or more.

    Returns:
        two (L,) int arrays, by rising row.
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
    worth = gains[rows, columns] > 0
    return rows[worth], columns[worth]


def _augment(
    costs: np.ndarray,
    row: int,
    row_of: np.ndarray,
    row_potential: np.ndarray,
    column_potential: np.ndarray,
) -> None:
    """Finds a column for one more row, along the cheapest path of exchanges (as Dijkstra)."""
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
