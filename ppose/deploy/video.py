"""Poses of a video, a stream or a camera: found, tracked, smoothed, drawn and written."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np

from ppose.deploy.frames import CLOSED, Frame, FrameReader, VideoError
from ppose.deploy.smoothing import OneEuroSmoother
from ppose.deploy.tracking import UNTRACKED, Tracked, Tracker
from ppose.files import finite, write_json
from ppose.interrupt import StopRequest
from ppose.log import log
from ppose.progress import progress
from ppose.stages import Stages
from ppose.structures import Poses
from ppose.visualize import draw_poses

STOPPED, QUIT, FAILED = "stopped", "window closed", "failed"

_STAGES = ("reading", "detector", "crop", "network", "decode", "tracking", "drawing", "writing")
_ESCAPE, _Q = 27, ord("q")


@dataclass(frozen=True)
class VideoResult:
    """What became of a video.

    Attributes:
        frames: that were gone through.
        dropped: frames of a live source that there was no time for.
        reconnects: how often a live source was opened again.
        seconds: from the first frame to the last.
        ending: why it ended: see `FrameReader.ending`; or "stopped" by a signal, or
            "window closed".
        signal: that stopped it.
        video, poses, about: files that were written; see `run_video`.
        stages: seconds spent on each stage. Reading, drawing and writing go on beside the rest.
    """

    frames: int
    dropped: int
    reconnects: int
    seconds: float
    ending: str
    signal: int | None = None
    video: Path | None = None
    poses: Path | None = None
    about: Path | None = None
    stages: dict[str, float] = field(default_factory=dict)

    def table(self) -> str:
        """Frames a second of each stage by itself, and of the whole."""
        known = [name for name in _STAGES if name in self.stages]
        rows = [*known, *(name for name in self.stages if name not in _STAGES)]
        lines = [f"{'stage':<10} {'ms a frame':>10} {'FPS':>8}"]
        for name, seconds in [*((n, self.stages[n]) for n in rows), ("all", self.seconds)]:
            each = seconds / max(self.frames, 1)
            rate = f"{1 / each:.1f}" if each > 0 else "-"
            lines.append(f"{name:<10} {1000 * each:>10.2f} {rate:>8}")
        return "\n".join(lines)


def run_video(
    source: str | Path | int,
    find: Callable[[Sequence[np.ndarray]], Sequence[Poses]],
    *,
    output_dir: str | Path = "output/video",
    tracker: Tracker | None = None,
    smoother: OneEuroSmoother | None = None,
    batch_size: int = 8,
    draw_threshold: float = 0.3,
    draw_boxes: bool = False,
    save_video: bool = True,
    save_json: bool = True,
    show: bool = False,
    retries: int = 6,
    first_wait: float = 1.0,
    timeout: float = 10.0,
    stages: Stages | None = None,
    quiet: bool = False,
) -> VideoResult:
    """Finds the people of each frame and writes what was found as it goes.

    Into `output_dir`, named as the source:

    - NAME.mp4, the frames with people drawn on them; size and rate of the source, a side of odd
      length one pixel longer. Of a live source a frame stands until the next one, so that it
      plays in real time.
    - NAME.jsonl, a line for each frame: `frame` (index), `time` (seconds) and `people`, each with
      `track_id` (null for people without a track), `box_xywh`, `score`, `keypoints` and, where
      they are smoothed, `raw_keypoints`. A line is on its way to the disk before the next frame is
      drawn, so that a crash loses none.
    - NAME.json, what the other two are about: source, rate, size, joints, and how it ended.

    Ctrl-C, SIGTERM, a stream that is lost and errors leave whole files; a process that is killed
    leaves the lines, but no video: an MP4 has its table of contents at the end.

    Args:
        source: file, URL (rtsp, http, …) or number of a camera.
        find: pictures (H, W, 3) uint8 RGB → people of each.
        output_dir: made if it is not there.
        tracker: who is who; None gives nobody a track.
        smoother: of keypoints; needs a tracker. None smooths nothing.
        batch_size: frames given to `find` at a time. Of a live source it is the most.
        draw_threshold: joints with a lower score are not drawn; the JSON holds all.
        draw_boxes: draw the boxes too.
        save_video, save_json: which files are written.
        show: a window with the drawn frames; q, Esc or closing it ends the run.
        retries, first_wait, timeout: see `FrameReader`.
        stages: of `find`; those of the video are added to it.
        quiet: no progress bar.

    Raises:
        VideoError: the source cannot be read, the video cannot be written, or there can be no
            window. Nothing has been written then.
        ValueError: a smoother without a tracker.
    """
    if smoother and not tracker:
        raise ValueError("a smoother needs a tracker, to know whose joints follow each other")
    stages = stages or Stages()
    window = _Window() if show else None
    with ExitStack() as open_things:
        stop = open_things.enter_context(StopRequest())
        reader = open_things.enter_context(
            FrameReader(
                source,
                batch_size=batch_size,
                retries=retries,
                first_wait=first_wait,
                timeout=timeout,
                stages=stages,
            )
        )
        paths = _paths(Path(output_dir), reader, save_video, save_json)
        run = _Run(reader, paths, draw_threshold, draw_boxes, window, stages)
        open_things.callback(run.close)
        bar = open_things.enter_context(progress(reader.frames, reader.name, "frame", quiet))
        for frames in reader.batches(lambda: stop.requested or run.wants_end()):
            found = find([frame.image for frame in frames])
            for frame, poses in zip(frames, found, strict=True):
                run.add(frame, _followed(frame, poses, tracker, smoother, stages))
            run.catch_up(2 * batch_size)
            bar.update(len(frames))
        run.catch_up()
        run.ending = QUIT if run.quit else STOPPED if stop.requested else reader.ending or CLOSED
    result = run.result(stop.number if run.ending == STOPPED else None)
    log.info("%s", _summary(reader.title, result))
    return result


def _followed(
    frame: Frame,
    poses: Poses,
    tracker: Tracker | None,
    smoother: OneEuroSmoother | None,
    stages: Stages,
) -> Tracked:
    with stages("tracking"):
        tracked = tracker(poses, frame.time) if tracker else Tracked.untracked(poses)
        return smoother(tracked, frame.time) if smoother else tracked


@dataclass(frozen=True)
class _Paths:
    video: Path | None
    poses: Path | None
    about: Path | None


def _paths(folder: Path, reader: FrameReader, save_video: bool, save_json: bool) -> _Paths:
    name = reader.name
    paths = _Paths(
        folder / f"{name}.mp4" if save_video else None,
        folder / f"{name}.jsonl" if save_json else None,
        folder / f"{name}.json" if save_json else None,
    )
    for path in (paths.video, paths.poses, paths.about):
        if reader.file and path and path.exists() and path.samefile(reader.file):
            raise VideoError(
                f"the input {reader.file} would be overwritten; choose another folder with "
                "--output_dir"
            )
    return paths


class _Run:
    """Files and window of a run: lines at once, pictures in a thread, in order.

    Attributes:
        quit: whether the window was closed.
        ending: why the run ended, once it has.
    """

    def __init__(
        self,
        reader: FrameReader,
        paths: _Paths,
        draw_threshold: float,
        draw_boxes: bool,
        window: _Window | None,
        stages: Stages,
    ):
        self.quit = False
        self.ending = FAILED
        self._reader = reader
        self._paths = paths
        self._draw_threshold = draw_threshold
        self._draw_boxes = draw_boxes
        self._window = window
        self._stages = stages
        self._frames = 0
        self._started = time.perf_counter()
        self._seconds = 0.0
        self._skeleton: dict[str, Any] = {}
        self._drawn: deque[Future[np.ndarray]] = deque()
        self._video = _VideoFile(paths.video, reader) if paths.video else None
        self._lines: TextIO | None = None
        if paths.poses:
            paths.poses.parent.mkdir(parents=True, exist_ok=True)
            self._lines = paths.poses.open("w", encoding="utf-8")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="drawing")
        if window:
            window.open(reader.title)

    def add(self, frame: Frame, tracked: Tracked) -> None:
        """The next frame."""
        if not self._skeleton:
            skeleton = tracked.poses.skeleton
            self._skeleton = {"skeleton": skeleton.name, "joints": list(skeleton.joint_names)}
            self._write_about("running")
        if self._lines:
            with self._stages("writing"):
                self._lines.write(json.dumps(finite(_line(frame, tracked))) + "\n")
                self._lines.flush()
        self._frames += 1
        if self._video or self._window:
            self._drawn.append(self._pool.submit(self._draw, frame, tracked))

    def catch_up(self, most: int = 0) -> None:
        """Waits until at most so many frames are yet to be drawn; shows those that are."""
        while len(self._drawn) > (0 if self._window else most):
            image = self._drawn.popleft().result()
            if self._window and not self.quit:
                self._window.show(image)
                self.wants_end()

    def wants_end(self) -> bool:
        """Whether the window was closed, also while no frame arrives."""
        if self._window and not self.quit:
            self.quit = not self._window.goes_on()
        return self.quit

    def close(self) -> None:
        """Ends all files well."""
        try:
            # Where the run failed, what had been found until then is drawn nevertheless.
            self._pool.shutdown(wait=True)
        finally:
            if self._video:
                self._video.close()
            if self._lines:
                self._lines.close()
            if self._window:
                self._window.close()
            self._seconds = time.perf_counter() - self._started
            self._write_about(self.ending)

    def result(self, signal: int | None) -> VideoResult:
        return VideoResult(
            frames=self._frames,
            dropped=self._reader.dropped,
            reconnects=self._reader.reconnects,
            seconds=self._seconds,
            ending=self.ending,
            signal=signal,
            video=self._paths.video,
            poses=self._paths.poses,
            about=self._paths.about,
            stages=dict(self._stages.seconds),
        )

    def _draw(self, frame: Frame, tracked: Tracked) -> np.ndarray:
        with self._stages("drawing"):
            image = draw_poses(
                frame.image,
                tracked.poses,
                min_score=self._draw_threshold,
                draw_boxes=self._draw_boxes,
                track_ids=tracked.track_ids,
            )
        if self._video:
            with self._stages("writing"):
                self._video.add(image, frame.time)
        return image

    def _write_about(self, ending: str) -> None:
        if not self._paths.about:
            return
        reader = self._reader
        about = {
            "source": reader.title,
            "fps": reader.fps,
            "size_wh": reader.size_wh,
            "live": reader.live,
            **self._skeleton,
            "frames": self._frames,
            "dropped": reader.dropped,
            "reconnects": reader.reconnects,
            "ending": ending,
        }
        write_json(self._paths.about, about)


def _line(frame: Frame, tracked: Tracked) -> dict[str, Any]:
    people = tracked.poses.to_dict()["people"]
    for person, (one, track_id) in enumerate(zip(people, tracked.track_ids.tolist(), strict=True)):
        one["track_id"] = None if track_id == UNTRACKED else track_id
        if tracked.raw_keypoints is not None:
            raw = tracked.raw_keypoints[person].astype(np.float64)
            one["raw_keypoints"] = np.round(raw, 3).tolist()
    return {
        "frame": frame.index,
        "time": round(frame.time, 4),
        "box_source": tracked.poses.box_source,
        "people": people,
    }


class _VideoFile:
    """An MP4 at a constant rate.

    Args:
        path: the file.
        like: gives size and rate.

    Raises:
        VideoError: OpenCV cannot write it.
    """

    def __init__(self, path: Path, like: FrameReader):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fps, self._live = like.fps, like.live
        width, height = like.size_wh
        # MPEG-4 has even sizes only; OpenCV would cut the last row or column off.
        self._pad_wh = (width % 2, height % 2)
        size_wh = (width + width % 2, height + height % 2)
        self._writer = cv2.VideoWriter(
            str(path), cv2.VideoWriter.fourcc(*"mp4v"), self._fps, size_wh
        )
        if not self._writer.isOpened():
            raise VideoError(
                f"{path}: OpenCV cannot write this video of {width}x{height} pixels at "
                f"{self._fps:g} FPS; is the folder writable?"
            )
        self._written = 0
        self._last: np.ndarray | None = None

    def add(self, image: np.ndarray, time: float) -> None:
        """The next frame; of a live source the one before stands until its time has come."""
        place = round(time * self._fps)
        if self._live and self._written > place:
            return
        while self._live and self._last is not None and self._written < place:
            self._write(self._last)
        right, bottom = self._pad_wh
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if right or bottom:
            bgr = cv2.copyMakeBorder(bgr, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        self._write(bgr)
        self._last = bgr

    def close(self) -> None:
        self._writer.release()

    def _write(self, bgr: np.ndarray) -> None:
        self._writer.write(bgr)
        self._written += 1


class _Window:
    """A window of OpenCV's.

    Raises:
        VideoError: this OpenCV, or this machine, has none.
    """

    def __init__(self) -> None:
        if re.search(r"^\s*GUI:\s*NONE", cv2.getBuildInformation(), re.MULTILINE):
            raise VideoError(
                "this OpenCV was built without windows: pip uninstall opencv-python-headless, then "
                "pip install opencv-python; or run without a window: --no-show"
            )
        # Qt would end the process.
        if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
            raise VideoError("there is no display to show a window on; run without a window")
        self._title = ""

    def open(self, title: str) -> None:
        self._title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)

    def show(self, image: np.ndarray) -> None:
        cv2.imshow(self._title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def goes_on(self) -> bool:
        """Whether neither q nor Esc was pressed, nor the window closed."""
        key = cv2.waitKey(1) & 0xFF
        open_still = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        return key not in (_Q, _ESCAPE) and open_still

    def close(self) -> None:
        cv2.destroyAllWindows()


def _summary(title: str, result: VideoResult) -> str:
    files = [str(path) for path in (result.video, result.poses, result.about) if path]
    rate = result.frames / result.seconds if result.seconds else 0.0
    text = f"{title}: {result.frames} frames, {rate:.1f} FPS, ended: {result.ending}"
    if result.dropped:
        text += f"; {result.dropped} frames dropped, as there was no time for them"
    if result.reconnects:
        text += f"; opened again {result.reconnects} times"
    return "\n".join([text, *files])
