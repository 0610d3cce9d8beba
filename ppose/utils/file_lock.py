"""File locks between processes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

from ppose.utils.errors import DownloadError, PposeError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


_held: set[IO[bytes]] = set()


class InUseError(PposeError):
    """Another process works on what was asked for."""


@contextlib.contextmanager
def claimed(target: Path) -> Iterator[None]:
    """A context that holds `<target>.lock`, and refuses while another process does.

    The lock ends with the process, however that ends. Where the disk has no locks, it says so.

    Args:
        target: what is worked on in an output_dir. The folder is created, and removed again if it
            stays empty.

    Raises:
        InUseError: another process holds it; the message says which one, where and since when.
    """
    path = _lock_of(target)
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = _acquired(path)
    except DownloadError as error:
        print(f"{error}; a second process would not be noticed here", file=sys.stderr, flush=True)
        yield
        return
    if file is None:
        raise InUseError(
            f"{target.parent} is in use by {_holder(path)}: wait for it, stop it, or choose "
            "another output_dir"
        )
    holder = {
        "process": os.getpid(),
        "host": platform.node(),
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }
    file.truncate(0)
    file.write(json.dumps(holder).encode())
    file.flush()
    try:
        yield
    finally:
        _release(path, file)
        with contextlib.suppress(OSError):
            for folder in made:  # nothing came of it
                folder.rmdir()


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """A context that holds `<target>.lock`; waits while another process holds it, with a message.

    Raises:
        DownloadError: the file system does not support locks.
    """
    path = _lock_of(target)
    announced = False
    while (file := _acquired(path)) is None:
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
        _release(path, file)


def _lock_of(target: Path) -> Path:
    return target.with_name(target.name + ".lock")


def _acquired(path: Path) -> IO[bytes] | None:
    """The locked file; None if another process has it."""
    while True:
        file = path.open("ab")
        try:
            if not _try_lock(file):
                file.close()
                return None
        except DownloadError:
            file.close()
            raise
        # The previous holder may have removed this very file in the meantime.
        if _is_at(path, file):
            _held.add(file)
            return file
        file.close()


def _release(path: Path, file: IO[bytes]) -> None:
    _held.discard(file)
    with contextlib.suppress(OSError):  # Windows cannot remove open files
        path.unlink()
    file.close()


def _close_held() -> None:
    """A forked process, such as one that loads data, must not keep the locks of a killed one."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_held)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"  # it may be about to write


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
