"""Worker pool that loads batches in forked processes, in order, into reused shared memory.

It is written by hand because `paddle.io.DataLoader` needs a segment of /dev/shm per array, which
often has only 64 MB in a container, and reports a killed worker as an error of its queue. It also
lets SIGTERM end the workers before the trainer has saved.
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

from ppose.utils.errors import PposeError

PREFETCH = 2  # batches that each worker loads ahead

_ALIGNMENT = 64  # bytes: a cache line, enough for any SIMD instruction
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

Batch = dict[str, np.ndarray]


class WorkerDiedError(PposeError, RuntimeError):
    """A data loading process died."""


@dataclass(frozen=True)
class _SharedArray:
    """Location of an array in a block of shared memory."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    def view(self, block: mmap.mmap) -> np.ndarray:
        size = int(np.prod(self.shape))
        return np.frombuffer(block, self.dtype, size, self.offset).reshape(self.shape)


@dataclass
class _Worker:
    """Handle of one worker process in the parent.

    Attributes:
        blocks: memory shared with the worker; batch i is in block i modulo their number.
        received: number of batches received.
    """

    process: ForkProcess
    connection: Connection
    blocks: list[mmap.mmap]
    received: int = 0

    def open(self, batch: Batch | dict[str, _SharedArray]) -> Batch:
        """The arrays of a received batch."""
        block = self.blocks[self.received % len(self.blocks)]
        self.received += 1
        return {k: v.view(block) if isinstance(v, _SharedArray) else v for k, v in batch.items()}


class Workers:
    """Pool of worker processes that load batches, forked from this process.

    They share its memory copy-on-write. They ignore SIGINT and SIGTERM, which are sent to the
    whole process group, and end with this object or when this process ends in any way.

    Args:
        load: task → samples of a batch, each with the same arrays or numbers.
        workers: number of processes.
        batch_bytes: shared memory for a batch; larger batches are pickled, which is slower.
        init: called once in each process with its index.
    """

    def __init__(
        self,
        load: Callable[[Any], list[dict[str, Any]]],
        workers: int,
        batch_bytes: int,
        init: Callable[[int], None],
    ):
        self._workers: list[_Worker] = []
        # Runs at exit before multiprocessing joins the workers, which would wait forever.
        self.close = Finalize(self, _terminate, args=(self._workers,), exitpriority=100)
        for index in range(workers):
            self._fork(index, load, batch_bytes, init)

    def batches(self, tasks: Iterable[Any]) -> Generator[Batch, None, None]:
        """The batch of each task, in order. Its arrays are valid until the next batch is requested.

        Raises:
            WorkerDiedError: a worker was killed or crashed.
            PposeError: raised by `load`.
            RuntimeError: any other error of `load`, with its traceback.
        """
        tasks = iter(tasks)
        pending: deque[_Worker] = deque()

        def send_next(worker: _Worker) -> None:
            for task in tasks:
                self._send(worker, task)
                pending.append(worker)
                return

        for workers in repeat(self._workers, PREFETCH):
            for worker in workers:
                send_next(worker)
        while pending:
            worker = pending.popleft()
            yield self._receive(worker)
            send_next(worker)

    def _fork(
        self,
        index: int,
        load: Callable[[Any], list[dict[str, Any]]],
        batch_bytes: int,
        init: Callable[[int], None],
    ) -> None:
        parent_end, worker_end = multiprocessing.Pipe()
        # Anonymous memory leaves no files and is not limited by the size of /dev/shm.
        blocks = [mmap.mmap(-1, max(batch_bytes, 1)) for _ in range(PREFETCH)]
        inherited = [parent_end, *(worker.connection for worker in self._workers)]
        process = multiprocessing.get_context("fork").Process(
            target=_worker_main,
            args=(index, load, init, worker_end, blocks, inherited),
            name=f"loader-{index}",
            daemon=True,
        )
        # Blocked signals are inherited; the worker unblocks them once it ignores them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        worker_end.close()
        self._workers.append(_Worker(process, parent_end, blocks))

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
            batch = worker.connection.recv()
        except (EOFError, OSError):
            raise self._died(worker) from None
        if isinstance(batch, Exception):
            raise batch
        return worker.open(batch)

    def _died(self, worker: _Worker) -> WorkerDiedError:
        worker.process.join()
        code = worker.process.exitcode or 0
        number = len(self._workers)
        if code == -signal.SIGKILL:
            how = "was killed (SIGKILL), probably because memory ran out"
        elif code < 0:
            how = f"crashed ({signal.Signals(-code).name})"
        else:
            how = f"ended with exit code {code}, see its output"
        return WorkerDiedError(
            f"loading process {self._workers.index(worker) + 1} of {number} {how}; give the job "
            f"more memory, or lower workers (now {number}) or batch_size; workers=0 loads in the "
            "training process, which helps to find the error"
        )


def sample_bytes(sample: dict[str, Any]) -> int:
    """Upper bound of the bytes that one sample takes in a batch."""
    return sum(np.asarray(value).nbytes + _ALIGNMENT for value in sample.values())


def _terminate(workers: list[_Worker]) -> None:
    """Kills all workers; they hold no resources that need a clean shutdown."""
    for worker in workers:
        worker.connection.close()
        worker.process.kill()
    for worker in workers:
        worker.process.join()
    workers.clear()


def _worker_main(
    index: int,
    load: Callable[[Any], list[dict[str, Any]]],
    init: Callable[[int], None],
    connection: Connection,
    blocks: list[mmap.mmap],
    inherited: list[Connection],
) -> None:
    """Receives tasks and sends their batches, until the parent closes the connection."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    # An inherited copy of the parent's end would keep the connection open when the parent dies.
    for other in inherited:
        other.close()
    # Garbage collection writes to every object it visits, which would copy shared memory.
    gc.freeze()
    init(index)
    for i in count():
        try:
            task = connection.recv()
            connection.send(_load_batch(load, task, blocks[i % len(blocks)]))
        except (EOFError, ConnectionError):
            return


def _load_batch(
    load: Callable[[Any], list[dict[str, Any]]], task: Any, block: mmap.mmap
) -> Batch | dict[str, _SharedArray] | Exception:
    try:
        return _collate(load(task), block)
    except PposeError as error:
        return error if _is_picklable(error) else PposeError(str(error))
    except Exception:
        return RuntimeError(f"(epoch, sample) of {task}: {traceback.format_exc()}")


def _is_picklable(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def _collate(samples: list[dict[str, Any]], block: mmap.mmap) -> Batch | dict[str, _SharedArray]:
    """Stacks samples into a batch: locations in the block, or the arrays if they do not fit."""
    arrays: dict[str, _SharedArray] = {}
    offset = 0
    for name, value in samples[0].items():
        one = np.asarray(value)
        arrays[name] = _SharedArray(one.dtype.str, (len(samples), *one.shape), offset)
        offset += -(-one.nbytes * len(samples) // _ALIGNMENT) * _ALIGNMENT
    if offset > len(block):
        return {name: np.stack([sample[name] for sample in samples]) for name in arrays}
    for name, array in arrays.items():
        np.stack([sample[name] for sample in samples], out=array.view(block))
    return arrays
