"""Reads a file in a process of its own, and tells what that took."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import ROOT

_READ = """
import importlib, resource, sys
from ppose.utils.errors import PposeError
module, name, path = sys.argv[1:]
read = getattr(importlib.import_module(module), name)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
before = peak()
try:
    read(path)
    message = "fine"
except PposeError as error:
    message = str(error)
print(peak() - before)
print(message)
"""


def read_apart(module: str, name: str, path: Path) -> tuple[str, int]:
    """The error that a function of ppose raises for a file, and the bytes that it needed."""
    command = [sys.executable, "-c", _READ, module, name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    memory, _, message = done.stdout.partition("\n")
    return message.removesuffix("\n"), int(memory)
