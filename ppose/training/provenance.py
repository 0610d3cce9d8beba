"""Provenance of a run: command, code, versions, machine."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle

from ppose.optim.amp import on_gpu
from ppose.utils.cpu import cpu_name
from ppose.version import __version__

_PACKAGE = Path(__file__).resolve().parents[1]
_GIT_SECONDS = 20
STARTS = "run.json"  # in the folder of a run


def provenance() -> dict[str, Any]:
    """Date, command line, versions, git commit and machine, ready for JSON."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "folder": str(Path.cwd()),
        "versions": {
            "ppose": __version__,
            "paddle": paddle.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        },
        "git": git_state(_PACKAGE),
        "host": platform.node(),
        "platform": platform.platform(),
        **_hardware(),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that a folder is in, and whether files differ from it.

    None without git, or if the folder is not in a checkout that tracks it.
    """
    # A folder inside somebody's checkout need not belong to it, such as a virtual environment.
    if not _git(folder, "ls-files", "--", "."):
        return None
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain")
    if commit is None:
        return None
    return {"commit": commit.strip(), "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None if it cannot answer."""
    # No locks: another git may be at work in this checkout.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _hardware() -> dict[str, Any]:
    threads = "FLAGS_paddle_num_threads"
    found: dict[str, Any] = {"cpu": cpu_name(), "threads": paddle.get_flags([threads])[threads]}
    if on_gpu():
        cuda = paddle.device.cuda
        found["gpus"] = [cuda.get_device_name(i) for i in range(cuda.device_count())]
        found["cuda"] = paddle.version.cuda()
    return found
