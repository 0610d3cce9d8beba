"""What a run was started with: command, code, versions, machine."""

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

import ppose
from ppose.engine.amp import on_gpu

_PACKAGE = Path(ppose.__file__).parent
_GIT_SECONDS = 20


def provenance() -> dict[str, Any]:
    """Date, command line, versions, git commit and machine, ready for JSON."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "folder": str(Path.cwd()),
        "versions": {
            "ppose": ppose.__version__,
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

    None where there is no git, or no checkout that knows the folder.
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


def cpu_name() -> str:
    """The processor's name as Linux knows it, or what the platform calls it."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """What the processor can do with vectors, as Linux names it; empty elsewhere."""
    known = _cpu_info("flags").split()
    return sorted(flag for flag in known if flag.startswith(("avx", "amx", "fma")))


def _cpu_info(key: str) -> str:
    """The first entry of that name in /proc/cpuinfo; "" where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    values = (line.split(":", 1)[1].strip() for line in lines if line.startswith(key))
    return next(values, "")
