"""`run_video`: estimates, tracks, smooths, draws and writes the poses of a video."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ppose.deploy.video.frames import CLOSED, Frame, FrameReader, VideoError
from ppose.deploy.video.scenes import SceneDetector
from ppose.deploy.video.smoothing import OneEuroSmoother
from ppose.deploy.video.tracking import UNTRACKED, TrackedPoses, Tracker
from ppose.deploy.video.writer import open_writer
from ppose.structures import Poses
from ppose.utils.errors import PposeError
from ppose.utils.files import RecordFile, file_name, finite, write_json
from ppose.utils.interrupt import StopRequest
from ppose.utils.log import log
from ppose.utils.progress import progress
from ppose.utils.timer import Timer

STOPPED, QUIT, FAILED = "stopped", "window closed", "failed"

_STAGES = ("reading", "detector", "crop", "network", "decode", "tracking", "drawing", "writing")
_ESCAPE, _Q = 27, ord("q")


@dataclass(frozen=True)
class VideoResult:
    """Result of `run_video`.

    Attributes:
        frames: number of processed frames.
        dropped: number of dropped frames of a live source.
        reconnects: how often a live source was reopened.
        seconds: duration of the run.
        ending: why it ended: see `FrameReader.ending`; or "stopped" by a signal, or
            "window closed".
        signal: number of the signal that stopped it.
        video, poses, metadata: written files; see `run_video`.
        stages: seconds spent in each stage. Reading, drawing and writing run in parallel to the
            other stages.
    """

    frames: int
    dropped: int
    reconnects: int
    seconds: float
    ending: str
    signal: int | None = None
    video: Path | None = None
    poses: Path | None = None
    metadata: Path | None = None
    stages: dict[str, float] = field(default_factory=dict)

    def table(self) -> str:
        """Table with the time per frame and the frame rate of each stage and of the whole run."""
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
    estimate: Callable[[Sequence[np.ndarray]], Sequence[Poses]],
    *,
    output_dir: str | Path = "output/video",
    tracker: Tracker | None = None,
    smoother: OneEuroSmoother | None = None,
    batch_size: int = 8,
    draw_threshold: float = 0.3,
    save_video: bool = True,
    show: bool = False,
    retries: int = 6,
    first_wait: float = 1.0,
    timeout: float = 10.0,
    timer: Timer | None = None,
    quiet: bool = False,
) -> VideoResult:
    """Estimates the poses of each frame and writes the results continuously.

    Files in `output_dir`, named after the source:

    - NAME.mp4: the frames with people drawn on them, with size, times and sound of the source;
      sides of odd length are one pixel longer. Frames of a live source are repeated, so that the
      video plays in real time. Without PyAV it has no sound and a constant rate.
    - NAME.jsonl: a line for each frame: `frame` (index), `time` (seconds) and `people`, each with
      `track_id` (null without a track), `box_xywh`, `score`, `keypoints` and, if smoothing is on,
      `raw_keypoints`. Each line is flushed before the frame is drawn, so that a crash loses none.
    - NAME.json: metadata: source, rate, size, joints, and how the run ended.

    After Ctrl-C, SIGTERM, a lost stream or an error all files are complete. A killed process leaves
    the lines and, written by PyAV, a video without its last seconds.

    Args:
        source: file, URL (rtsp, http, …) or camera number.
        estimate: images (H, W, 3) uint8 RGB → poses of each, such as a `PosePipeline`.
        output_dir: created if it does not exist.
        tracker: None for no track ids.
        smoother: smooths keypoints, requires a tracker; None for no smoothing.
        batch_size: frames per call of `estimate`; for a live source the maximum.
        draw_threshold: joints with lower scores are not drawn; the JSON contains all joints.
        save_video: write NAME.mp4.
        show: show the drawn frames in a window; q, Esc or closing it ends the run.
        retries, first_wait, timeout: see `FrameReader`.
        timer: timer of `estimate`; the stages of the video are added to it.
        quiet: no progress bar.

    Raises:
        VideoError: the source cannot be read, or no window can be opened: no file has been written
            in this case. Or the video cannot be written; the lines so far are kept.
        WriteError: there is no room for a file; the lines so far are kept.
        ValueError: a smoother without a tracker.
    """
    if smoother and not tracker:
        raise ValueError("a smoother needs a tracker")
    timer = timer or Timer()
    window = _Window() if show else None
    scenes = SceneDetector()
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        reader = stack.enter_context(
            FrameReader(
                source,
                batch_size=batch_size,
                retries=retries,
                first_wait=first_wait,
                timeout=timeout,
                timer=timer,
            )
        )
        paths = _output_paths(Path(output_dir), reader, save_video)
        outputs = _Outputs(reader, paths, draw_threshold, window, timer)
        stack.push(outputs)
        bar = stack.enter_context(progress(reader.frames, reader.name, "frame", quiet))
        for frames in reader.batches(lambda: stop.requested or outputs.quit_requested()):
            results = estimate([frame.image for frame in frames])
            for frame, poses in zip(frames, results, strict=True):
                outputs.add(frame, _track(frame, poses, scenes, tracker, smoother, timer))
            outputs.finish_drawing(2 * batch_size)
            bar.update(len(frames))
        outputs.finish_drawing()
        outputs.ending = (
            QUIT if outputs.quit else STOPPED if stop.requested else reader.ending or CLOSED
        )
    result = outputs.result(stop.number if outputs.ending == STOPPED else None)
    log.info("%s", _summary(reader.title, result))
    return result


def _track(
    frame: Frame,
    poses: Poses,
    scenes: SceneDetector,
    tracker: Tracker | None,
    smoother: OneEuroSmoother | None,
    timer: Timer,
) -> TrackedPoses:
    with timer("tracking"):
        if not tracker:
            return TrackedPoses.untracked(poses)
        tracked = tracker(poses, frame.time, scenes(frame.image, frame.time))
        return smoother(tracked, frame.time) if smoother else tracked


@dataclass(frozen=True)
class _OutputPaths:
    video: Path | None
    poses: Path
    metadata: Path


def _output_paths(folder: Path, reader: FrameReader, save_video: bool) -> _OutputPaths:
    name = reader.name
    paths = _OutputPaths(
        folder / file_name(name, ".mp4") if save_video else None,
        folder / file_name(name, ".jsonl"),
        folder / file_name(name, ".json"),
    )
    for path in (paths.video, paths.poses, paths.metadata):
        if reader.file and path and path.exists() and path.samefile(reader.file):
            raise VideoError(
                f"the input {reader.file} would be overwritten; choose another --output_dir"
            )
    return paths


class _Outputs:
    """Output files and window of a run. Frames are drawn in a thread, in order.

    Attributes:
        quit: whether the user closed the window.
        ending: why the run ended.
    """

    def __init__(
        self,
        reader: FrameReader,
        paths: _OutputPaths,
        draw_threshold: float,
        window: _Window | None,
        timer: Timer,
    ):
        self.quit = False
        self.ending = FAILED
        self._reader = reader
        self._paths = paths
        self._draw_threshold = draw_threshold
        self._window = window
        self._timer = timer
        self._frames = 0
        self._started = time.perf_counter()
        self._seconds = 0.0
        self._skeleton: dict[str, Any] = {}
        self._pending: deque[Future[np.ndarray]] = deque()
        self._video = open_writer(paths.video, reader) if paths.video else None
        self._lines = RecordFile(paths.poses)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="drawing")
        if window:
            window.open(reader.title)

    def add(self, frame: Frame, tracked: TrackedPoses) -> None:
        """Writes the line of the next frame and queues it for drawing."""
        if not self._skeleton:
            skeleton = tracked.poses.skeleton
            self._skeleton = {"skeleton": skeleton.name, "joints": list(skeleton.joint_names)}
            self._write_metadata("running")
        with self._timer("writing"):
            self._lines.add(json.dumps(finite(_json_line(frame, tracked))) + "\n")
        self._frames += 1
        if self._video or self._window:
            self._pending.append(self._pool.submit(self._draw, frame, tracked))

    def finish_drawing(self, most: int = 0) -> None:
        """Waits until at most `most` frames are queued for drawing; shows drawn frames."""
        while len(self._pending) > (0 if self._window else most):
            image = self._pending.popleft().result()
            if self._window and not self.quit:
                self._window.show(image)
                self.quit_requested()

    def quit_requested(self) -> bool:
        """Whether the window was closed; handles window events."""
        if self._window and not self.quit:
            self.quit = not self._window.is_open()
        return self.quit

    def __enter__(self) -> _Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        """Closes all files and the window; an error of that follows from an earlier one."""
        try:
            self._close()
        except (PposeError, OSError):
            if error is None:
                raise

    def _close(self) -> None:
        try:
            try:
                # After an error, the queued frames are still drawn.
                self._pool.shutdown(wait=True)
            finally:
                if self._video:
                    self._video.close()
        except BaseException:
            self.ending = FAILED
            with suppress(OSError):  # of the same full disk
                self._finish()
            raise
        self._finish()

    def _finish(self) -> None:
        self._lines.close()
        if self._window:
            self._window.close()
        self._seconds = time.perf_counter() - self._started
        self._write_metadata(self.ending)

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
            metadata=self._paths.metadata,
            stages=dict(self._timer.seconds),
        )

    def _draw(self, frame: Frame, tracked: TrackedPoses) -> np.ndarray:
        with self._timer("drawing"):
            image = tracked.poses.draw(
                frame.image, min_score=self._draw_threshold, track_ids=tracked.track_ids
            )
        if self._video:
            with self._timer("writing"):
                self._video.add(image, frame.time)
        return image

    def _write_metadata(self, ending: str) -> None:
        reader = self._reader
        metadata = {
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
        write_json(self._paths.metadata, metadata)


def _json_line(frame: Frame, tracked: TrackedPoses) -> dict[str, Any]:
    people = tracked.poses.to_dict()["people"]
    for i, (person, track_id) in enumerate(zip(people, tracked.track_ids.tolist(), strict=True)):
        person["track_id"] = None if track_id == UNTRACKED else track_id
        if tracked.raw_keypoints is not None:
            raw = tracked.raw_keypoints[i].astype(np.float64)
            person["raw_keypoints"] = np.round(raw, 3).tolist()
    return {
        "frame": frame.index,
        "time": round(frame.time, 4),
        "box_source": tracked.poses.box_source,
        "people": people,
    }


class _Window:
    """An OpenCV window.

    Raises:
        VideoError: OpenCV was built without GUI, or there is no display.
    """

    def __init__(self) -> None:
        if re.search(r"^\s*GUI:\s*NONE", cv2.getBuildInformation(), re.MULTILINE):
            raise VideoError(
                "this OpenCV was built without GUI: pip uninstall opencv-python-headless, then "
                "pip install opencv-python; or run with --no-show"
            )
        # Qt would abort the process.
        if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
            raise VideoError("no display for the window; run with --no-show")
        self._title = ""

    def open(self, title: str) -> None:
        self._title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)

    def show(self, image: np.ndarray) -> None:
        cv2.imshow(self._title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def is_open(self) -> bool:
        """Whether the window is open and neither q nor Esc was pressed."""
        key = cv2.waitKey(1) & 0xFF
        visible = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        return key not in (_Q, _ESCAPE) and visible

    def close(self) -> None:
        cv2.destroyAllWindows()


def _summary(title: str, result: VideoResult) -> str:
    files = [str(path) for path in (result.video, result.poses, result.metadata) if path]
    rate = result.frames / result.seconds if result.seconds else 0.0
    text = f"{title}: {result.frames} frames, {rate:.1f} FPS, ended: {result.ending}"
    if result.dropped:
        text += f"; {result.dropped} frames dropped"
    if result.reconnects:
        text += f"; reconnected {result.reconnects} times"
    return "\n".join([text, *files])
