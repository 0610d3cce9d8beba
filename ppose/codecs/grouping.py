"""Bottom-up grouping: assigns joint peaks to people along limbs (SimplePose)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ppose.codecs.fragments import merge_fragments
from ppose.codecs.peaks import Peaks, check_maps, find_peaks
from ppose.config import register
from ppose.config.ranges import Range, Share
from ppose.utils.numba import compiled

# Points along a limb that are tested before all samples are read, in 1/16 of its length.
_PROBES = (4, 8, 12)
# Pairs per array operation: limits memory, and keeps the arrays in the cache.
_PAIRS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Limbs:
    """Connections between pairs of peaks.

    Attributes:
        limb: (C,) int64 index of the limb's map.
        ends: (C, 2) int64 indices of the peaks.
        score: (C,) float64 mean of the map along the limb in 0..1, reduced for long limbs.
        length: (C,) float64 in cells.
    """

    limb: np.ndarray
    ends: np.ndarray
    score: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.limb)

    def __getitem__(self, index: np.ndarray) -> Limbs:
        return Limbs(self.limb[index], self.ends[index], self.score[index], self.length[index])

    @staticmethod
    def concatenate(parts: Sequence[Limbs]) -> Limbs:
        """The limbs of all parts, in order."""
        columns = zip(*((p.limb, p.ends, p.score, p.length) for p in parts), strict=True)
        return Limbs(*(np.concatenate(column) for column in columns))


@register
class Grouping:
    """Assigns peaks to people along the limbs between them.

    Rules and defaults are those published with SimplePose (Li et al., AAAI 2020), with four
    differences: limbs of all types are processed together, by descending score; both ends of a
    limb follow the same rules; joints without a limb are assigned to the nearest person that lacks
    them; and thresholds of people refer to means in 0..1.

    Args:
        joint_threshold: minimum value of a joint's peak, exclusive.
        limb_threshold: a sample of a limb's map supports the limb if it is above this value.
        samples: number of points along a limb where its map is read, including both ends.
        supported: minimum fraction of the samples that must support the limb.
        max_peaks: maximum number of peaks per joint, see `find_peaks`.
        length_ratio: maximum length of a limb relative to the longest limb of the person.
        tolerance: a limb merges two people if its score is at least this fraction of the score of
            their weakest joint.
        min_joints: people with fewer joints are dropped; with 1, a peak without a limb becomes a
            person.
        min_score: minimum mean, over the joints of a person, of the peak and the limb that
            connects it; published as 0.45 for their sum.
        reach: maximum distance of joints without a limb to their person, see `merge_fragments`;
            0 only accepts joints inside its box.
    """

    def __init__(
        self,
        joint_threshold: Share = 0.1,
        limb_threshold: Share = 0.1,
        samples: Annotated[int, Range(least=2, most=1000)] = 20,
        supported: Share = 0.8,
        max_peaks: Annotated[int, Range(least=1, most=10**6)] = 256,
        length_ratio: Annotated[float, Range(above=0, most=1000)] = 16.0,
        tolerance: Share = 0.7,
        min_joints: Annotated[int, Range(least=1, most=1000)] = 2,
        min_score: Share = 0.225,
        reach: Annotated[float, Range(least=0, most=1000)] = 0.5,
    ):
        self.joint_threshold = joint_threshold
        self.limb_threshold = limb_threshold
        self.samples = samples
        self.supported = supported
        self.max_peaks = max_peaks
        self.length_ratio = length_ratio
        self.tolerance = tolerance
        self.min_joints = min_joints
        self.min_score = min_score
        self.reach = reach

    def __call__(
        self, joint_maps: np.ndarray, limb_maps: np.ndarray, limb_index: np.ndarray
    ) -> np.ndarray:
        """The people in the maps of one image.

        Args:
            joint_maps: (J, h, w) float32 or float16, a Gaussian of height 1 around each joint.
            limb_maps: (L, h, w), 1 along each limb, decreasing with the distance to it.
            limb_index: (L, 2) int indices of the joints at both ends of each limb.

        Returns:
            (P, J, 3) float32: x, y in cells (0, 0 is the centre of the first cell) and the height
            of the joint's peak in 0..1; all 0 for a missing joint.

        Raises:
            ValueError: the shapes do not match, or a map has NaN or infinity.
        """
        limb_index = self._checked(joint_maps, limb_maps, limb_index)
        return self.group(self.peaks(joint_maps), limb_maps, limb_index, len(joint_maps))

    def group(
        self, peaks: Peaks, limb_maps: np.ndarray, limb_index: np.ndarray, joints: int
    ) -> np.ndarray:
        """`__call__` from given peaks; `joints` is the number of joint types."""
        return self.people(peaks, self.limbs(peaks, limb_maps, limb_index), limb_index, joints)

    def peaks(self, joint_maps: np.ndarray) -> Peaks:
        """First step: joint candidates, see `find_peaks`."""
        return find_peaks(joint_maps, self.joint_threshold, self.max_peaks)

    def limbs(self, peaks: Peaks, limb_maps: np.ndarray, limb_index: np.ndarray) -> Limbs:
        """Second step: connections; each peak has at most one per limb type."""
        limb_maps = check_maps(limb_maps, "limb")
        first = np.searchsorted(peaks.joint, np.arange(limb_index.max() + 2))
        first, count = first[limb_index], np.diff(first)[limb_index]
        step = max(1, _PAIRS_AT_ONCE // max(1, int(count.prod(1).max())))
        found = []
        for start in range(0, len(limb_index), step):
            part = slice(start, start + step)
            limb, ends = self._candidate_pairs(peaks, limb_maps[part], first[part], count[part])
            limbs = self._score_pairs(peaks, limb_maps, limb + start, ends)
            merit = limbs.score / 2 + peaks.score[limbs.ends].sum(1) / 4
            found.append(match(limbs, merit, len(peaks)))
        return Limbs.concatenate(found)

    def people(self, peaks: Peaks, limbs: Limbs, limb_index: np.ndarray, joints: int) -> np.ndarray:
        """Third step: the result of `__call__`."""
        limbs = limbs[np.argsort(-limbs.score, kind="stable")]
        members, held_by = merge(
            limbs.ends,
            limb_index[limbs.limb],
            limbs.score,
            limbs.length,
            len(peaks),
            joints,
            self.length_ratio,
            self.tolerance,
        )
        lone = np.setdiff1d(np.arange(len(peaks)), members)
        alone = np.full((len(lone), joints), -1)
        alone[np.arange(len(lone)), peaks.joint[lone]] = lone
        members = np.concatenate([members, alone])
        held_by = np.concatenate([held_by, np.zeros(alone.shape)])
        # Index −1 reads the row appended after the last peak.
        height = np.append(peaks.score, np.float32(0))[members]
        xy = np.append(peaks.xy, np.zeros((1, 2), np.float32), 0)[members]
        sure = (height + held_by).sum(1) / 2 >= self.min_score * (members >= 0).sum(1)
        groups = merge_fragments(np.concatenate([xy, height[..., None]], 2)[sure], self.reach)
        count = (groups[..., 2] > 0).sum(1)
        return groups[count >= self.min_joints]

    def _checked(
        self, joint_maps: np.ndarray, limb_maps: np.ndarray, limb_index: np.ndarray
    ) -> np.ndarray:
        limb_index = np.ascontiguousarray(limb_index, np.int64)
        sizes = [joint_maps.shape[1:], limb_maps.shape[1:]]
        if sizes[0] != sizes[1] or len(sizes[0]) != 2 or min(sizes[0]) < 2:
            raise ValueError(
                "expected maps (C, h, w) of joints and of limbs of the same size, at least 2 "
                f"cells each way; found {joint_maps.shape} and {limb_maps.shape}"
            )
        if limb_index.shape != (len(limb_maps), 2) or not len(limb_index):
            raise ValueError(
                f"{len(limb_maps)} limb maps (at least 1) need a limb_index of shape "
                f"({len(limb_maps)}, 2), found {limb_index.shape}"
            )
        if not 0 <= limb_index.min() <= limb_index.max() < len(joint_maps):
            raise ValueError(
                f"limb_index has to be in 0..{len(joint_maps) - 1}, found "
                f"{limb_index.min()}..{limb_index.max()}"
            )
        return limb_index

    def _candidate_pairs(
        self, peaks: Peaks, limb_maps: np.ndarray, first: np.ndarray, count: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of peaks that pass the probes: (C,) limbs and (C, 2) peaks.

        Limbs are padded to the same number of peaks, so that one array holds all of them.

        Args:
            peaks: joint candidates.
            limb_maps: (L, h, w).
            first: (L, 2) index of the first peak of the joints at both ends.
            count: (L, 2) number of peaks of these joints.
        """
        if len(peaks) == 0:
            return np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
        slots = [np.arange(most) for most in count.max(0)]
        present = [slots[i] < count[:, i, None] for i in (0, 1)]
        one, other = (np.where(present[i], first[:, i, None] + slots[i], 0) for i in (0, 1))
        # 24.8 fixed point: rounding to the nearest cell is then an addition and a shift.
        xy = np.rint(peaks.xy.T * 256).astype(np.int32)
        hits = _probe(limb_maps > self.limb_threshold, xy[:, one], xy[:, other])
        # A gap of the allowed length covers one probe, plus one for each quarter of the limb.
        good = hits >= len(_PROBES) - 1 - int((1 - self.supported) * 4)
        good &= present[0][:, :, None] & present[1][:, None, :]
        limb, a, b = np.nonzero(good)
        return limb, np.stack([one[limb, a], other[limb, b]], 1)

    def _score_pairs(
        self, peaks: Peaks, limb_maps: np.ndarray, limb: np.ndarray, ends: np.ndarray
    ) -> Limbs:
        """The pairs that the samples along the limb support, with their scores."""
        one, other = peaks.xy[ends[:, 0]], peaks.xy[ends[:, 1]]
        positions = np.linspace(0, 1, self.samples, dtype=np.float32)
        values = _bilinear(limb_maps, limb, one, other, positions)
        length = np.hypot(*(other - one).T.astype(np.float64))
        # Penalizes limbs longer than half the height of the maps.
        prior = np.minimum(limb_maps.shape[1] / 2 / np.maximum(length, 1) - 1, 0)
        score = values.mean(1, dtype=np.float64) + prior
        support = (values > self.limb_threshold).sum(1)
        kept = (support >= self.supported * self.samples) & (score > 0)
        return Limbs(limb[kept], ends[kept], score[kept], length[kept])


