"""A process that decodes images: what happens to it does not happen to the service.

`python -m ppose.deploy.service.decoder_process FD MAX_PIXELS SECONDS` serves the connection FD: it
answers the bytes of a file with JSON, and with the pixels if that has a `shape` rather than an
`error`. It prints nothing, and ends with the connection, or when an image takes longer than SECONDS
of processor time.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection

import cv2

from ppose.data.images import ImageError, decode_image

# Beyond what the process has when it starts: the pixels, decoders' copies of them, and files.
_BYTES_PER_PIXEL, _MORE_BYTES = 16, 256_000_000


def main(fd: int, max_pixels: int, seconds: float) -> None:
    """Decodes images until the connection is closed."""
    cv2.setNumThreads(1)
    _limit_memory(_BYTES_PER_PIXEL * max_pixels + _MORE_BYTES)
    with Connection(fd) as connection:
        connection.send_bytes(b"ready")
        while True:
            try:
                data = connection.recv_bytes()
            except EOFError:
                return
            # Its signal ends the process, also within a decoder.
            signal.setitimer(signal.ITIMER_PROF, seconds)
            try:
                image = decode_image(data, max_pixels)
            except ImageError as error:
                answer = {"error": type(error).__name__, "message": str(error)}
                connection.send_bytes(json.dumps(answer).encode())
            else:
                connection.send_bytes(json.dumps({"shape": image.shape}).encode())
                pixels = image.reshape(-1).data
                while pixels:
                    pixels = pixels[os.write(fd, pixels) :]
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory(more: int) -> None:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            now = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux
        return
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    if most == resource.RLIM_INFINITY or now + more < most:
        resource.setrlimit(resource.RLIMIT_AS, (now + more, most))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
