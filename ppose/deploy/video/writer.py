"""Writing videos: H.264 with sound by PyAV, or what OpenCV can without it."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ppose.deploy.video.frames import FrameReader, VideoError, opencv_name, quiet_opencv
from ppose.utils.files import write_error
from ppose.utils.log import log

try:
    import av
except ImportError:  # optional: the extra `video`
    av = None

_TICKS = 90_000  # units of time in a second
_LONGEST_GAP = 3600.0  # seconds between two frames; an MP4 has no room for 13 hours
_KEYFRAME_SECONDS = 2.0  # what a killed process loses at most
# In order of preference; the last is what FFmpeg has.
_ENCODERS = ("libx264", "libopenh264", "h264")
# The file grows by fragments that play without an index; the index is added at the end.
_GROWING = {"movflags": "hybrid_fragmented+frag_keyframe+empty_moov+default_base_moof"}
_BT601 = 6  # the matrix by which FFmpeg turns RGB to YUV (ITU-T H.273)
_PLAYABLE_SOUND = {"aac", "mp3", "opus"}  # that browsers play in an MP4; others become AAC
_SOUND_RATE = 48_000
_SOUND_AHEAD = 0.5  # seconds by which sound is written before its frames


def open_writer(path: Path, source: FrameReader) -> VideoWriter:
    """A writer of an MP4 with size, rate and, for a file, times and sound of the source.

    Args:
        path: the file; its folder is created.
        source: a reader.

    Raises:
        VideoError: no encoder can write such a video.
        WriteError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if av is None:
        log.info(
            "%s: browsers may not play it, it gets no sound, and a killed process leaves none: "
            "pip install 'ppose[video]'",
            path.name,
        )
        return _OpenCvWriter(path, source)
    return _AvWriter(path, source)


class VideoWriter(ABC):
    """Writes the frames of a video.

    Args:
        path: the file.
        source: has the frame size and rate.
    """

    def __init__(self, path: Path, source: FrameReader):
        self.path = path
        self._fps, self._live = source.fps, source.live
        width, height = source.size_wh
        # MPEG-4 and H.264 in 4:2:0 require even sizes.
        self._pad_wh = (width % 2, height % 2)
        self._size_wh = (width + width % 2, height + height % 2)
        self._written = 0
        self._last: np.ndarray | None = None

    def add(self, image: np.ndarray, time: float) -> None:
        """Writes the next frame; for a live source repeats the previous one until `time`.

        Args:
            image: (H, W, 3) uint8 RGB.
            time: in seconds.

        Raises:
            VideoError: the encoder refuses it.
            WriteError: there is no room.
        """
        index = round(time * self._fps)
        if self._live and self._written > index:
            return
        while self._live and self._last is not None and self._written < index:
            self._add(self._last, self._written / self._fps)
        right, bottom = self._pad_wh
        if right or bottom:
            image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        self._add(image, self._written / self._fps if self._live else time)
        self._last = image

    def _add(self, image: np.ndarray, time: float) -> None:
        self._write(image, time)
        self._written += 1

    def close(self) -> None:
        """Completes the file and reads it.

        Raises:
            VideoError: not all frames are in the file.
            WriteError: there is no room.
        """
        self._close()
        found = _number_of_frames(self.path)
        if found != self._written:
            size = self.path.stat().st_size if self.path.exists() else 0
            free = shutil.disk_usage(self.path.parent).free
            raise VideoError(
                f"{self.path}: cannot be written: {found} of {self._written} frames can be read "
                f"from its {size:,} bytes; {free:,} bytes are free, and 'ulimit -f' limits files"
            )

    @abstractmethod
    def _write(self, image: np.ndarray, time: float) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...


class _OpenCvWriter(VideoWriter):
    """Has a constant frame rate, and reports no errors until the file is closed."""

    def __init__(self, path: Path, source: FrameReader):
        super().__init__(path, source)
        self._stack = ExitStack()
        name = self._stack.enter_context(opencv_name(path))
        for codec in ("avc1", "mp4v"):  # H.264 where the system brings an encoder
            fourcc = cv2.VideoWriter.fourcc(*codec)
            with quiet_opencv():
                self._writer = cv2.VideoWriter(name, fourcc, self._fps, self._size_wh)
            if self._writer.isOpened():
                return
        self._stack.close()
        width, height = source.size_wh
        raise VideoError(
            f"{path}: OpenCV cannot write a video of {width}x{height} pixels at "
            f"{self._fps:g} FPS; check that the folder is writable"
        )

    def _write(self, image: np.ndarray, time: float) -> None:
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def _close(self) -> None:
        self._writer.release()
        self._stack.close()


