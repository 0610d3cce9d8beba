"""Ctrl-C and SIGTERM between two steps, not within one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# One Ctrl-C may arrive twice: from the terminal and from whatever started the process.
_SAME_WISH = 1.0


class StopRequest:
    """A context in which the first signal is only noted; another Ctrl-C later stops at once.

    Further SIGTERMs change nothing: a launcher sends several while the state is being saved.

    Attributes:
        requested: whether a signal has come.
        number: which one; SIGTERM before.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self.number = signal.SIGTERM
        self._since = 0.0

    def __enter__(self) -> StopRequest:
        # Only the main thread may set handlers; elsewhere signals act as they did.
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in self._SIGNALS}
        else:
            self._before = {}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._since = True, now
            self.number = signal.Signals(number)
            # Not print: the signal may have come in the middle of one.
            os.write(2, b"stopping after this step; Ctrl-C once more stops at once\n")
        elif number == signal.SIGINT and now - self._since > _SAME_WISH:
            raise KeyboardInterrupt


@contextmanager
def terminable() -> Iterator[None]:
    """A context in which SIGTERM ends work as Ctrl-C does, so that nothing half done stays.

    Enter it behind what may set handlers of its own, such as the import of Paddle. It does nothing
    outside the main thread, which alone gets signals.
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
