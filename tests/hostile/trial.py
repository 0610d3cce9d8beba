"""A reader that ends in every way: the harness is tried on it."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from hostile.harness import MEMORY_LIMIT, OUTCOMES, Reader
from ppose.utils.errors import PposeError


def _generate(rng: random.Random) -> bytes:
    return rng.choice(OUTCOMES).encode()


def _read(path: Path) -> object:
    match path.read_text():
        case "clear error":
            raise PposeError("a clear error")
        case "unclear error":
            raise PposeError("")
        case "traceback":
            return {}["nothing"]
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(60)
        case "memory":
            return len(b"x" * (MEMORY_LIMIT + (1 << 26)))
    return None


TRIAL = Reader("trial", ".txt", _generate, _read)