class _AvWriter(VideoWriter):
    """H.264 and sound in an MP4 that plays up to its last two seconds if the process is killed."""

    def __init__(self, path: Path, source: FrameReader):
        super().__init__(path, source)
        self._file = _GrowingFile(path)
        self._sound: _Sound | None = None
        self._shift, self._ticks = 0, -1
        try:
            # The file is given, not its name, which need not be UTF-8.
            self._output = av.open(self._file, "w", format="mp4", options=_GROWING)
            self._stream = self._video_stream()
            if source.file:
                self._sound = _Sound.of(source.file, self._output)
        except BaseException:
            self._file.close()
            raise

    def _video_stream(self) -> Any:
        faults = []
        for name in _ENCODERS:
            try:
                av.Codec(name, "w")
                options = {"preset": "veryfast"} if name == "libx264" else {}
                rate = Fraction(self._fps).limit_denominator(1001)
                stream = self._output.add_stream(name, rate=rate, options=options)
            except (av.FFmpegError, ValueError) as error:
                faults.append(f"{name}: {error}")
                continue
            stream.width, stream.height = self._size_wh
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.time_base = Fraction(1, _TICKS)
            context.gop_size = max(round(_KEYFRAME_SECONDS * self._fps), 1)
            context.max_b_frames = 0  # they would begin before the sound
            context.colorspace = context.color_primaries = context.color_trc = _BT601
            return stream
        raise VideoError(f"{self.path}: PyAV has no encoder for H.264: {'; '.join(faults)}")

    def _write(self, image: np.ndarray, time: float) -> None:
        ticks = max(round(time * _TICKS) - self._shift, self._ticks + 1)
        if ticks - self._ticks > _LONGEST_GAP * _TICKS and self._written:
            self._shift += ticks - self._ticks - round(_LONGEST_GAP * _TICKS)
            ticks = self._ticks + round(_LONGEST_GAP * _TICKS)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = ticks, Fraction(1, _TICKS)
        frame.duration = round(_TICKS / self._fps)
        self._ticks = ticks
        self._guarded(self._mux, frame)

    def _mux(self, frame: Any) -> None:
        self._output.mux(self._stream.encode(frame))
        if self._sound:
            self._sound.write_until(self._ticks / _TICKS + _SOUND_AHEAD)

    def _close(self) -> None:
        try:
            if self._file.error is None:
                self._guarded(self._finish)
            else:  # it has been reported; the parts of FFmpeg have to be freed
                with suppress(Exception):
                    self._output.close()
        finally:
            if self._sound:
                self._sound.close()
            self._file.close()

    def _finish(self) -> None:
        if self._written:
            self._output.mux(self._stream.encode(None))
            if self._sound:
                self._sound.write_until(self._ticks / _TICKS + 1 / self._fps)
        self._output.close()

    def _guarded(self, call: Any, *arguments: Any) -> None:
        """Calls what writes to the file; its own error, if it has one, is the reason of others."""
        try:
            call(*arguments)
        except (av.FFmpegError, OSError, ValueError) as error:
            if self._file.error is None:
                raise VideoError(f"{self.path}: the encoder failed: {error}") from error
        if self._file.error is not None:
            raise write_error(self.path, self._file.error, self._file.size) from self._file.error


class _GrowingFile:
    """A file for PyAV that keeps its first error.

    Attributes:
        error: the first error, or None.
        size: bytes written so far.
    """

    def __init__(self, path: Path):
        self.error: OSError | None = None
        self.size = 0
        try:
            self._file = path.open("w+b", buffering=0)
        except OSError as error:
            raise write_error(path, error, 0) from None

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.error = self.error or error
            raise
        finally:
            self.size = max(self.size, self._file.tell())
        return len(data)

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()


class _Sound:
    """The first sound track of a file, copied into an output or recoded to AAC."""

    def __init__(self, file: Any, source: Any, output: Any):
        self._file, self._source, self._output = file, source, output
        track = source.streams.audio[0]
        self._copied = track.codec.canonical_name in _PLAYABLE_SOUND
        if self._copied:
            self._stream = output.add_stream_from_template(track)
        else:
            self._stream = output.add_stream("aac", rate=_SOUND_RATE, layout="stereo")
        video = source.streams.video[0]
        self._start = float((video.start_time or 0) * video.time_base)
        self._packets = self._of(track)
        self._next: Any = None
        self._last_ticks: int | None = None

    @classmethod
    def of(cls, path: Path, output: Any) -> _Sound | None:
        """None for a file without sound."""
        file = path.open("rb")
        source = None
        try:
            source = av.open(file)
            if source.streams.audio:
                return cls(file, source, output)
        except (av.FFmpegError, ValueError, OSError) as error:
            log.warning("%s: its sound is left out: %s", path.name, error)
        if source:
            source.close()
        file.close()
        return None

    def write_until(self, time: float) -> None:
        """Writes what is heard before `time`, in seconds since the first frame."""
        while True:
            if self._next is None:
                self._next = self._read()
            if self._next is None or float(self._next.pts * self._next.time_base) > time:
                return
            packet, self._next = self._next, None
            packet.stream = self._stream
            self._output.mux(packet)

    def close(self) -> None:
        """Closes the source."""
        self._source.close()
        self._file.close()

    def _read(self) -> Any:
        """The next packet, or None at the end and after damage."""
        try:
            return next(self._packets, None)
        except (av.FFmpegError, ValueError, OSError) as error:
            log.warning("the sound ends early, as it is damaged: %s", error)
            self._packets = iter(())
            return None

    def _of(self, track: Any) -> Iterator[Any]:
        """Packets for the output, from the first frame of the video on, in order."""
        packets = self._source.demux(track)
        for packet in packets if self._copied else self._recoded(packets):
            if packet.pts is None:
                continue
            packet.pts -= round(self._start / packet.time_base)
            if packet.pts < 0 or (self._last_ticks is not None and packet.pts <= self._last_ticks):
                continue
            self._last_ticks = packet.dts = packet.pts
            yield packet

    def _recoded(self, packets: Iterator[Any]) -> Iterator[Any]:
        resampler = av.AudioResampler("fltp", "stereo", _SOUND_RATE)
        for packet in packets:
            for frame in packet.decode():
                for resampled in resampler.resample(frame):
                    yield from self._stream.encode(resampled)
        yield from self._stream.encode(None)


def _number_of_frames(path: Path) -> int:
    with opencv_name(path) as name, quiet_opencv():
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
        try:
            return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        finally:
            capture.release()
