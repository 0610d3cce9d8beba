"""Frames of a video file, a stream or a camera, read ahead in a thread."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit
from urllib.request import url2pathname

import cv2
import numpy as np

from ppose.errors import PposeError
from ppose.log import log
from ppose.stages import Stages

# FFmpeg reports every damaged packet by itself; what matters is said here.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_USUAL_FPS = 30.0
# Of the frames that a file announces; many formats only estimate the number.
_COMPLETE = 0.95
# What FFmpeg takes a file of letters for.
_TEXT = cv2.VideoWriter.fourcc(*"ansi")
_POLL_SECONDS = 0.1
_PATIENCE_AT_CLOSE = 1.0

END, CUT_SHORT, LOST, CLOSED = "end", "cut short", "lost", "closed"


class VideoError(PposeError, ValueError):
    """A video that cannot be read or written; the message has the reason and what to do."""


@dataclass(frozen=True)
class Frame:
    """One picture of a video.

    Attributes:
        index: from 0; frames of a live source that were dropped count.
        time: seconds since the first frame, always rising: of a file its timestamps, of a live
            source the time of arrival.
        image: (H, W, 3) uint8 RGB, turned upright as the file says.
    """

    index: int
    time: float
    image: np.ndarray


class FrameReader:
    """Reads ahead of whoever takes the frames; a context that ends the reading.

    Of a file no frame is lost. Of a live source, which is a camera or a URL of no known length, old
    frames are dropped when they are not taken in time. A live source that ends or stalls is opened
    again after waits of 1, 2, 4, … seconds; each frame that arrives starts the count anew.

    Args:
        source: file, URL (rtsp, http, …) or number of a camera.
        batch_size: frames taken at a time; twice as many wait of a file, as many of a live source.
        retries: attempts to open a live source again, one after the other, before it is lost.
        first_wait: seconds before the first of them.
        longest_wait: seconds.
        timeout: seconds without a frame after which a URL counts as dropped.
        stages: where the time of "reading" is added.

    Attributes:
        name: of the source, without folder, password or characters that files cannot have.
        title: of the source, for messages; without a password.
        file: where the source is one.
        live: whether frames are dropped and the source is opened again.
        size_wh: of all frames.
        fps: as the source says; 30 if it says nothing.
        frames: how many the source announces, if it does.
        read: frames so far.
        dropped: of them those that nobody took in time.
        reconnects: how often the source was opened again.
        ending: why there are no more frames: "end" of the file; "cut short", a file with fewer
            than it announces; "lost", a live source that did not come back; "closed" by `close`.

    Raises:
        VideoError: there is no such source, or no frame can be read from it.
    """

    def __init__(
        self,
        source: str | Path | int,
        *,
        batch_size: int = 8,
        retries: int = 6,
        first_wait: float = 1.0,
        longest_wait: float = 30.0,
        timeout: float = 10.0,
        stages: Stages | None = None,
    ):
        if batch_size < 1 or retries < 0 or not (0 < first_wait <= longest_wait and timeout > 0):
            raise ValueError(
                "batch_size has to be at least 1, retries at least 0, and 0 < first_wait <= "
                f"longest_wait and timeout > 0, found {batch_size}, {retries}, {first_wait}, "
                f"{longest_wait} and {timeout}"
            )
        self.batch_size = batch_size
        self.retries = retries
        self.first_wait = first_wait
        self.longest_wait = longest_wait
        self.timeout = timeout
        self.stages = stages or Stages()
        self._source = _checked(source)
        self.title, self.name = _names(self._source)
        self.file = self._source if isinstance(self._source, Path) else None

        self._capture = self._opened()
        image = self._image()
        if image is None:
            raise VideoError(self._why_unreadable())
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if 0.01 <= fps <= 1000 else _USUAL_FPS
        self.frames = int(count) if 0 < count < 1e9 else None
        self.live = self.file is None and self.frames is None
        self.size_wh = (image.shape[1], image.shape[0])
        self.read = self.dropped = self.reconnects = 0
        self.ending: str | None = None

        self._waiting: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._start = time.monotonic() if self.live else self._timestamp()
        self._last_time = -math.inf
        self._add(image)
        self._thread = threading.Thread(target=self._work, name="frames", daemon=True)
        self._thread.start()

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the reading; frames that wait are dropped."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        # A read that hangs ends by its timeout; nobody has to wait for it.
        self._thread.join(_PATIENCE_AT_CLOSE)

    def batches(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[list[Frame]]:
        """Frames in order: of a file `batch_size` at a time, of a live source what has arrived.

        Args:
            stopped: asked several times a second; ends the batches when it says yes.
        """
        while not stopped():
            with self._changed:
                while not (self._enough() or self.ending or stopped()):
                    self._changed.wait(_POLL_SECONDS)
                if stopped():
                    return
                count = min(len(self._waiting), self.batch_size)
                batch = [self._waiting.popleft() for _ in range(count)]
                self._changed.notify_all()
            if not batch:
                if self._error:
                    raise self._error
                return
            yield batch

    def _enough(self) -> bool:
        return len(self._waiting) >= (1 if self.live else self.batch_size)

    def _work(self) -> None:
        ending = CLOSED
        try:
            ending = self._read_on()
        except BaseException as error:
            self._error = error
        finally:
            self._capture.release()
            with self._changed:
                self.ending = ending
                self._changed.notify_all()

    def _read_on(self) -> str:
        """Reads to the end and says which one it was."""
        while not self._closing.is_set():
            image = self._image()
            if image is None and self.live:
                image = self._reconnected()
                if image is None and not self._closing.is_set():
                    return LOST
            if image is None:
                break
            self._add(image)
        if self._closing.is_set():
            return CLOSED
        if self.frames and self.read < _COMPLETE * self.frames:
            log.warning(
                "%s: ended after %d of about %d frames; it is damaged or cut short",
                *(self.title, self.read, self.frames),
            )
            return CUT_SHORT
        return END

    def _add(self, image: np.ndarray) -> None:
        if (image.shape[1], image.shape[0]) != self.size_wh:
            # A camera may come back with another format; the output keeps the first one's.
            image = cv2.resize(image, self.size_wh, interpolation=cv2.INTER_AREA)
        now = (time.monotonic() if self.live else self._timestamp()) - self._start
        if not now > self._last_time:
            now = self._last_time + 1 / self.fps
        self._last_time = now
        with self._changed:
            if self.live:
                while len(self._waiting) >= self.batch_size:
                    self._waiting.popleft()
                    self.dropped += 1
            else:
                while len(self._waiting) >= 2 * self.batch_size and not self._closing.is_set():
                    self._changed.wait(_POLL_SECONDS)
            self._waiting.append(Frame(self.read, now, image))
            self.read += 1
            self._changed.notify_all()

    def _image(self) -> np.ndarray | None:
        with self.stages("reading"):
            try:
                given, image = self._capture.read()
            except cv2.error:
                return None
            if not given or image is None or image.size == 0:
                return None
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _timestamp(self) -> float:
        """Seconds of the frame read last; the number of frames where the file has none."""
        return self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000

    def _reconnected(self) -> np.ndarray | None:
        """The first picture of a live source that came back; None if it did not."""
        log.warning("%s: no more frames after %d; trying again", self.title, self.read)
        self._capture.release()
        wait = self.first_wait
        for attempt in range(1, self.retries + 1):
            if self._closing.wait(wait):
                return None
            self._capture = self._opened()
            image = self._image()
            if image is not None:
                self.reconnects += 1
                log.info("%s: back", self.title)
                return image
            self._capture.release()
            wait = min(2 * wait, self.longest_wait)
            log.warning("%s: not back, attempt %d of %d", self.title, attempt, self.retries)
        return None

    def _opened(self) -> cv2.VideoCapture:
        if isinstance(self._source, int):
            with _quiet():
                return cv2.VideoCapture(self._source)
        milliseconds = round(1000 * self.timeout)
        limits = [
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds),
        ]
        with _quiet():
            capture = cv2.VideoCapture(
                str(self._source), cv2.CAP_FFMPEG, [] if self.file else limits
            )
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        if self.file and capture.get(cv2.CAP_PROP_FOURCC) == _TEXT:
            capture.release()
        return capture

    def _why_unreadable(self) -> str:
        if isinstance(self._source, int):
            return (
                f"camera {self._source} gives no picture: is it plugged in, free, and may this "
                "user read it? --camera_id=0 is the first"
            )
        if self.file is None:
            return f"{self.title}: no picture within {self.timeout:g} s; is the address right?"
        start = _first_bytes(self.file)
        if not start:
            return f"{self.title}: the file is empty; fetch it again or remove it"
        return (
            f"{self.title}: not a video that OpenCV's FFmpeg can read, or damaged or cut short; it "
            f"starts with {start!r}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV does not report by itself that a source cannot be opened."""
    logging = cv2.utils.logging
    before = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)


