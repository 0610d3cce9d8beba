"""Trial runs: Paddle loads a foreign program first in a process that may crash.

Paddle ends the process on some damaged programs, and on attributes that no check foresees. A
program that has passed is remembered by the hash of its files, in the cache folder.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from ppose.deploy.backends.settings import BackendError, cache_folder
from ppose.utils.files import file_hash

_SECONDS = 60
_CODE = "import sys; from ppose.deploy.backends.paddle import trial; trial(*sys.argv[1:])"
_own: set[str] = set()


def trust(files: Sequence[Path]) -> None:
    """Says that a program needs no trial, as this process has written it, or is the trial."""
    _own.add(_content(files))


def try_program(
    files: Sequence[Path], *, device: str, precision: str, threads: int, engine: str | None
) -> None:
    """Loads and runs a program once in another process, unless that is known to go well.

    Args:
        files: `.pdmodel` or `.json`, and `.pdiparams`.
        device, precision, threads, engine: see `PaddleSession`.

    Raises:
        BackendError: the process died, or did not end.
    """
    content = _content(files)
    if content in _own:
        return
    settings = [device, precision, str(threads), engine or ""]
    key = hashlib.sha256("|".join([content, *settings, _paddle_version()]).encode()).hexdigest()
    passed = cache_folder() / "paddle_trials" / key
    if passed.exists():
        return
    why = _run([str(files[0]), *settings])
    if why:
        raise BackendError(
            f"{files[0]}: paddle: {why} when it ran the model in a trial; it is damaged, or this "
            "version of Paddle cannot run it: copy or export the model again"
        )
    _own.add(content)
    with suppress(OSError):
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.touch()


def _run(arguments: list[str]) -> str:
    """How the process failed; empty if it ended, with whatever result."""
    paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        run = subprocess.run(
            [sys.executable, "-c", _CODE, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {_SECONDS} s"
    if run.returncode < 0:
        with suppress(ValueError):
            return f"it crashed ({signal.Signals(-run.returncode).name})"
    return f"its process ended with {run.returncode}" if run.returncode else ""


def _content(files: Sequence[Path]) -> str:
    return " ".join(file_hash(file) for file in files)


def _paddle_version() -> str:
    with suppress(ImportError):
        return version("paddlepaddle")
    return "another build"
