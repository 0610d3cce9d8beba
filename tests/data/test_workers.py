"""Batches are in order; workers end with their parent; a dead worker is an error."""

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ppose.data import workers as workers_module
from ppose.data.workers import WorkerDiedError, Workers, sample_bytes
from ppose.utils.errors import PposeError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="loading processes need fork")
TIMEOUT = 30.0  # seconds until a hanging test fails


def load(task):
    """Samples of two arrays and a number."""
    return [
        {"image": np.full((5, 7, 3), i % 256, np.uint8), "map": np.full(3, i / 7), "index": i}
        for i in task
    ]


BATCH_BYTES = sample_bytes(load([0])[0]) * 4


def pool_of(workers, load=load, batch_bytes=BATCH_BYTES, init=lambda index: None):
    return Workers(load, workers, batch_bytes, init)


def has_ended(pid):
    """Whether a process has ended; zombies count as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition):
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


TASKS = [[1, 2, 3], [4], [5, 6, 7, 8], [9, 10], [11], [12, 13, 14], [15, 16]]


@pytest.mark.parametrize("batch_bytes", [0, BATCH_BYTES])
@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_batches_in_order(workers, batch_bytes):
    with closing(pool_of(workers, batch_bytes=batch_bytes)) as pool:
        for task, batch in zip(TASKS, pool.batches(TASKS), strict=True):
            assert batch["index"].tolist() == task
            assert batch["image"].shape == (len(task), 5, 7, 3)
            assert batch["image"].dtype == np.uint8
            assert batch["image"][:, 4, 6, 2].tolist() == task
            assert batch["map"].dtype == np.float64
            assert batch["map"].tolist() == [[i / 7] * 3 for i in task]
    assert not multiprocessing.active_children()


def test_the_number_of_prefetched_batches_is_limited():
    loaded = multiprocessing.get_context("fork").Value("i", 0)

    def counted(task):
        with loaded.get_lock():
            loaded.value += 1
        return load(task)

    with closing(pool_of(2, counted)) as pool:
        batches = pool.batches([[i] for i in range(50)])
        for taken in range(1, 4):
            next(batches)
            wait_until(lambda taken=taken: loaded.value == 2 * workers_module.PREFETCH + taken - 1)
            time.sleep(0.1)
            assert loaded.value == 2 * workers_module.PREFETCH + taken - 1


def files_in_dev_shm(pid):
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return sum("/dev/shm" in line for line in maps)


def test_dev_shm_is_not_used():
    before = files_in_dev_shm("self")
    with closing(pool_of(1)) as pool:
        next(pool.batches(TASKS))
        (child,) = multiprocessing.active_children()
        assert files_in_dev_shm(child.pid) == files_in_dev_shm("self") == before


def test_garbage_collection_does_not_touch_shared_memory():
    def frozen(task):
        return [{"objects": gc.get_freeze_count()}]

    before = gc.get_freeze_count()  # Python 3.12 freezes some objects of its own
    with closing(pool_of(1, frozen)) as pool:
        assert next(pool.batches([0]))["objects"] >= len(gc.get_objects()) / 2
    assert gc.get_freeze_count() <= before


def slow(task):
    time.sleep(TIMEOUT)
    return load(task)


@pytest.mark.parametrize("function", [load, slow])
def test_a_killed_worker_is_an_error(function):
    with closing(pool_of(2, function)) as pool:
        batches = pool.batches([[i] for i in range(1000)])
        if function is load:
            next(batches)
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            with pytest.raises(WorkerDiedError, match="was killed .SIGKILL.*memory.*lower workers"):
                list(batches)
            return
        pid = multiprocessing.active_children()[1].pid
        # While the parent waits for another worker.
        killer = subprocess.Popen(
            [sys.executable, "-c", f"import os,time;time.sleep(1);os.kill({pid}, 9)"]
        )
        with pytest.raises(WorkerDiedError, match=r"loading process \d of 2 was killed"):
            next(batches)
        killer.wait()
    assert issubclass(WorkerDiedError, PposeError)


def crash():
    faulthandler.disable()  # pytest's would print
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize(
    ("end", "message"),
    [(lambda: os._exit(3), "ended with exit code 3"), (crash, r"crashed \(SIGSEGV\)")],
)
def test_a_worker_that_ends_by_itself_is_an_error(end, message):
    def fatal(task):
        return load(task) if task != [5] else end()

    with closing(pool_of(2, fatal)) as pool, pytest.raises(WorkerDiedError, match=message):
        list(pool.batches([[i] for i in range(10)]))


class UnpicklableError(PposeError):
    """An error that cannot be unpickled."""

    def __init__(self, name, value):
        super().__init__(f"{name}: {value}")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (PposeError("a file"), PposeError, "^a file$"),
        (UnpicklableError("name", 5), PposeError, "^name: 5$"),
        (ZeroDivisionError("a bug"), RuntimeError, r"(?s)\[5\].*in failing.*ZeroDivisionError: a"),
    ],
)
def test_errors_are_raised_after_the_preceding_batches(error, kind, message):
    def failing(task):
        if task == [5]:
            raise error
        return load(task)

    with closing(pool_of(2, failing)) as pool:
        batches = pool.batches([[i] for i in range(10)])
        for i in range(5):
            assert next(batches)["index"] == [i]
        with pytest.raises(kind, match=message):
            next(batches)


def test_ctrl_c_and_sigterm_do_not_end_workers():
    with closing(pool_of(2)) as pool:
        batches = pool.batches([[i] for i in range(20)])
        next(batches)
        for child in multiprocessing.active_children():
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(child.pid, number)
        assert len(list(batches)) == 19


def test_signals_are_blocked_only_while_a_worker_starts():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with closing(pool_of(1)):
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_each_worker_is_initialized_with_its_index():
    def random_value(task):
        return [{"value": random.random()}]

    with closing(pool_of(3, random_value, init=random.seed)) as pool:
        found = [batch["value"][0] for batch in pool.batches(range(6))]
    expected = [random.Random(index) for index in range(3)]
    assert found == [generator.random() for _ in range(2) for generator in expected]


@pytest.fixture
def parent():
    """Starts a process with a pool of two workers that runs `body`; returns it and the pids."""
    started = []

    def start(body):
        process = parent_process(body)
        started.append(process)
        line = process.stdout.readline()
        assert line, process.stderr.read()
        return process, [int(pid) for pid in line.split()]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def parent_process(body):
    script = f"""
        import multiprocessing, os, signal, sys, time
        import numpy as np
        from ppose.data.workers import Workers

        def load(task):
            time.sleep(0.05)
            return [{{"index": np.int64(task)}}]

        pool = Workers(load, 2, 1000, lambda index: None)
        batches = pool.batches(range(10**9))
        next(batches)
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        {textwrap.indent(textwrap.dedent(body), " " * 8).strip()}
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )


