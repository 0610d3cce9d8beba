"""Interleaved measurements in several processes, so that other load affects all equally."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from ppose.utils.errors import PposeError
from ppose.utils.progress import progress

Work = Callable[[Any], dict[str, float]]

TURN = 0.25  # seconds
# A process is idle when it uses less than IDLE_LOAD of a core during IDLE_SECONDS.
IDLE_LOAD, IDLE_SECONDS, MAX_CHECKS = 0.1, 0.02, 100
# Free memory in bytes that a further process needs.
MIN_FREE = 2 << 30


@dataclass
class Measurement:
    """Results of one process.

    Attributes:
        facts: facts returned by `start`.
        peak: peak resident memory in MiB.
        runs: input → for each run, stage → seconds.
    """

    facts: dict[str, Any]
    peak: float
    runs: dict[Any, list[dict[str, float]]]

    def ms(self, value: Any, stage: str) -> np.ndarray:
        """(runs,) milliseconds of a stage; 0 for runs without it."""
        return np.array([1000 * run.get(stage, 0.0) for run in self.runs[value]])


class Turns:
    """Processes that run the same work in turns.

    Args:
        what: description of the work, for the progress bar.

    Attributes:
        failed: key of a process that could not start or ended early → reason.
    """

    def __init__(self, what: str):
        self.what = what
        self.failed: dict[Any, str] = {}
        self._facts: dict[Any, dict[str, Any]] = {}
        self._processes: dict[Any, ProcessPoolExecutor] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self, key: Any, start: Callable[..., tuple], *arguments: object) -> None:
        """Starts a process.

        Args:
            key: identifies the process.
            start: called in the process with the arguments; returns facts, and the work: a function
                from an input to the seconds of each stage.
        """
        if psutil.virtual_memory().available < MIN_FREE:
            self.failed[key] = (
                f"less than {MIN_FREE >> 30} GiB of memory are left: run fewer at once"
            )
            return
        process = self._stack.enter_context(own_process())
        with self._recorded_failure(key):
            self._facts[key] = process.submit(_begin, start, arguments).result()
            self._processes[key] = process

    def run(self, rounds: int, inputs: Sequence[Any]) -> dict[Any, Measurement]:
        """Runs `rounds` turns of each process for each input."""
        found = {
            key: Measurement(facts, 0.0, {value: [] for value in inputs})
            for key, facts in self._facts.items()
        }
        with progress(rounds if self._processes else 0, self.what, "round") as bar:
            for _ in range(rounds):
                for key, process in [*self._processes.items()]:
                    with self._recorded_failure(key):
                        for value in inputs:
                            runs = process.submit(_take_turn, value).result()
                            found[key].runs[value] += runs
                bar.update()
        for key, process in [*self._processes.items()]:
            with self._recorded_failure(key):
                found[key].peak = process.submit(peak).result()
        return {key: found[key] for key in self._processes}

    @contextmanager
    def _recorded_failure(self, key: Any) -> Iterator[None]:
        try:
            yield
        except (PposeError, BrokenProcessPool) as error:
            self._processes.pop(key, None)
            self.failed[key] = str(error)


def own_process() -> ProcessPoolExecutor:
    """A pool with one new process."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def peak() -> float:
    """Peak resident memory of this process in MiB.

    It starts at that of the parent process, which therefore has to stay small.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# The functions below run in the child processes.
_work: Work


def _begin(start: Callable[..., tuple[dict[str, Any], Work]], arguments: tuple) -> dict[str, Any]:
    global _work
    facts, _work = start(*arguments)
    return facts


def _take_turn(value: Any) -> list[dict[str, float]]:
    """Runs for TURN seconds; drops the first run, a warm-up, unless it is the only one."""
    runs: list[dict[str, float]] = []
    end = time.perf_counter() + TURN
    while not runs or time.perf_counter() < end:
        runs.append(_work(value))
    _wait_until_idle()
    return runs[1:] or runs


def _wait_until_idle() -> None:
    """Waits for spinning threads: OpenMP threads spin for 0.2 s and would slow the next process."""
    for _ in range(MAX_CHECKS):
        before = time.process_time()
        time.sleep(IDLE_SECONDS)
        if time.process_time() - before < IDLE_LOAD * IDLE_SECONDS:
            break
