"""Video: identity switches, jitter, lag, memory and FPS on two people who cross each other.

    OMP_NUM_THREADS=2 python benchmarks/video.py [--json FILE] [--output_dir DIR]

Tracker and smoother run on 300 drawn frames with four crossings, with poses from three sources: the
true poses with noise, and with gaps where a person is occluded (no network; also with standing
people, and 20 times in a row), the small bottom-up network, and the small top-down network with
jittered true boxes. Jitter is the mean change of a joint's error from frame to frame, which ignores
true motion. Error is the mean distance from the truth and includes lag. Both are in pixels, over
visible joints.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from report import ROOT, parser, report

import ppose
from ppose.deploy.video.run_video import run_video
from ppose.deploy.video.smoothing import OneEuroSmoother
from ppose.deploy.video.tracking import Tracker, assign
from ppose.inference.estimator import PoseEstimator
from ppose.inference.request import Request
from ppose.metrics.oks import oks
from ppose.structures import Poses
from ppose.structures.skeleton import COCO17
from ppose.synthetic import light as lighting
from ppose.synthetic.body import Body
from ppose.synthetic.canvas import Canvas, Part, label
from ppose.synthetic.figure import SHOWS, Figure, make_figure
from ppose.synthetic.look import Look
from ppose.synthetic.outdoors import outdoors
from ppose.synthetic.postures import Arm, Leg, Pose
from ppose.utils.timer import Timer

FPS, FRAMES, SIZE_WH = 30.0, 300, (480, 270)
LAP_SECONDS, REACH_METRES, STRIDE_METRES = 5.0, 1.6, 1.45


@dataclass(frozen=True)
class Clip:
    """A drawn clip: F frames with two people.

    Attributes:
        images: (F, H, W, 3) uint8 RGB.
        keypoints: (F, 2, 17, 3) float32 x, y, COCO visibility.
        boxes: (F, 2, 4) boxes of the whole figures, including occluded parts.
        shown: (F, 2) visible fraction of each person; the second person is in front.
    """

    images: np.ndarray
    keypoints: np.ndarray
    boxes: np.ndarray
    shown: np.ndarray


def walking(phase: float) -> Pose:
    """A pose of a walking person; a stride is 2π."""
    legs, arms = [], []
    for side in (0, np.pi):
        swing = np.sin(phase + side)
        lifted = np.maximum(np.cos(phase + side), 0)
        legs.append(Leg(24 * swing, 2, 6 + 46 * lifted, 14 * lifted))
        arms.append(Arm(-22 * swing, 7, 12, 18 - 8 * swing))
    return Pose("walk", (arms[0], arms[1]), (legs[0], legs[1]), lean=4)


def draw_clip(frames: int = FRAMES, size_wh: tuple[int, int] = SIZE_WH, seed: int = 3) -> Clip:
    """Two people at different depths on mirrored paths."""
    rng = np.random.default_rng(seed)
    width, height = size_wh
    ground = outdoors(rng, size_wh)
    lamp = lighting.Light.random(rng, ground.sunny)
    who = []
    for share in (0.58, 0.66):
        body = Body(0.98 + 0.05 * rng.normal(), 1.0, 1.0, 0.172, 0.1)
        who.append((share * height / 1.75, body, Look.random(rng)))
    images, keypoints, boxes, shown = [], [], [], []
    for frame in range(frames):
        canvas = Canvas(ground.image)
        placed, drawn = [], []
        for person, (scale, body, look) in enumerate(who):
            side = 1 - 2 * person
            angle = 2 * np.pi * frame / FPS / LAP_SECONDS
            path = REACH_METRES * np.cos(angle) * side
            speed = -np.sin(angle) * side
            walked = REACH_METRES * (angle // np.pi * 2 + 1 - np.cos(angle % np.pi))
            yaw = 90 * np.tanh(6 * speed)
            figure = make_figure(
                body,
                walking(2 * np.pi * walked / STRIDE_METRES + person),
                look,
                yaw,
                3.0,
                (0.0, 0.0, 0.0),
                (0, 0, 0),
            )
            xy = (width / 2 + path * scale, height * (0.86 + 0.07 * person))
            canvas.draw(figure.shapes, xy, scale, person)
            placed.append((xy, scale))
            drawn.append((figure, figure.joints[:, :2] * (scale, -scale) + xy))
        flat, labels = canvas.finish()
        alone = Canvas(ground.image)
        alone.draw(drawn[0][0].shapes, *placed[0], 0)
        area = np.count_nonzero(alone.finish()[1] < len(Part))
        scales = [scale for _, scale in placed]
        brightness = lighting.relief(labels, lighting.roundness(scales, max(scales)), lamp)
        brightness *= lighting.shadows(labels, placed, [], ground.floor, lamp)
        images.append(lighting.expose(flat, brightness, lamp, 0.3, 2.0, rng))
        keypoints.append([_seen(labels, n, f, xy) for n, (f, xy) in enumerate(drawn)])
        boxes.append([_around(f, p) for (f, _), p in zip(drawn, placed, strict=True)])
        shown.append([np.count_nonzero(labels < len(Part)) / area, 1.0])
    return Clip(
        np.array(images),
        np.array(keypoints, np.float32),
        np.array(boxes, np.float32),
        np.array(shown),
    )


def _seen(labels: np.ndarray, person: int, figure: Figure, xy: np.ndarray) -> np.ndarray:
    """(17, 3) joints with COCO visibility, read from the labels of the drawn parts."""
    column, row = np.clip(np.rint(xy).astype(int), 0, np.array(labels.shape[::-1]) - 1).T
    part = labels[row, column].astype(int) - label(person, Part.TORSO)
    own = (part >= 0) & (part < len(Part))
    seen = own & SHOWS[np.arange(17), np.where(own, part, 0)] & ~figure.turned_away
    return np.column_stack([xy, 1 + seen])


def _around(figure: Figure, placed: tuple[tuple[float, float], float]) -> list[float]:
    """The box of a whole figure, including occluded parts."""
    xy, scale = placed
    points = np.concatenate([s.points for s in figure.shapes]) * (scale, -scale) + xy
    low, high = points.min(0), points.max(0)
    return [*low, *(high - low)]


def write_clip(path: Path, clip: Clip, times: int = 1) -> Path:
    """Writes a clip as MP4, repeated `times` times."""
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, clip.images.shape[2:0:-1]
    )
    for _ in range(times):
        for image in clip.images:
            writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


class FrameEstimator:
    """Estimates poses frame by frame, and records the memory of the process.

    Args:
        people: images and their frame numbers in the clip → poses of each.
        frames: number of frames of the clip.

    Attributes:
        rss: resident memory in MB after each batch.
    """

    def __init__(
        self, people: Callable[[Sequence[np.ndarray], list[int]], list[Poses]], frames: int
    ):
        self.people, self.frames = people, frames
        self.rss: list[float] = []
        self._next = 0
        self._process = psutil.Process()

    def __call__(self, images: Sequence[np.ndarray]) -> list[Poses]:
        places = [(self._next + i) % self.frames for i in range(len(images))]
        self._next += len(images)
        found = self.people(images, places)
        self.rss.append(self._process.memory_info().rss / 1e6)
        return found


def noisy_truth(clip: Clip, noise: float = 2.0, seed: int = 0) -> FrameEstimator:
    """The true poses with noise in pixels; people who are occluded by half are missing."""
    rng = np.random.default_rng(seed)

    def people(images: Sequence[np.ndarray], places: list[int]) -> list[Poses]:
        found = []
        for place in places:
            keypoints = clip.keypoints[place].copy()
            keypoints[..., :2] += rng.normal(0, noise, keypoints[..., :2].shape)
            keypoints[..., 2] = np.where(keypoints[..., 2] == 2, 0.9, 0.1)
            boxes = clip.boxes[place] + rng.normal(0, noise, (2, 4))
            poses = Poses(
                keypoints, np.full(2, 0.8, np.float32), boxes.astype(np.float32), "truth", COCO17
            )
            order = rng.permutation(2)
            found.append(poses[order[clip.shown[place][order] >= 0.5]])
        return found

    return FrameEstimator(people, len(clip.images))


def bottom_up(clip: Clip, estimator: PoseEstimator) -> FrameEstimator:
    """Poses of a bottom-up network."""

    def people(images: Sequence[np.ndarray], places: list[int]) -> list[Poses]:
        return list(estimator.run(Request(image) for image in images))

    return FrameEstimator(people, len(clip.images))


def top_down(clip: Clip, estimator: PoseEstimator, seed: int = 1) -> FrameEstimator:
    """Poses of a top-down network in randomly shifted and scaled true boxes."""
    rng = np.random.default_rng(seed)

    def people(images: Sequence[np.ndarray], places: list[int]) -> list[Poses]:
        requests = []
        for image, place in zip(images, places, strict=True):
            boxes = clip.boxes[place].copy()
            boxes[:, :2] += boxes[:, 2:] * rng.normal(0, 0.03, (2, 2))
            boxes[:, 2:] *= np.exp(rng.normal(0, 0.04, (2, 2)))
            requests.append(Request(image, boxes[clip.shown[place] >= 0.5]))
        return list(estimator.run(requests))

    return FrameEstimator(people, len(clip.images))


def evaluate_run(path: Path, clip: Clip) -> dict[str, Any]:
    """Compares the results of a run with the drawn clip.

    Identity switches are those of CLEAR MOT (Bernardin and Stiefelhagen, 2008): a person keeps a
    track as long as their OKS is above 0.5, else the best track is chosen.
    """
    holder: list[int | None] = [None, None]
    switches = covered = 0
    ids: set[int] = set()
    error: dict[str, list[np.ndarray]] = {"raw_keypoints": [], "keypoints": []}
    jitter: dict[str, list[np.ndarray]] = {"raw_keypoints": [], "keypoints": []}
    before: dict[tuple[int, str], np.ndarray] = {}
    with path.open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            truth, boxes = (
                t[line["frame"] % len(clip.images)] for t in (clip.keypoints, clip.boxes)
            )
            people = [p for p in line["people"] if p["track_id"] is not None]
            ids |= {p["track_id"] for p in people}
            found = {name: np.array([p[name] for p in people]).reshape(-1, 17, 3) for name in error}
            similarity = oks(truth, found["raw_keypoints"], boxes[:, 2:].prod(1), COCO17.sigmas)
            similarity = np.where(similarity > 0.5, similarity, 0)
            kept = np.array([[p["track_id"] == h for p in people] for h in holder]).reshape(2, -1)
            now: dict[tuple[int, str], np.ndarray] = {}
            for person, place in zip(*assign(similarity + kept * (similarity > 0)), strict=True):
                covered += 1
                track_id = people[place]["track_id"]
                switches += holder[person] not in (None, track_id)
                holder[person] = track_id
                seen = (truth[person, :, 2] == 2) & (found["raw_keypoints"][place, :, 2] >= 0.2)
                for name in error:
                    off = found[name][place, :, :2] - truth[person, :, :2]
                    now[person, name] = np.where(seen[:, None], off, np.nan)
                    error[name].append(np.linalg.norm(off[seen], axis=-1))
                    if (person, name) in before:
                        change = now[person, name] - before[person, name]
                        jitter[name].append(np.linalg.norm(change, axis=-1))
            before = now
    means = {
        f"{what} {label}": float(np.nanmean(np.concatenate(values[name])))
        for what, values in (("error", error), ("jitter", jitter))
        for label, name in (("raw", "raw_keypoints"), ("smoothed", "keypoints"))
    }
    return {"switches": switches, "ids": len(ids), "tracked": covered, **means}


def row(
    name: str, clip: Clip, video: Path, find: FrameEstimator, timer: Timer, folder: Path
) -> dict[str, Any]:
    """One row of the table: a run from a video file to output files."""
    result = run_video(
        video,
        find,
        output_dir=folder / re.sub(r"\W+", "_", name),
        tracker=Tracker(),
        smoother=OneEuroSmoother(),
        timer=timer,
        quiet=True,
    )
    assert result.poses
    early, late = np.array_split(np.array(find.rss), 4)[1:4:2]
    return {
        "people": name,
        "frames": result.frames,
        **evaluate_run(result.poses, clip),
        "RSS MB, 2nd quarter": float(early.mean()),
        "last quarter": float(late.mean()),
        "FPS": result.frames / result.seconds,
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--output_dir", help="folder to keep videos and JSON")
    args = arguments.parse_args()
    cv2.setNumThreads(1)
    clip = draw_clip()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.output_dir or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        once = write_clip(folder / "clip.mp4", clip)
        often = write_clip(folder / "long.mp4", clip, times=20)
        still = Clip(*(np.repeat(values[:1], FRAMES, axis=0) for values in vars(clip).values()))
        standing = write_clip(folder / "standing.mp4", still)
        networks = {
            name: ppose.load(ROOT / "configs" / f"{name}.yml")
            for name in ("imhn_quickstart", "quickstart")
        }
        rows = [
            row("truth with noise", clip, once, noisy_truth(clip), Timer(), folder),
            row("truth, standing", still, standing, noisy_truth(still), Timer(), folder),
            row("truth, 20 times", clip, often, noisy_truth(clip), Timer(), folder),
        ]
        for name, make in (("imhn_quickstart", bottom_up), ("quickstart", top_down)):
            network = networks[name]
            rows.append(row(name, clip, once, make(clip, network), network.timer, folder))
    report(rows, args.json)


if __name__ == "__main__":
    main()
