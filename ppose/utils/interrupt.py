"""Handling of Ctrl-C and SIGTERM: finish the current step, then stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Seconds. One Ctrl-C may arrive twice: from the terminal and from the parent process.
_DUPLICATE_SECONDS = 1.0


class StopRequest:
    """A context that records the first SIGINT or SIGTERM; a second Ctrl-C stops at once.

    Further SIGTERMs are ignored, as a launcher sends several while the state is being saved.

    Attributes:
        requested: whether a signal has arrived.
        number: the signal that arrived first; SIGTERM before one does.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self.number = signal.SIGTERM
        self._since = 0.0

    def __enter__(self) -> StopRequest:
        # Only the main thread may set handlers.
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in self._SIGNALS}
        else:
            self._before = {}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._since = True, now
            self.number = signal.Signals(number)
            # Not print(): the signal may have interrupted one.
            os.write(2, b"stopping after this step; press Ctrl-C again to stop at once\n")
        elif number == signal.SIGINT and now - self._since > _DUPLICATE_SECONDS:
            raise KeyboardInterrupt


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """A context in which SIGTERM raises KeyboardInterrupt, so that cleanup code runs.

    Enter it after code that sets its own handlers, such as the import of Paddle. It has no effect
    outside the main thread, the only one that receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
