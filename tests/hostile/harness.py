"""Runs readers over hostile files, each in a process that may die, and tells how it ended."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pkgutil
import random
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

import hostile
from ppose.utils.errors import PposeError

OUTCOMES = ("fine", "clear error", "unclear error", "traceback", "crash", "hang", "memory")
GOOD = OUTCOMES[:2]
TIME_LIMIT = 10.0  # seconds
MEMORY_LIMIT = 1 << 30  # bytes above what the process had before the file
KILL_LIMIT = 4 << 30  # bytes above, at which the process is killed
LONGEST_MESSAGE = 2000  # characters
START_LIMIT = 120.0  # seconds until the process has imported what the reader needs


@dataclass(frozen=True)
class Reader:
    """One way in which a file from outside reaches ppose.

    Attributes:
        name: of the reader.
        suffix: of its files, such as ".pdparams".
        generate: makes the bytes of one file from a source of random numbers.
        read: reads a file as a user's command would; a function of a module, as another
            process calls it.
    """

    name: str
    suffix: str
    generate: Callable[[random.Random], bytes]
    read: Callable[[Path], object]


@dataclass(frozen=True)
class Result:
    """How reading one file ended: an outcome of `OUTCOMES`, the message, and the case."""

    outcome: str
    detail: str
    path: Path
    seconds: float


def readers() -> dict[str, Reader]:
    """All readers by name: those in `READERS` of the modules of this package."""
    found: dict[str, Reader] = {}
    for module in pkgutil.iter_modules(hostile.__path__):
        if module.name.startswith("test_"):
            continue
        for reader in getattr(importlib.import_module(f"hostile.{module.name}"), "READERS", ()):
            assert reader.name not in found, f"two readers are called {reader.name}"
            found[reader.name] = reader
    return found


def results(reader: Reader, seeds: range, folder: Path) -> Iterator[Result]:
    """Reads one generated file per seed; the same seed always makes the same file.

    Args:
        reader: what is tried.
        seeds: of the cases.
        folder: for the files; those that ended well are removed.
    """
    child: _Child | None = None
    try:
        for seed in seeds:
            path = folder / f"case{seed}{reader.suffix}"
            path.write_bytes(reader.generate(random.Random(f"{reader.name} {seed}")))
            child = child if child and child.process.is_alive() else _Child(reader)
            result = child.read(path)
            if result.outcome in GOOD:
                path.unlink(missing_ok=True)
            yield result
    finally:
        if child:
            child.process.kill()


class _Child:
    """A process that reads one file after the other."""

    def __init__(self, reader: Reader) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(reader.read, theirs), daemon=True)
        self.process.start()
        theirs.close()
        if not self.connection.poll(START_LIMIT) or self.connection.recv() != "ready":
            self.process.kill()
            raise RuntimeError(f"the process of {reader.name} did not start")

    def read(self, path: Path) -> Result:
        watched = psutil.Process(self.process.pid)
        before = watched.memory_info().rss
        start = time.perf_counter()
        self.connection.send(os.fspath(path))
        while not self.connection.poll(0.02):
            seconds = time.perf_counter() - start
            if seconds > TIME_LIMIT:
                return self._killed("hang", path, seconds)
            if watched.is_running() and watched.memory_info().rss - before > KILL_LIMIT:
                return self._killed("memory", path, seconds)
        seconds = time.perf_counter() - start
        try:
            outcome, detail = self.connection.recv()
        except EOFError:
            self.process.join()
            return Result("crash", f"exit code {self.process.exitcode}", path, seconds)
        return Result(outcome, detail, path, seconds)

    def _killed(self, outcome: str, path: Path, seconds: float) -> Result:
        self.process.kill()
        self.process.join()
        return Result(outcome, f"killed after {seconds:.1f} s", path, seconds)


def _serve(read: Callable[[Path], object], connection: Connection) -> None:
    # What libraries write on the way is not part of the outcome.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    connection.send("ready")
    while True:
        path = Path(connection.recv())
        before = psutil.Process().memory_info().rss
        # Resets the peak of the resident memory (proc(5)).
        Path("/proc/self/clear_refs").write_text("5")
        outcome, detail = _outcome(read, path)
        if _peak_memory() - before > MEMORY_LIMIT:
            outcome, detail = "memory", f"{(_peak_memory() - before) >> 20} MiB"
        connection.send((outcome, detail))


def _outcome(read: Callable[[Path], object], path: Path) -> tuple[str, str]:
    try:
        read(path)
    except (PposeError, OSError) as error:
        message = str(error)
        clear = 0 < len(message) <= LONGEST_MESSAGE and message.replace("\n", " ").isprintable()
        return ("clear error" if clear else "unclear error"), message[:LONGEST_MESSAGE]
    except BaseException:
        return "traceback", traceback.format_exc(limit=-6)
    return "fine", ""


def _peak_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")
