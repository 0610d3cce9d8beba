"""Processes that take turns, so that what else the machine does meets all of them alike."""

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

from ppose.errors import PposeError
from ppose.progress import progress

Work = Callable[[Any], dict[str, float]]

TURN = 0.25  # seconds
# A process is at rest when it uses less than this share of a core for so many seconds.
REST, LOOK, MOST_LOOKS = 0.1, 0.02, 100
# Memory that has to be free for one process more.
FREE = 2 << 30


@dataclass
class Found:
    """What was found in one process.

    Attributes:
        facts: what `start` gave.
        peak: MiB of resident memory that the process had at most.
        runs: question → stage → seconds, of each run.
    """

    facts: dict[str, Any]
    peak: float
    runs: dict[Any, list[dict[str, float]]]

    def ms(self, question: Any, stage: str) -> np.ndarray:
        """(runs,) milliseconds of a stage; 0 where a run has none."""
        return np.array([1000 * run.get(stage, 0.0) for run in self.runs[question]])


class Turns:
    """Processes that do the same in turns, each with something of its own.

    Args:
        what: they do, for the lines of progress.

    Attributes:
        failed: what could not be started or ended before its time, and why; the others go on.
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
            key: of what it has.
            start: called there with the arguments; gives facts, and what its turns are: a call
                that takes a question and gives the seconds of each stage.
        """
        if psutil.virtual_memory().available < FREE:
            self.failed[key] = f"less than {FREE >> 30} GiB of memory are left: run fewer at once"
            return
        process = self._stack.enter_context(own_process())
        with self._excused(key):
            self._facts[key] = process.submit(_begin, start, arguments).result()
            self._processes[key] = process

    def run(self, rounds: int, questions: Sequence[Any]) -> dict[Any, Found]:
        """So many turns of each process, for each question."""
        found = {
            key: Found(facts, 0.0, {q: [] for q in questions}) for key, facts in self._facts.items()
        }
        with progress(rounds if self._processes else 0, self.what, "round") as bar:
            for _ in range(rounds):
                for key, process in [*self._processes.items()]:
                    with self._excused(key):
                        for question in questions:
                            runs = process.submit(_take_turn, question).result()
                            found[key].runs[question] += runs
                bar.update()
        for key, process in [*self._processes.items()]:
            with self._excused(key):
                found[key].peak = process.submit(peak).result()
        return {key: found[key] for key in self._processes}

    @contextmanager
    def _excused(self, key: Any) -> Iterator[None]:
        try:
            yield
        except (PposeError, BrokenProcessPool) as error:
            self._processes.pop(key, None)
            self.failed[key] = str(error)


def own_process() -> ProcessPoolExecutor:
    """One process that starts anew."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def peak() -> float:
    """MiB of resident memory that this process has had at most.

    It begins with that of the process that started it, which therefore stays small.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# What follows runs in the processes.
_work: Work


def _begin(start: Callable[..., tuple[dict[str, Any], Work]], arguments: tuple) -> dict[str, Any]:
    global _work
    facts, _work = start(*arguments)
    return facts


def _take_turn(question: Any) -> list[dict[str, float]]:
    """The first run wakes threads up and fills caches; it counts only if there is no other."""
    runs: list[dict[str, float]] = []
    end = time.perf_counter() + TURN
    while not runs or time.perf_counter() < end:
        runs.append(_work(question))
    _come_to_rest()
    return runs[1:] or runs


def _come_to_rest() -> None:
    """Waits for threads that spin: OpenMP's go on for 0.2 s and would take the next one's cores."""
    for _ in range(MOST_LOOKS):
        before = time.process_time()
        time.sleep(LOOK)
        if time.process_time() - before < REST * LOOK:
            break
