"""`Service`: handles a pose request, from the upload to the network and the response."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Literal

import anyio
import numpy as np
from starlette.requests import Request

from ppose.deploy.service.batching import (
    Batcher,
    EstimateFn,
    InferenceResult,
    NetworkError,
    WorkerStoppedError,
)
from ppose.deploy.service.decoding import Decoders, check_header
from ppose.deploy.service.errors import CLIENT_CLOSED_REQUEST, RequestError
from ppose.deploy.service.limits import Limits
from ppose.deploy.service.prometheus import ServiceMetrics
from ppose.deploy.service.schemas import PoseQuery
from ppose.deploy.service.uploads import Uploads
from ppose.structures import Poses
from ppose.structures.skeleton import Skeleton

Status = Literal["ready", "overloaded", "draining", "stuck", "failed"]


class Service:
    """State shared by the routes; to be used in the event loop's thread.

    Args:
        estimate, skeleton, limits: see `make_app`.

    Attributes:
        uploads: uploads in progress.
        metrics: Prometheus metrics.
    """

    def __init__(self, estimate: EstimateFn, skeleton: Skeleton, limits: Limits):
        self.skeleton = skeleton
        self.limits = limits
        self.uploads = Uploads(limits.max_uploads)
        self.metrics = ServiceMetrics(
            lambda: self.queue, lambda: len(self.uploads), limits.max_batch
        )
        # In the order of their arrival; the values are when they arrived.
        self._queued: dict[object, float] = {}
        self._submitted = 0
        self._draining = False
        self._batcher = Batcher(
            estimate,
            max_batch=limits.max_batch,
            max_wait=limits.max_wait_ms / 1e3,
            coming=lambda: self.queue + len(self.uploads) - self._submitted,
            on_batch=self.metrics.batches.observe,
            on_failure=self.metrics.failures.inc,
        )
        self._decoders = Decoders(limits.max_pixels, limits.decode_timeout)
        # One batch in the network, and one of decoded images that waits for it.
        self._decoded = anyio.Semaphore(2 * limits.max_batch)

    async def start(self) -> None:
        """Starts the decoders and the worker thread.

        Raises:
            NetworkError: the network fails on a grey image.
            RuntimeError: a decoder cannot be started.
        """
        await self._decoders.start()
        self._batcher.start()
        await asyncio.wrap_future(self._batcher.submit(np.full((256, 192, 3), 128, np.uint8)))

    def drain(self) -> None:
        """Rejects new requests; active requests are completed."""
        self._draining = True

    async def stop(self) -> None:
        """Stops decoders and threads; does not wait for a batch that hangs."""
        self.drain()
        self._decoders.stop()
        await asyncio.to_thread(self._batcher.stop, 5.0)

    @property
    def queue(self) -> int:
        """Number of requests whose image has arrived."""
        return len(self._queued)

    @property
    def status(self) -> Status:
        """See `Health`."""
        if self._draining:
            return "draining"
        if not self._batcher.alive:
            return "failed"
        if self._batcher.running > 2 * self.limits.timeout:
            return "stuck"
        waited = time.monotonic() - next(iter(self._queued.values()), math.inf)
        full = self.queue >= self.limits.max_queue
        return "overloaded" if full or waited > self.limits.timeout / 2 else "ready"

    async def estimate_poses(self, request: Request, query: PoseQuery) -> dict[str, Any]:
        """Returns a `PoseResponse` as a dictionary, or raises RequestError."""
        clock = _Stopwatch()
        if self._draining:
            raise RequestError(503, "draining", "the service is shutting down", retry_after=5)
        self._check_queue()
        data = await self.uploads.read(request, self.limits)
        clock.lap("upload")
        with self._queue_place():
            size_wh, result = await self._with_timeout(request, self._infer(data, clock), clock)
        clock.laps |= {"wait": result.waited, "network": result.took}
        poses = _filter(result.poses, query)
        seconds = {**clock.laps, "total": clock.total()}
        self.metrics.record(seconds, len(poses))
        return {
            **poses.to_dict(),
            "skeleton": self.skeleton.name,
            "size_wh": size_wh,
            "seconds": {name: round(value, 6) for name, value in seconds.items()},
        }

    @contextmanager
    def _queue_place(self) -> Iterator[None]:
        """Occupies a place in the queue within the context."""
        self._check_queue()
        place = object()
        self._queued[place] = time.monotonic()
        try:
            yield
        finally:
            del self._queued[place]

    def _check_queue(self) -> None:
        """Raises RequestError if there is no place in the queue."""
        if not self._batcher.alive:
            raise _worker_failed()
        if self.queue >= self.limits.max_queue:
            seconds = max(1, math.ceil(self.queue * self._batcher.seconds_per_image))
            raise RequestError(
                429,
                "queue_full",
                f"all {self.limits.max_queue} places are taken; try again in {seconds} s",
                retry_after=seconds,
            )

    async def _with_timeout(self, request: Request, inference: Any, clock: _Stopwatch) -> Any:
        """Awaits `inference`; RequestError on timeout or if the client disconnects."""
        work = asyncio.ensure_future(inference)
        gone = asyncio.ensure_future(_wait_for_disconnect(request))
        try:
            remaining = self.limits.timeout - clock.total()
            done, _ = await asyncio.wait(
                {work, gone}, timeout=remaining, return_when=asyncio.FIRST_COMPLETED
            )
            if work in done:
                return work.result()
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        if gone in done:
            raise RequestError(CLIENT_CLOSED_REQUEST, "gone", "the client disconnected")
        raise RequestError(
            503,
            "timeout",
            f"no result within {self.limits.timeout:g} s; the service is overloaded",
            retry_after=max(1, math.ceil(self.queue * self._batcher.seconds_per_image)),
        )

    async def _infer(self, data: bytes, clock: _Stopwatch) -> tuple[list[int], InferenceResult]:
        """Width and height of the image, and the people in it."""
        # Checked before queueing, so that invalid images are rejected immediately.
        pixels = check_header(data, self.limits.max_pixels)
        async with AsyncExitStack() as held:
            async with self._decoders.turn(pixels):
                await held.enter_async_context(self._decoded)
                image = await self._decoders.decode(data)
            clock.lap("decode")
            self._submitted += 1
            try:
                result = await asyncio.wrap_future(self._batcher.submit(image))
            except WorkerStoppedError:
                raise _worker_failed() from None
            except NetworkError as error:
                raise RequestError(500, "network", f"{error}; see the service's log") from None
            finally:
                self._submitted -= 1
        return [image.shape[1], image.shape[0]], result


class _Stopwatch:
    """Measures total time and laps in seconds."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._start = self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now

    def total(self) -> float:
        return time.monotonic() - self._start


def _worker_failed() -> RequestError:
    return RequestError(503, "failed", "the worker thread ended; restart the service")


async def _wait_for_disconnect(request: Request) -> None:
    """Returns when the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _filter(poses: Poses, query: PoseQuery) -> Poses:
    poses = poses[poses.scores >= query.min_score]
    if query.max_people is None or len(poses) <= query.max_people:
        return poses
    best = np.argsort(-poses.scores, kind="stable")[: query.max_people]
    return poses[np.sort(best)]
