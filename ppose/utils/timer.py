"""Timer of named stages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class Timer:
    """Accumulates the seconds spent in named stages, from any thread.

    >>> timer = Timer()
    >>> with timer("network"):
    ...     maps = network(pixels)

    Attributes:
        seconds: stage → seconds so far, in the order in which the stages first ended.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """A context whose time is added to the stage, also after an exception."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