@pytest.mark.parametrize("body", ["time.sleep(1000)", "for _ in batches: pass"])
def test_workers_end_when_their_parent_is_killed(parent, body):
    process, pids = parent(body)
    process.kill()
    process.wait()  # communicate() would wait for the pipes, which the workers inherit
    wait_until(lambda: all(map(has_ended, pids)))


@pytest.mark.parametrize(
    ("body", "code"),
    [("", 0), ("sys.exit(4)", 4), ("raise ValueError", 1), ("os._exit(5)", 5)],
)
def test_workers_end_when_their_parent_ends(parent, body, code):
    process, pids = parent(body)
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == code
    wait_until(lambda: all(map(has_ended, pids)))


def test_workers_end_with_a_parent_that_is_a_multiprocessing_process(parent):
    body = """
        def child():
            pool = Workers(load, 2, 1000, lambda index: None)
            next(pool.batches(range(100)))
            globals().update(pool=pool)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        sys.exit(process.exitcode)
    """
    process, pids = parent(body)
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    wait_until(lambda: all(map(has_ended, pids)))


def test_workers_survive_sigterm_until_the_parent_has_saved(parent):
    body = """
        received = []
        signal.signal(signal.SIGTERM, lambda *_: received.append(1))
        print("ready", flush=True)
        left = 10
        for batch in batches:
            left -= bool(received)
            if not left:
                break
        print("saved", flush=True)
    """
    process, pids = parent(body)
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=TIMEOUT)
    assert (out, err, process.returncode) == ("saved\n", "", 0)
    wait_until(lambda: all(map(has_ended, pids)))
