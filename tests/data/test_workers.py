"""Batches come in order from processes that end with their parent, and whose death is told."""

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
from ppose.errors import PposeError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="loading processes need fork")
PATIENCE = 30.0  # seconds until a test that hangs fails


def make(task):
    """Samples of two arrays and a number."""
    return [
        {"image": np.full((5, 7, 3), i % 256, np.uint8), "map": np.full(3, i / 7), "index": i}
        for i in task
    ]


SPACE = sample_bytes(make([0])[0]) * 4


def pool_of(number, make=make, batch_bytes=SPACE, start=lambda index: None):
    return Workers(make, number, batch_bytes, start)


def gone(pid):
    """Whether a process has ended; one that nobody has waited for counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


TASKS = [[1, 2, 3], [4], [5, 6, 7, 8], [9, 10], [11], [12, 13, 14], [15, 16]]


@pytest.mark.parametrize("batch_bytes", [0, SPACE])
@pytest.mark.parametrize("number", [1, 2, 3, 9])
def test_batches_in_order(number, batch_bytes):
    with closing(pool_of(number, batch_bytes=batch_bytes)) as pool:
        for task, batch in zip(TASKS, pool.batches(TASKS), strict=True):
            assert batch["index"].tolist() == task
            assert batch["image"].shape == (len(task), 5, 7, 3)
            assert batch["image"].dtype == np.uint8
            assert batch["image"][:, 4, 6, 2].tolist() == task
            assert batch["map"].dtype == np.float64
            assert batch["map"].tolist() == [[i / 7] * 3 for i in task]
    assert not multiprocessing.active_children()


def test_no_more_batches_are_made_ahead_than_there_is_memory_for():
    made = multiprocessing.get_context("fork").Value("i", 0)

    def counted(task):
        with made.get_lock():
            made.value += 1
        return make(task)

    with closing(pool_of(2, counted)) as pool:
        batches = pool.batches([[i] for i in range(50)])
        for taken in range(1, 4):
            next(batches)
            wait_until(lambda taken=taken: made.value == 2 * workers_module.PREFETCH + taken - 1)
            time.sleep(0.1)
            assert made.value == 2 * workers_module.PREFETCH + taken - 1


def files_in_dev_shm(pid):
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return sum("/dev/shm" in line for line in maps)


def test_memory_is_not_that_of_dev_shm():
    before = files_in_dev_shm("self")
    with closing(pool_of(1)) as pool:
        next(pool.batches(TASKS))
        (child,) = multiprocessing.active_children()
        assert files_in_dev_shm(child.pid) == files_in_dev_shm("self") == before


def test_collecting_garbage_leaves_the_shared_memory_alone():
    def frozen(task):
        return [{"objects": gc.get_freeze_count()}]

    with closing(pool_of(1, frozen)) as pool:
        assert next(pool.batches([0]))["objects"] >= len(gc.get_objects()) / 2
    assert gc.get_freeze_count() == 0


def slow(task):
    time.sleep(PATIENCE)
    return make(task)


@pytest.mark.parametrize("work", [make, slow])
def test_a_killed_worker_is_told(work):
    with closing(pool_of(2, work)) as pool:
        batches = pool.batches([[i] for i in range(1000)])
        if work is make:
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
def test_a_worker_that_ends_by_itself_is_told(end, message):
    def fatal(task):
        return make(task) if task != [5] else end()

    with closing(pool_of(2, fatal)) as pool, pytest.raises(WorkerDiedError, match=message):
        list(pool.batches([[i] for i in range(10)]))


class OddError(PposeError):
    """An error that pickle cannot make again."""

    def __init__(self, place, value):
        super().__init__(f"{place}: {value}")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (PposeError("a file"), PposeError, "^a file$"),
        (OddError("there", 5), PposeError, "^there: 5$"),
        (ZeroDivisionError("a bug"), RuntimeError, r"(?s)\[5\].*in failing.*ZeroDivisionError: a"),
    ],
)
def test_errors_arrive_after_the_batches_before_them(error, kind, message):
    def failing(task):
        if task == [5]:
            raise error
        return make(task)

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


def test_each_worker_is_started_with_its_index():
    def draws(task):
        return [{"draw": random.random()}]

    with closing(pool_of(3, draws, start=random.seed)) as pool:
        found = [batch["draw"][0] for batch in pool.batches(range(6))]
    expected = [random.Random(index) for index in range(3)]
    assert found == [generator.random() for _ in range(2) for generator in expected]


@pytest.fixture
def parent():
    """Starts a process with a pool of two workers, which then runs `body`; gives their ids too."""
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

        def make(task):
            time.sleep(0.05)
            return [{{"index": np.int64(task)}}]

        pool = Workers(make, 2, 1000, lambda index: None)
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
    process.wait()  # not for the pipes, which the workers hold too
    wait_until(lambda: all(map(gone, pids)))


@pytest.mark.parametrize(
    ("body", "code"),
    [("", 0), ("sys.exit(4)", 4), ("raise ValueError", 1), ("os._exit(5)", 5)],
)
def test_workers_end_when_their_parent_does(parent, body, code):
    process, pids = parent(body)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    wait_until(lambda: all(map(gone, pids)))


def test_workers_end_with_a_parent_that_is_a_process_of_multiprocessing_itself(parent):
    body = """
        def child():
            pool = Workers(make, 2, 1000, lambda index: None)
            next(pool.batches(range(100)))
            globals().update(pool=pool)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        sys.exit(process.exitcode)
    """
    process, pids = parent(body)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    wait_until(lambda: all(map(gone, pids)))


def test_sigterm_to_the_group_leaves_batches_until_the_parent_has_saved(parent):
    body = """
        asked = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
        print("ready", flush=True)
        left = 10
        for batch in batches:
            left -= bool(asked)
            if not left:
                break
        print("saved", flush=True)
    """
    process, pids = parent(body)
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert (out, err, process.returncode) == ("saved\n", "", 0)
    wait_until(lambda: all(map(gone, pids)))
