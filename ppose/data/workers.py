"""Batches made in other processes, in order, in memory that is used again and again.

Paddle's loader has a segment of /dev/shm for each array, which in a container often has 64 MB;
dies with a message of its queue when a worker is killed; and lets SIGTERM end the workers before
the trainer has saved.
"""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import count, repeat
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from multiprocessing.util import Finalize
from typing import Any

import numpy as np

from ppose.errors import PposeError

PREFETCH = 2  # batches that each worker makes ahead

_ALIGNMENT = 64  # bytes; a cache line, and enough for any vector instruction
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

Batch = dict[str, np.ndarray]


class WorkerDiedError(PposeError, RuntimeError):
    """A process that loads data ended before its work."""


@dataclass(frozen=True)
class _Place:
    """An array in a block of shared memory."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    def of(self, block: mmap.mmap) -> np.ndarray:
        size = int(np.prod(self.shape))
        return np.frombuffer(block, self.dtype, size, self.offset).reshape(self.shape)


@dataclass
class _Worker:
    """One process, as its parent sees it.

    Attributes:
        blocks: memory that both share; batch i is in block i modulo their number.
        received: number of batches.
    """

    process: ForkProcess
    connection: Connection
    blocks: list[mmap.mmap]
    received: int = 0

    def open(self, batch: Batch | dict[str, _Place]) -> Batch:
        block = self.blocks[self.received % len(self.blocks)]
        self.received += 1
        return {k: v.of(block) if isinstance(v, _Place) else v for k, v in batch.items()}


class Workers:
    """Processes that make batches, forked from this one.

    They share its memory until one of both writes, ignore Ctrl-C and SIGTERM, which reach the
    whole process group, and end with this object or when this process does, however it does.

    Args:
        make: task → samples of a batch, each with the same arrays or numbers.
        number: of processes.
        batch_bytes: memory for a batch; a larger one takes a slower way.
        start: called once in each process with its index.
    """

    def __init__(
        self,
        make: Callable[[Any], list[dict[str, Any]]],
        number: int,
        batch_bytes: int,
        start: Callable[[int], None],
    ):
        self._workers: list[_Worker] = []
        # Before multiprocessing itself, at exit, waits for processes that would not end.
        self.close = Finalize(self, _end, args=(self._workers,), exitpriority=100)
        for index in range(number):
            self._fork(index, make, batch_bytes, start)

    def batches(self, tasks: Iterable[Any]) -> Generator[Batch, None, None]:
        """The batch of each task, in order. Arrays are overwritten when the next one is asked for.

        Raises:
            WorkerDiedError: a process was killed or crashed.
            PposeError: what `make` raises.
            RuntimeError: any other error of `make`, with its trace.
        """
        tasks = iter(tasks)
        due: deque[_Worker] = deque()

        def hand_out(worker: _Worker) -> None:
            for task in tasks:
                self._send(worker, task)
                due.append(worker)
                return

        for workers in repeat(self._workers, PREFETCH):
            for worker in workers:
                hand_out(worker)
        while due:
            worker = due.popleft()
            yield self._receive(worker)
            hand_out(worker)

    def _fork(
        self,
        index: int,
        make: Callable[[Any], list[dict[str, Any]]],
        batch_bytes: int,
        start: Callable[[int], None],
    ) -> None:
        here, there = multiprocessing.Pipe()
        # Anonymous memory has no name that could be left behind and no limit of a file system.
        blocks = [mmap.mmap(-1, max(batch_bytes, 1)) for _ in range(PREFETCH)]
        inherited = [here, *(worker.connection for worker in self._workers)]
        process = multiprocessing.get_context("fork").Process(
            target=_work,
            args=(index, make, start, there, blocks, inherited),
            name=f"loader-{index}",
            daemon=True,
        )
        # Until it ignores signals itself, this process keeps them from it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()
        self._workers.append(_Worker(process, here, blocks))

    def _send(self, worker: _Worker, task: Any) -> None:
        try:
            worker.connection.send(task)
        except OSError:
            raise self._died(worker) from None

    def _receive(self, worker: _Worker) -> Batch:
        ready = wait([worker.connection, *(w.process.sentinel for w in self._workers)])
        for other in self._workers:
            if other.process.sentinel in ready:
                raise self._died(other)
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            raise self._died(worker) from None
        if isinstance(answer, Exception):
            raise answer
        return worker.open(answer)

    def _died(self, worker: _Worker) -> WorkerDiedError:
        worker.process.join()
        code = worker.process.exitcode or 0
        number = len(self._workers)
        if code == -signal.SIGKILL:
            how = "was killed (SIGKILL), as the system does when memory runs out"
        elif code < 0:
            how = f"crashed ({signal.Signals(-code).name})"
        else:
            how = f"ended with exit code {code}, what it printed says why"
        return WorkerDiedError(
            f"loading process {self._workers.index(worker) + 1} of {number} {how}; give the job "
            f"more memory, or lower workers (now {number}) or batch_size; workers=0 loads in the "
            "training process and shows where it fails"
        )


def sample_bytes(sample: dict[str, Any]) -> int:
    """Memory of one sample's arrays in a batch, at most."""
    return sum(np.asarray(value).nbytes + _ALIGNMENT for value in sample.values())


def _end(workers: list[_Worker]) -> None:
    """What a worker holds is its own, so that none has to be waited for."""
    for worker in workers:
        worker.connection.close()
        worker.process.kill()
    for worker in workers:
        worker.process.join()
    workers.clear()


def _work(
    index: int,
    make: Callable[[Any], list[dict[str, Any]]],
    start: Callable[[int], None],
    connection: Connection,
    blocks: list[mmap.mmap],
    inherited: list[Connection],
) -> None:
    """Answers each task with its batch, until the other end is closed."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    # A copy of the other end, here or in a later worker, would keep it open when the parent dies.
    for other in inherited:
        other.close()
    # A collection writes to every object that it sees, which would copy the memory that is shared.
    gc.freeze()
    start(index)
    for i in count():
        try:
            task = connection.recv()
            connection.send(_answer(make, task, blocks[i % len(blocks)]))
        except (EOFError, ConnectionError):
            return


def _answer(
    make: Callable[[Any], list[dict[str, Any]]], task: Any, block: mmap.mmap
) -> Batch | dict[str, _Place] | Exception:
    try:
        return _stacked(make(task), block)
    except PposeError as error:
        return error if _can_travel(error) else PposeError(str(error))
    except Exception:
        return RuntimeError(f"(epoch, sample) of {task}: {traceback.format_exc()}")


def _can_travel(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def _stacked(samples: list[dict[str, Any]], block: mmap.mmap) -> Batch | dict[str, _Place]:
    """The samples as one batch: its places in the block, or itself if it does not fit."""
    places: dict[str, _Place] = {}
    offset = 0
    for name, value in samples[0].items():
        one = np.asarray(value)
        places[name] = _Place(one.dtype.str, (len(samples), *one.shape), offset)
        offset += -(-one.nbytes * len(samples) // _ALIGNMENT) * _ALIGNMENT
    if offset > len(block):
        return {name: np.stack([sample[name] for sample in samples]) for name in places}
    for name, place in places.items():
        np.stack([sample[name] for sample in samples], out=place.of(block))
    return places
