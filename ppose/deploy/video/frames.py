"""`FrameReader`: reads frames of a video file, a stream or a camera in a thread."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import SplitResult, urlsplit
from urllib.request import url2pathname

import cv2
import numpy as np

from ppose.utils.errors import PposeError
from ppose.utils.log import log
from ppose.utils.printable import printable
from ppose.utils.timer import Timer

# FFmpeg logs every damaged packet; `FrameReader` reports errors itself.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_DEFAULT_FPS = 30.0
# A file with a smaller share of its announced frames is incomplete; many formats only estimate
# the number.
_MIN_SHARE = 0.95
# The codec with which FFmpeg opens text files.
_TEXT_FOURCC = cv2.VideoWriter.fourcc(*"ansi")
_POLL_SECONDS = 0.1
_CLOSE_TIMEOUT = 1.0

END, CUT_SHORT, LOST, CLOSED = "end", "cut short", "lost", "closed"


class VideoError(PposeError, ValueError):
    """A video that cannot be read or written; the message has the reason and a fix."""


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        index: from 0, including dropped frames of a live source.
        time: seconds since the first frame, strictly increasing: timestamps of a file, arrival
            times of a live source.
        image: (H, W, 3) uint8 RGB, rotated according to the file's metadata.
    """

    index: int
    time: float
    image: np.ndarray


class FrameReader:
    """Reads frames in a background thread; a context manager that stops the thread.

    Every frame of a file is delivered. A live source (a camera, or a URL of unknown length) drops
    old frames that are not consumed in time. If a live source ends or stalls, it is reopened after
    1, 2, 4, … seconds; each new frame resets the delay.

    Args:
        source: file, URL (rtsp, http, …) or camera number.
        batch_size: frames per batch. The queue holds one batch of a live source, two of a file.
        retries: consecutive attempts to reopen a live source.
        first_wait: seconds before the first attempt.
        longest_wait: maximum seconds between attempts.
        timeout: seconds without a frame after which a URL counts as disconnected.
        timer: receives the time of the stage "reading".

    Attributes:
        name: of the source, for file names; without folder and password.
        title: of the source, for messages; without password.
        file: the path, if the source is a file.
        live: whether frames are dropped and the source is reopened.
        size_wh: of all frames.
        fps: of the source; 30 if unknown.
        frames: number of frames according to the source, or None.
        read: number of frames so far.
        dropped: number of them that were dropped.
        reconnects: how often the source was reopened.
        ending: why there are no more frames: "end" of the file; "cut short", a file with fewer
            frames than announced; "lost", a live source that could not be reopened; "closed" by
            `close`.

    Raises:
        VideoError: no such source, or no frame can be read from it.
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
        timer: Timer | None = None,
    ):
        if batch_size < 1 or retries < 0 or not (0 < first_wait <= longest_wait and timeout > 0):
            raise ValueError(
                "batch_size must be at least 1, retries at least 0, and 0 < first_wait <= "
                f"longest_wait and timeout > 0, found {batch_size}, {retries}, {first_wait}, "
                f"{longest_wait} and {timeout}"
            )
        self.batch_size = batch_size
        self.retries = retries
        self.first_wait = first_wait
        self.longest_wait = longest_wait
        self.timeout = timeout
        self.timer = timer or Timer()
        self._source = _resolve_source(source)
        self.title, self.name = _title_and_name(self._source)
        self.file = self._source if isinstance(self._source, Path) else None

        self._capture = self._open_capture()
        image = self._read_image()
        if image is None:
            raise VideoError(self._read_error())
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if 0.01 <= fps <= 1000 else _DEFAULT_FPS
        self.frames = int(count) if 0 < count < 1e9 else None
        self.live = self.file is None and self.frames is None
        self.size_wh = (image.shape[1], image.shape[0])
        self.read = self.dropped = self.reconnects = 0
        self.ending: str | None = None

        self._queue: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._start = time.monotonic() if self.live else self._timestamp()
        self._last_time = -math.inf
        self._add(image)
        self._thread = threading.Thread(target=self._run, name="frames", daemon=True)
        self._thread.start()

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops reading; queued frames are discarded."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        # A blocked read ends by its own timeout.
        self._thread.join(_CLOSE_TIMEOUT)

    def batches(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[list[Frame]]:
        """Batches of frames in order: `batch_size` frames of a file, new frames of a live source.

        Args:
            stopped: polled several times a second; iteration ends when it returns True.
        """
        while not stopped():
            with self._changed:
                while not (self._batch_ready() or self.ending or stopped()):
                    self._changed.wait(_POLL_SECONDS)
                if stopped():
                    return
                count = min(len(self._queue), self.batch_size)
                batch = [self._queue.popleft() for _ in range(count)]
                self._changed.notify_all()
            if not batch:
                if self._error:
                    raise self._error
                return
            yield batch

    def _batch_ready(self) -> bool:
        return len(self._queue) >= (1 if self.live else self.batch_size)

    def _run(self) -> None:
        ending = CLOSED
        try:
            ending = self._read_until_end()
        except BaseException as error:
            self._error = error
        finally:
            self._capture.release()
            with self._changed:
                self.ending = ending
                self._changed.notify_all()

    def _read_until_end(self) -> str:
        """Reads all frames and returns why the source ended."""
        while not self._closing.is_set():
            image = self._read_image()
            if image is None and self.live:
                image = self._reconnect()
                if image is None and not self._closing.is_set():
                    return LOST
            if image is None:
                break
            self._add(image)
        if self._closing.is_set():
            return CLOSED
        if self.frames and self.read < _MIN_SHARE * self.frames:
            log.warning(
                "%s: ended after %d of about %d frames; the file is damaged or cut short",
                *(self.title, self.read, self.frames),
            )
            return CUT_SHORT
        return END

    def _add(self, image: np.ndarray) -> None:
        if (image.shape[1], image.shape[0]) != self.size_wh:
            # A reopened camera may have another frame size.
            image = cv2.resize(image, self.size_wh, interpolation=cv2.INTER_AREA)
        now = (time.monotonic() if self.live else self._timestamp()) - self._start
        if not now > self._last_time:
            now = self._last_time + 1 / self.fps
        self._last_time = now
        with self._changed:
            if self.live:
                while len(self._queue) >= self.batch_size:
                    self._queue.popleft()
                    self.dropped += 1
            else:
                while len(self._queue) >= 2 * self.batch_size and not self._closing.is_set():
                    self._changed.wait(_POLL_SECONDS)
            self._queue.append(Frame(self.read, now, image))
            self.read += 1
            self._changed.notify_all()

    def _read_image(self) -> np.ndarray | None:
        with self.timer("reading"):
            try:
                given, image = self._capture.read()
            except cv2.error:
                return None
            if not given or image is None or image.size == 0:
                return None
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _timestamp(self) -> float:
        """Timestamp of the last frame in seconds; the frame number without timestamps."""
        return self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000

    def _reconnect(self) -> np.ndarray | None:
        """Reopens a live source; returns its first frame, or None on failure."""
        log.warning("%s: disconnected after %d frames; reconnecting", self.title, self.read)
        self._capture.release()
        wait = self.first_wait
        for attempt in range(1, self.retries + 1):
            if self._closing.wait(wait):
                return None
            self._capture = self._open_capture()
            image = self._read_image()
            if image is not None:
                self.reconnects += 1
                log.info("%s: reconnected", self.title)
                return image
            self._capture.release()
            wait = min(2 * wait, self.longest_wait)
            log.warning("%s: cannot reconnect, attempt %d of %d", self.title, attempt, self.retries)
        return None

    def _open_capture(self) -> cv2.VideoCapture:
        if isinstance(self._source, int):
            with quiet_opencv():
                return cv2.VideoCapture(self._source)
        milliseconds = round(1000 * self.timeout)
        limits = [
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds),
        ]
        with ExitStack() as stack:
            stack.enter_context(quiet_opencv())
            name = str(self._source)
            if self.file:
                name, limits = stack.enter_context(opencv_name(self.file)), []
            capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, limits)
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        if self.file and capture.get(cv2.CAP_PROP_FOURCC) == _TEXT_FOURCC:
            capture.release()
        return capture

    def _read_error(self) -> str:
        if isinstance(self._source, int):
            return (
                f"camera {self._source} gives no image: check that it is connected and not in use, "
                "and that this user may access it; --camera_id=0 is the first camera"
            )
        if self.file is None:
            return f"{self.title}: no frame within {self.timeout:g} s; check the address"
        start = _first_bytes(self.file)
        if not start:
            return f"{self.title}: the file is empty"
        return (
            f"{self.title}: not a video that OpenCV's FFmpeg can read, or damaged or cut short; "
            f"it starts with {start!r}"
        )


@contextmanager
def opencv_name(path: Path) -> Iterator[str]:
    """A context with a name of the file for OpenCV, which takes UTF-8 only."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        pass
    else:
        yield str(path)
        return
    with TemporaryDirectory(prefix="ppose") as folder:
        link = Path(folder, f"video{printable(path.suffix)}")
        link.symlink_to(path.absolute())
        yield str(link)


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Suppresses OpenCV's own messages about files that cannot be opened."""
    logging = cv2.utils.logging
    before = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)