def _checked(source: str | Path | int) -> str | Path | int:
    """A URL stays text; a file becomes an absolute path, in which FFmpeg sees no protocol."""
    if isinstance(source, int):
        if source < 0:
            raise VideoError(f"camera: expected a number from 0 on, found {source}")
        return source
    if isinstance(source, str) and source.startswith("file://"):
        source = url2pathname(_split(source).path)
    if isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source):
        return source
    path = Path(source)
    if not path.exists():
        raise VideoError(f"there is no video {path}")
    if not path.is_file():
        raise VideoError(f"{path} is a folder; give one of the videos in it")
    try:
        _first_bytes(path)
    except OSError as error:
        raise VideoError(f"{path}: cannot be read: {error.strerror}") from None
    return path.absolute()


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def _names(source: str | Path | int) -> tuple[str, str]:
    """Of a source: what messages call it, and what its output is called."""
    if isinstance(source, int):
        return f"camera {source}", f"camera{source}"
    if isinstance(source, Path):
        return source.name, source.stem
    parts = _split(source)
    host = parts.hostname or ""
    last = Path(parts.path).stem or host
    return f"{parts.scheme}://{host}{parts.path}", re.sub(r"[^\w.-]", "_", last) or "stream"


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # its message may hold the password
        scheme = address.partition("://")[0]
        raise VideoError(
            f"{scheme}://…: no valid address; numbers of IPv6 stand in brackets, as in "
            "rtsp://[::1]:8554/live"
        ) from None
