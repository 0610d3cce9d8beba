"""What happens to a request for poses: a place, the upload, decoding, a turn of the network."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

import anyio
import numpy as np
from starlette.requests import Request

from ppose.cpu import usable_cores
from ppose.deploy.service.answers import Choice
from ppose.deploy.service.batching import Batcher, Find, Found, NetworkError, WorkerEndedError
from ppose.deploy.service.limits import Limits
from ppose.deploy.service.metrics import Metrics
from ppose.deploy.service.pictures import check_header, decode
from ppose.deploy.service.refusals import GONE, RefusedError
from ppose.deploy.service.uploads import read_upload
from ppose.skeleton import Skeleton
from ppose.structures import Poses

Status = Literal["ready", "draining", "stuck", "failed"]


class Service:
    """What the routes share; for the thread of the event loop.

    Args:
        find, skeleton, limits: as of `make_app`.

    Attributes:
        queue: requests under way.
        metrics: what it counted.
    """

    def __init__(self, find: Find, skeleton: Skeleton, limits: Limits):
        self.skeleton = skeleton
        self.limits = limits
        self.queue = 0
        self.metrics = Metrics(lambda: self.queue, limits.max_batch)
        self._submitted = 0
        self._draining = False
        self._batcher = Batcher(
            find,
            max_batch=limits.max_batch,
            max_wait=limits.max_wait_ms / 1e3,
            coming=lambda: self.queue - self._submitted,
            on_batch=self.metrics.batches.observe,
            on_failure=self.metrics.failures.inc,
        )
        self._pool = ThreadPoolExecutor(min(4, usable_cores()), "decode")
        # A batch in the network, and one whose pictures are ready for it.
        self._decoded = anyio.Semaphore(2 * limits.max_batch)

    async def start(self) -> None:
        """Starts the network's thread; raises NetworkError if it fails on a grey picture."""
        self._batcher.start()
        await asyncio.wrap_future(self._batcher.submit(np.full((256, 192, 3), 128, np.uint8)))

    def drain(self) -> None:
        """From now on requests are refused; those under way are finished."""
        self._draining = True

    async def stop(self) -> None:
        """Ends the threads; a batch that hangs is left behind."""
        self.drain()
        await asyncio.to_thread(self._batcher.stop, 5.0)
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def status(self) -> Status:
        """As `Health` explains."""
        if self._draining:
            return "draining"
        if not self._batcher.alive:
            return "failed"
        return "stuck" if self._batcher.running > 2 * self.limits.timeout else "ready"

    async def answer(self, request: Request, choice: Choice) -> dict[str, Any]:
        """`Answer` as a dictionary; RefusedError where there is none."""
        clock = _Clock()
        with self._place():
            data = await read_upload(request, self.limits)
            clock.lap("upload")
            size_wh, found = await self._in_time(request, self._found(data, clock), clock)
        clock.laps |= {"wait": found.waited, "network": found.took}
        poses = _chosen(found.poses, choice)
        seconds = {**clock.laps, "total": clock.total()}
        self.metrics.answered(seconds, len(poses))
        return {
            **poses.to_dict(),
            "skeleton": self.skeleton.name,
            "size_wh": size_wh,
            "seconds": {name: round(value, 6) for name, value in seconds.items()},
        }

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place in the queue, for as long as the context lasts."""
        if self._draining:
            raise RefusedError(503, "draining", "the service is being stopped", retry_after=5)
        if not self._batcher.alive:
            raise _broken()
        if self.queue >= self.limits.max_queue:
            seconds = max(1, math.ceil(self.queue * self._batcher.pace))
            raise RefusedError(
                429,
                "queue_full",
                f"all {self.limits.max_queue} places are taken; try again in {seconds} s",
                retry_after=seconds,
            )
        self.queue += 1
        try:
            yield
        finally:
            self.queue -= 1

    async def _in_time(self, request: Request, finding: Any, clock: _Clock) -> Any:
        """What `finding` gives, unless the time is over or the client leaves before."""
        work = asyncio.ensure_future(finding)
        gone = asyncio.ensure_future(_departure(request))
        try:
            left = self.limits.timeout - clock.total()
            done, _ = await asyncio.wait(
                {work, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            if work in done:
                return work.result()
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        if gone in done:
            raise RefusedError(GONE, "gone", "the client left while it waited")
        raise RefusedError(
            503,
            "timeout",
            f"no answer within {self.limits.timeout:g} s; the service is too busy",
            retry_after=max(1, math.ceil(self.queue * self._batcher.pace)),
        )

    async def _found(self, data: bytes, clock: _Clock) -> tuple[list[int], Found]:
        """Width and height of the picture, and the people in it."""
        loop = asyncio.get_running_loop()
        # Before the picture waits for its turn, so that useless ones are refused at once.
        await loop.run_in_executor(self._pool, check_header, data, self.limits.max_pixels)
        async with self._decoded:
            image = await loop.run_in_executor(self._pool, decode, data)
            clock.lap("decode")
            self._submitted += 1
            try:
                found = await asyncio.wrap_future(self._batcher.submit(image))
            except WorkerEndedError:
                raise _broken() from None
            except NetworkError as error:
                raise RefusedError(500, "network", f"{error}; the service's log says why") from None
            finally:
                self._submitted -= 1
        return [image.shape[1], image.shape[0]], found


class _Clock:
    """Seconds since it was made, and of each lap."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._start = self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now

    def total(self) -> float:
        return time.monotonic() - self._start


def _broken() -> RefusedError:
    return RefusedError(
        503, "failed", "the network's thread ended; the service has to be restarted"
    )


async def _departure(request: Request) -> None:
    """Returns when the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _chosen(poses: Poses, choice: Choice) -> Poses:
    poses = poses[poses.scores >= choice.min_score]
    if choice.max_people is None or len(poses) <= choice.max_people:
        return poses
    best = np.argsort(-poses.scores, kind="stable")[: choice.max_people]
    return poses[np.sort(best)]
