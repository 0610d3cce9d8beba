"""Dynamic batching: a worker thread runs the network on batches of queued images."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from ppose.structures import Poses
from ppose.utils.log import log

EstimateFn = Callable[[Sequence[np.ndarray]], list[Poses]]


class WorkerStoppedError(RuntimeError):
    """The worker thread ended; no more images can be processed."""


class NetworkError(RuntimeError):
    """`estimate` failed on an image; the log has the reason."""


@dataclass(frozen=True)
class InferenceResult:
    """Result for one image.

    Attributes:
        poses: the people.
        waited: seconds in the queue.
        took: seconds of its batch in the network.
    """

    poses: Poses
    waited: float
    took: float


@dataclass
class _QueuedImage:
    image: np.ndarray
    future: Future[InferenceResult] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Runs `estimate` on batches of images in a worker thread. Thread-safe.

    A batch starts when it is full, when no more images are expected, or when its first image has
    waited for `max_wait` seconds. If a batch fails, its images are processed one by one, so that
    only those that cause the failure get an error.

    Args:
        estimate: (H, W, 3) uint8 RGB images of any sizes → one `Poses` each.
        max_batch: maximum number of images per call of `estimate`.
        max_wait: seconds.
        coming: returns the number of images that may be submitted soon.
        on_batch: called with the size of each batch before it runs.
        on_failure: called for each image on which `estimate` failed.

    Attributes:
        seconds_per_image: moving average.
    """

    def __init__(
        self,
        estimate: EstimateFn,
        *,
        max_batch: int,
        max_wait: float,
        coming: Callable[[], int] = lambda: 1,
        on_batch: Callable[[int], None] = lambda size: None,
        on_failure: Callable[[], None] = lambda: None,
    ):
        self.max_batch = max_batch
        self.max_wait = max_wait
        self.seconds_per_image = 0.0
        self._estimate = estimate
        self._coming = coming
        self._on_batch = on_batch
        self._on_failure = on_failure
        self._queue: deque[_QueuedImage] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._ended = False
        self._running_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def start(self) -> None:
        """Starts the worker thread."""
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Stops the thread after all submitted images; waits for it up to `timeout` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether the worker thread can process images."""
        return not self._ended

    @property
    def running(self) -> float:
        """Seconds since the current batch started; 0 between batches."""
        since = self._running_since
        return 0.0 if since is None else time.monotonic() - since

    def submit(self, image: np.ndarray) -> Future[InferenceResult]:
        """Queues an image; cancelling the future removes it from the queue.

        The future may fail with NetworkError or WorkerStoppedError.

        Raises:
            WorkerStoppedError: the worker thread was stopped or ended.
        """
        queued = _QueuedImage(image)
        with self._changed:
            if self._stopping or self._ended:
                raise WorkerStoppedError
            self._queue.append(queued)
            self._changed.notify()
        return queued.future

    def _run(self) -> None:
        try:
            while batch := self._next():
                self._process(batch)
        except BaseException:
            log.exception("the worker thread ended; restart the service")
        finally:
            with self._changed:
                self._ended = True
                remaining, self._queue = self._queue, deque()
            for one in remaining:
                if one.future.set_running_or_notify_cancel():
                    one.future.set_exception(WorkerStoppedError())

    def _next(self) -> list[_QueuedImage]:
        """The next batch; empty when the batcher is stopped."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stopping)
                if not self._queue:
                    return []
                self._gather(self._queue[0].since + self.max_wait)
                size = min(len(self._queue), self.max_batch)
                taken = [self._queue.popleft() for _ in range(size)]
            batch = [one for one in taken if one.future.set_running_or_notify_cancel()]
            if batch:
                return batch

    def _gather(self, deadline: float) -> None:
        while len(self._queue) < self.max_batch and not self._stopping and self._coming() > 0:
            left = deadline - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _process(self, batch: list[_QueuedImage]) -> None:
        try:
            self._run_batch(batch)
        except Exception:
            if len(batch) > 1:
                for one in batch:
                    self._process([one])
                return
            log.exception("the network failed on an image of shape %s", batch[0].image.shape)
            self._on_failure()
            self._fail(batch[0], NetworkError("the network failed on this image"))
        except BaseException:
            for one in batch:
                self._fail(one, WorkerStoppedError())
            raise

    def _run_batch(self, batch: list[_QueuedImage]) -> None:
        self._on_batch(len(batch))
        self._running_since = started = time.monotonic()
        try:
            people = _checked(self._estimate([one.image for one in batch]), len(batch))
        finally:
            self._running_since = None
        took = time.monotonic() - started
        each = took / len(batch)
        average = self.seconds_per_image
        self.seconds_per_image = 0.9 * average + 0.1 * each if average else each
        for one, poses in zip(batch, people, strict=True):
            one.future.set_result(InferenceResult(poses, started - one.since, took))

    @staticmethod
    def _fail(one: _QueuedImage, error: Exception) -> None:
        if not one.future.done():
            one.future.set_exception(error)


def _checked(people: list[Poses], count: int) -> list[Poses]:
    if len(people) != count:
        raise RuntimeError(f"expected {count} results, found {len(people)}")
    if not all(np.isfinite(p.keypoints).all() and np.isfinite(p.scores).all() for p in people):
        raise RuntimeError("keypoints or scores are not finite")
    return people
