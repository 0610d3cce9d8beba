"""Decoding of uploaded images in processes that can be stopped."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from multiprocessing import Pipe

import numpy as np

from ppose.data.image_header import (
    FORMATS,
    DamagedImageError,
    ImageError,
    ImageFormatError,
    ImageTooLargeError,
    read_header,
)
from ppose.deploy.service.errors import RequestError
from ppose.utils.cpu import usable_cores

_MODULE = "ppose.deploy.service.decoder_process"
_START_SECONDS = 60.0
# After a client left. Most images are decoded by then, and a process need not be started.
_GRACE_SECONDS = 0.2
_STATUSES = {
    ImageFormatError: (415, "no_picture"),
    ImageTooLargeError: (413, "too_many_pixels"),
    DamagedImageError: (422, "damaged"),
}
_ERRORS = {error.__name__: error for error in _STATUSES}


def check_header(data: bytes, max_pixels: int) -> int:
    """Number of pixels of an image, read from its header; needs little time.

    Raises:
        RequestError: 413 too many pixels, 415 not a JPEG, PNG, WebP, BMP or TIFF file, 422 a
            damaged header.
    """
    if not data:
        raise RequestError(422, "empty", "the image is empty: received 0 bytes")
    try:
        header = read_header(data, max_pixels)
    except ImageError as error:
        raise _request_error(error) from None
    return header.width * header.height


class Decoders:
    """Processes that decode images, one image each at a time. For the event loop's thread.

    Large images leave one process to the others, so that these need not wait for them.

    Args:
        max_pixels: of an image.
        seconds: of processor time for an image.
    """

    def __init__(self, max_pixels: int, seconds: float):
        self.max_pixels = max_pixels
        self.seconds = seconds
        self._count = max(2, min(4, usable_cores()))
        self._threads = ThreadPoolExecutor(self._count, "decode")
        self._large = asyncio.Semaphore(self._count - 1)
        self._idle: asyncio.LifoQueue[_Decoder] = asyncio.LifoQueue()
        self._all: set[_Decoder] = set()
        self._releases: set[asyncio.Task] = set()
        self._stopped = False

    async def start(self) -> None:
        """Starts the processes; raises RuntimeError if they cannot be started."""
        await asyncio.gather(*(self._add() for _ in range(self._count)))

    def stop(self) -> None:
        """Ends the processes, whatever they do."""
        self._stopped = True
        for decoder in self._all:
            decoder.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def turn(self, pixels: int) -> AbstractAsyncContextManager:
        """A context in which an image may be decoded.

        Args:
            pixels: as returned by `check_header`.
        """
        return self._large if pixels > self.max_pixels // 4 else nullcontext()

    async def decode(self, data: bytes) -> np.ndarray:
        """(H, W, 3) uint8 RGB, see `ppose.data.images.decode_image`.

        Raises:
            RequestError: 413 too large, 422 damaged or missing pixels.
        """
        while not (decoder := await self._idle.get()).alive:
            self._begin_release(decoder)
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, decoder.decode, data)
        try:
            return await asyncio.shield(work)
        except ImageError as error:
            raise _request_error(error) from None
        except (EOFError, OSError):
            raise RequestError(
                413,
                "too_slow",
                f"decoding this image takes more than {self.seconds:g} s, or more memory than "
                "there is for an image, or ends its decoder; save it again, or scale it down",
            ) from None
        finally:
            self._begin_release(decoder, work)

    def _begin_release(self, decoder: _Decoder, *work: asyncio.Future) -> None:
        release = asyncio.ensure_future(self._release(decoder, *work))
        self._releases.add(release)
        release.add_done_callback(self._releases.discard)

    async def _release(self, decoder: _Decoder, *work: asyncio.Future) -> None:
        """Makes the process, or a new one, available when the work ends or took too long."""
        if work:
            await asyncio.wait(work, timeout=_GRACE_SECONDS)
            for one in work:
                one.add_done_callback(lambda done: done.cancelled() or done.exception())
        if decoder.alive and all(one.done() for one in work):
            self._idle.put_nowait(decoder)
            return
        decoder.kill()
        self._all.discard(decoder)
        if not self._stopped:
            await self._add()

    async def _add(self) -> None:
        decoder = _Decoder(self.max_pixels, self.seconds)
        self._all.add(decoder)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, decoder.wait_until_ready)
        if self._stopped:
            decoder.kill()
        else:
            self._idle.put_nowait(decoder)


class _Decoder:
    """A process of `decoder_process` and the connection to it."""

    def __init__(self, max_pixels: int, seconds: float):
        self._connection, theirs = Pipe()
        with theirs:
            numbers = [str(number) for number in (theirs.fileno(), max_pixels, seconds)]
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, *numbers],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    "OPENBLAS_NUM_THREADS": "1",
                },
                # Ctrl-C is for the service, which completes active requests.
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        try:
            if self._connection.poll(_START_SECONDS) and self._connection.recv_bytes() == b"ready":
                return
        except (EOFError, OSError):
            pass
        self.kill()
        raise RuntimeError(f"the process that decodes images did not start: {_MODULE}")

    def decode(self, data: bytes) -> np.ndarray:
        """Raises EOFError or OSError if the process ended, ImageError if it said so."""
        try:
            self._connection.send_bytes(data)
            answer = json.loads(self._connection.recv_bytes())
            if "error" in answer:
                raise _ERRORS[answer["error"]](answer["message"])
            image = np.empty(answer["shape"], np.uint8)
            pixels = image.reshape(-1).data
            while pixels:
                count = os.readv(self._connection.fileno(), [pixels])
                if count == 0:
                    raise EOFError
                pixels = pixels[count:]
        except (EOFError, OSError):
            self.kill()
            raise
        return image

    def kill(self) -> None:
        with suppress(OSError):
            self._process.kill()
        self._process.wait()


def _request_error(error: ImageError) -> RequestError:
    status, code = _STATUSES[type(error)]
    kinds = f"; supported: {', '.join(FORMATS)}" if status == 415 else ""
    return RequestError(status, code, f"the image is {error}{kinds}; send another")