def _resolve_source(source: str | Path | int) -> str | Path | int:
    """Returns a URL as a string, and a file as an absolute path, which is never a URL."""
    if isinstance(source, int):
        if source < 0:
            raise VideoError(f"camera: expected a number of at least 0, found {source}")
        return source
    if isinstance(source, str) and source.startswith("file://"):
        source = url2pathname(_split_url(source).path)
    if isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source):
        return source
    path = Path(source)
    if not path.exists():
        raise VideoError(f"{path}: no such file")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise VideoError(f"{path}: {kind}, not a video file")
    try:
        _first_bytes(path)
    except OSError as error:
        raise VideoError(f"{path}: cannot be read: {error.strerror}") from None
    return path.absolute()


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def _title_and_name(source: str | Path | int) -> tuple[str, str]:
    """Title for messages and name for output files of a source."""
    if isinstance(source, int):
        return f"camera {source}", f"camera{source}"
    if isinstance(source, Path):
        return source.name, source.stem
    parts = _split_url(source)
    host = parts.hostname or ""
    last = Path(parts.path).stem or host
    return f"{parts.scheme}://{host}{parts.path}", re.sub(r"[^\w.-]", "_", last) or "stream"


def _split_url(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # its message may contain the password
        scheme = address.partition("://")[0]
        raise VideoError(
            f"{scheme}://…: not a valid address; IPv6 addresses need brackets, as in "
            "rtsp://[::1]:8554/live"
        ) from None
