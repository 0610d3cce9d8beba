"""File locks between processes."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ppose.utils.errors import DownloadError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """A context that holds `<target>.lock`; waits while another process holds it, with a message.

    Raises:
        DownloadError: the file system does not support locks.
    """
    path = target.with_name(target.name + ".lock")
    announced = False
    while True:
        file = path.open("ab")
        # The previous holder may have removed this very file in the meantime.
        if _try_lock(file) and _is_at(path, file):
            break
        file.close()
        if not announced:
            print(
                f"another process is working on {target}; waiting for it",
                file=sys.stderr,
                flush=True,
            )
            announced = True
        time.sleep(0.1)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows cannot remove open files
            path.unlink()
        file.close()


def _try_lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise DownloadError(
            f"cannot lock {file.name} ({error.strerror}): choose a folder on a disk that "
            "supports locks"
        ) from None
    return True


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether `path` still names this open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
