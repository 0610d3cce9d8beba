"""One thread that owns the network, and runs pictures that wait together as a batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from ppose.log import log
from ppose.structures import Poses

Find = Callable[[Sequence[np.ndarray]], list[Poses]]


class WorkerEndedError(RuntimeError):
    """The thread of the network ended, so nothing will be found any more."""


class NetworkError(RuntimeError):
    """`find` failed on a picture, which the log explains."""


@dataclass(frozen=True)
class Found:
    """What a picture's turn gave.

    Attributes:
        poses: the people.
        waited: seconds until its batch began.
        took: seconds of its batch.
    """

    poses: Poses
    waited: float
    took: float


@dataclass
class _Waiting:
    image: np.ndarray
    future: Future[Found] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Pictures in, people out, from any thread; `find` only ever runs in the one of the batcher.

    A batch starts when it is full, when nobody else is on the way, or when its first picture has
    waited for `max_wait` seconds. Where a batch fails its pictures are tried one by one, so that
    the others get their answer.

    Args:
        find: (H, W, 3) uint8 RGB pictures of any sizes → one `Poses` each.
        max_batch: pictures for each call of `find`.
        max_wait: seconds.
        coming: how many pictures may soon be submitted.
        on_batch: is told the size of each batch before it runs.
        on_failure: is called for each picture on which `find` failed.
    """

    def __init__(
        self,
        find: Find,
        *,
        max_batch: int,
        max_wait: float,
        coming: Callable[[], int] = lambda: 1,
        on_batch: Callable[[int], None] = lambda size: None,
        on_failure: Callable[[], None] = lambda: None,
    ):
        self.max_batch = max_batch
        self.max_wait = max_wait
        self.pace = 0.0
        self._find = find
        self._coming = coming
        self._on_batch = on_batch
        self._on_failure = on_failure
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._ended = False
        self._running_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Ends the thread once everything submitted is done; waits for it up to `timeout`."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether pictures are still taken."""
        return not self._ended

    @property
    def running(self) -> float:
        """Seconds for which the present batch has been running; 0 between batches."""
        since = self._running_since
        return 0.0 if since is None else time.monotonic() - since

    def submit(self, image: np.ndarray) -> Future[Found]:
        """Queues a picture; a future that is cancelled before its turn frees its place.

        It fails with NetworkError or WorkerEndedError. Raises WorkerEndedError.
        """
        waiting = _Waiting(image)
        with self._changed:
            if self._stopping or self._ended:
                raise WorkerEndedError
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.future

    def _run(self) -> None:
        try:
            while batch := self._next():
                self._answer(batch)
        except BaseException:
            log.exception("the thread of the network ended; restart the service")
        finally:
            with self._changed:
                self._ended = True
                left, self._waiting = self._waiting, deque()
            for one in left:
                if one.future.set_running_or_notify_cancel():
                    one.future.set_exception(WorkerEndedError())

    def _next(self) -> list[_Waiting]:
        """The next batch; empty once there is nothing left to do."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    return []
                self._gather(self._waiting[0].since + self.max_wait)
                size = min(len(self._waiting), self.max_batch)
                taken = [self._waiting.popleft() for _ in range(size)]
            batch = [one for one in taken if one.future.set_running_or_notify_cancel()]
            if batch:
                return batch

    def _gather(self, deadline: float) -> None:
        while len(self._waiting) < self.max_batch and not self._stopping and self._coming() > 0:
            left = deadline - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            self._try(batch)
        except Exception:
            if len(batch) > 1:
                for one in batch:
                    self._answer([one])
                return
            log.exception("the network failed on a picture of shape %s", batch[0].image.shape)
            self._on_failure()
            self._settle(batch[0], NetworkError("the network failed on this picture"))
        except BaseException:
            for one in batch:
                self._settle(one, WorkerEndedError())
            raise

    def _try(self, batch: list[_Waiting]) -> None:
        self._on_batch(len(batch))
        self._running_since = started = time.monotonic()
        try:
            people = _checked(self._find([one.image for one in batch]), len(batch))
        finally:
            self._running_since = None
        took = time.monotonic() - started
        each = took / len(batch)
        self.pace = 0.9 * self.pace + 0.1 * each if self.pace else each
        for one, poses in zip(batch, people, strict=True):
            one.future.set_result(Found(poses, started - one.since, took))

    @staticmethod
    def _settle(one: _Waiting, error: Exception) -> None:
        if not one.future.done():
            one.future.set_exception(error)


def _checked(people: list[Poses], count: int) -> list[Poses]:
    if len(people) != count:
        raise RuntimeError(f"{count} pictures gave {len(people)} results")
    if not all(np.isfinite(p.keypoints).all() and np.isfinite(p.scores).all() for p in people):
        raise RuntimeError("keypoints or scores are not finite")
    return people
