"""Atomic writes: a file is either complete or not there; JSON and checksums of files."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_writing: set[Path] = set()  # temporary files that this process is writing
_STALE_SECONDS = 3600.0  # a file without a write for so long counts as abandoned
# Errors of a disk or a limit, which name no file.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Errors by which file systems refuse to sync a folder.
_NO_FOLDER_SYNC = {errno.EBADF, errno.EINVAL, errno.ENOTSUP}


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A context with a temporary path in the same folder, renamed to `path` on success.

    The content is synced to disk before the rename, and the rename before the context exits, so
    that a crash at any time leaves either the old file or the new one. Creates the folder.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    _writing.add(partial)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno not in _NO_ROOM or error.filename is not None:
            raise
        size = partial.stat().st_size if partial.exists() else 0
        text = f"{error.strerror}, after {size:,} bytes"
        raise OSError(error.errno, text, os.fspath(path)) from error
    finally:
        partial.unlink(missing_ok=True)
        _writing.discard(partial)


def sync_folder(folder: Path) -> None:
    """Syncs the names in a folder to disk, where the file system can."""
    if os.name != "posix":  # Windows cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def remove_leftovers(folder: str | Path, pattern: str = "*") -> None:
    """Removes temporary files that killed processes of this machine have left.

    Args:
        folder: where to look; it may be missing.
        pattern: names of the files that were to be written, as for `Path.glob`.
    """
    for partial in Path(folder).absolute().glob(f".{pattern}.*.part"):
        process = partial.name.split(".")[-2]
        if partial not in _writing and process.isdecimal() and is_abandoned(partial, int(process)):
            partial.unlink(missing_ok=True)


def is_abandoned(partial: Path, process: int) -> bool:
    """Whether no process writes it any more. A running process with that id may be another one."""
    if process == os.getpid():
        return True
    try:
        silent = time.time() - partial.stat().st_mtime
        if silent < _STALE_SECONDS and os.name == "posix":  # on Windows signal 0 ends the process
            os.kill(process, 0)
    except (ProcessLookupError, FileNotFoundError, OverflowError):
        return True
    except PermissionError:  # a running process of another user
        return False
    return silent >= _STALE_SECONDS


def check_writable(path: str | Path) -> None:
    """Raises OSError if `path` cannot be written, to be called before long work."""
    with atomic_write(Path(path).with_name(f"{Path(path).name}.try")) as trial:
        trial.touch()
    Path(path).with_name(f"{Path(path).name}.try").unlink()


def write_json(path: str | Path, data: Any) -> None:
    """Writes JSON; NaN and infinity become null."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(finite(data)) + "\n", encoding="utf-8")


def finite(data: Any) -> Any:
    """The data with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(data, dict):
        return {k: finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [finite(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