def _probe(supported: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(L, A, B) number of supported probes between ends (2, L, A) and (2, L, B).

    Ends are in 1/256 cells; `supported` is (L, h, w) bool.
    """
    limbs, height, width = supported.shape
    base = (np.arange(limbs) * (height * width))[:, None, None]
    flat = supported.reshape(-1)
    hits = np.zeros((limbs, one.shape[2], other.shape[2]), np.int8)
    for position in _PROBES:
        near, far = one * (16 - position) + (1 << 11), other * position
        x, y = ((a[:, :, None] + b[:, None, :]) >> 12 for a, b in zip(near, far, strict=True))
        y *= width
        y += x
        hits += flat[y + base]
    return hits


def _bilinear(
    maps: np.ndarray, limb: np.ndarray, one: np.ndarray, other: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """(C, S) values of map `limb` at `positions` (0..1) from `one` to `other`, both (C, 2)."""
    _, height, width = maps.shape
    flat = maps.reshape(-1)
    x = one[:, :1] + (other - one)[:, :1] * positions
    y = one[:, 1:] + (other - one)[:, 1:] * positions
    left = np.clip(x.astype(np.int32), 0, width - 2)
    top = np.clip(y.astype(np.int32), 0, height - 2)
    x -= left
    y -= top
    corner = (limb * (height * width))[:, None] + top * width + left
    upper, lower = flat[corner], flat[corner + width]
    upper += (flat[corner + 1] - upper) * x
    lower += (flat[corner + width + 1] - lower) * x
    return upper + (lower - upper) * y


def match(limbs: Limbs, merit: np.ndarray, peaks: int) -> Limbs:
    """Greedy one-to-one matching per limb type: always takes the best remaining pair.

    Works in rounds, which gives the same matching: takes all pairs that are the best pair of both
    of their peaks, and removes the other pairs of these peaks.

    Args:
        limbs: candidates.
        merit: (C,), higher is better; ties go to the first pair.
        peaks: number of peaks that `limbs.ends` refers to.

    Returns:
        the matched pairs, by limb, then by descending merit.
    """
    limbs = limbs[np.lexsort((-merit, limbs.limb))]
    rest = np.arange(len(limbs))
    ends = limbs.ends + limbs.limb[:, None] * peaks
    ends -= ends.min(initial=0)
    chosen = np.zeros(len(limbs), bool)
    best = np.empty((2, ends.max(initial=-1) + 1), np.int64)
    while len(rest):
        one, other = ends[rest].T
        # Assigned from worst to best, so the best one remains.
        best[0, one[::-1]] = best[1, other[::-1]] = rest[::-1]
        first, second = best[0, one], best[1, other]
        chosen[rest[(first == rest) & (second == rest)]] = True
        rest = rest[~(chosen[first] | chosen[second])]
    return limbs[chosen]


@compiled
def merge(
    ends: np.ndarray,
    joints_of: np.ndarray,
    score: np.ndarray,
    length: np.ndarray,
    peaks: int,
    joints: int,
    length_ratio: float,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Joins limbs into people, in the given order.

    Args:
        ends: (C, 2) int64 peaks of each limb, without duplicate pairs.
        joints_of: (C, 2) int64 joints of these peaks.
        score: (C,) float64.
        length: (C,) float64.
        peaks: number of peaks.
        joints: number of joints.
        length_ratio: see `Grouping`.
        tolerance: see `Grouping`.

    Returns:
        (P, joints) int64 peak of each person and joint, −1 for none; and (P, joints) float64
        score of the limb that connects the joint, 0 for none. Each person has at least two joints.
    """
    members = np.full((len(ends), joints), -1, np.int64)
    held_by = np.zeros((len(ends), joints))
    longest = np.zeros(len(ends))
    owner = np.full(peaks, -1, np.int64)
    people = 0
    for c in range(len(ends)):
        a, b = ends[c, 0], ends[c, 1]
        p, q = owner[a], owner[b]
        if p < 0 and q < 0:
            for end in range(2):
                members[people, joints_of[c, end]] = ends[c, end]
                held_by[people, joints_of[c, end]] = score[c]
                owner[ends[c, end]] = people
            # A limb of zero length must not exclude all others.
            longest[people] = max(length[c], 1.0)
            people += 1
        elif p == q:
            for end in range(2):
                joint = joints_of[c, end]
                held_by[p, joint] = max(held_by[p, joint], score[c])
            longest[p] = max(longest[p], length[c])
        elif p < 0 or q < 0:
            end = 0 if p < 0 else 1
            p = max(p, q)
            joint = joints_of[c, end]
            old = members[p, joint]
            # An existing joint has held_by > 0 and is only replaced by a higher score.
            if length[c] < length_ratio * longest[p] and score[c] > held_by[p, joint]:
                if old >= 0:
                    owner[old] = -1
                members[p, joint] = ends[c, end]
                held_by[p, joint] = score[c]
                owner[ends[c, end]] = p
                longest[p] = max(longest[p], length[c])
        else:
            disjoint = True
            weakest = np.inf
            for joint in range(joints):
                if members[p, joint] >= 0 and members[q, joint] >= 0:
                    disjoint = False
                for person in (p, q):
                    if members[person, joint] >= 0:
                        weakest = min(weakest, held_by[person, joint])
            likely = length[c] < length_ratio * max(longest[p], longest[q])
            if disjoint and likely and score[c] >= tolerance * weakest:
                p, q = min(p, q), max(p, q)
                for joint in range(joints):
                    if members[q, joint] >= 0:
                        members[p, joint] = members[q, joint]
                        held_by[p, joint] = held_by[q, joint]
                        owner[members[q, joint]] = p
                        members[q, joint] = -1
                        held_by[q, joint] = 0.0
                longest[p] = max(longest[p], longest[q], length[c])
    alive = np.zeros(people, np.bool_)
    for person in range(people):
        alive[person] = members[person].max() >= 0
    return members[:people][alive], held_by[:people][alive]
