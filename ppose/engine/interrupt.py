"""Ctrl-C and SIGTERM between two steps, not within one."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopRequest:
    """A context in which the first signal is only noted; a second one stops at once.

    Attributes:
        requested: whether a signal has come.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False

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
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("stopping after this step; once more stops at once", flush=True)
