"""Files that are whole at any time: atomic writes, and records that are added one by one."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ppose.utils.errors import PposeError, WriteError

# Errors of a disk or a limit, which name no file.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LONGEST_NAME = 255  # bytes, in most file systems
_writing: set[Path] = set()  # temporary files that this process is writing
_STALE_SECONDS = 3600.0  # a file without a write for so long counts as abandoned
# Errors by which file systems refuse to sync a folder.
_NO_FOLDER_SYNC = {errno.EBADF, errno.EINVAL, errno.ENOTSUP}


@contextmanager
def atomic_write(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """A context with a temporary path in the same folder, renamed to `path` on success.

    The content is synced to disk before the rename, and the rename before the context exits, so
    that a crash at any time leaves either the old file or the new one. Creates the folder.

    Args:
        path: the file.
        sync: False for what is quickly made again: then a crash of the machine may lose it.

    Raises:
        WriteError: there is no room, or the file or its folder cannot be written.
    """
    path = Path(path).absolute()
    partial = path.with_name(file_name(f".{path.name}", f".{os.getpid()}.part"))
    _writing.add(partial)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if sync:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
        if sync:
            sync_folder(path.parent)
    except OSError as error:
        places = {str(place) for place in (partial, path, *path.parents)}
        if isinstance(error, PposeError) or not (
            error.errno in NO_ROOM | {errno.EIO} or error.filename in places
        ):
            raise
        raise write_error(path, error, _size(partial)) from error
    finally:
        with suppress(OSError):  # nothing was made where the folder cannot be
            partial.unlink(missing_ok=True)
        _writing.discard(partial)


def file_name(stem: str, end: str) -> str:
    """A file's name: the stem, cut where the name would be too long, and the end."""
    size = _LONGEST_NAME - len(os.fsencode(end))
    if len(os.fsencode(stem)) > size:
        stem = os.fsencode(stem)[:size].decode(errors="ignore")
    return stem + end


def write_error(path: Path, error: OSError, size: int) -> WriteError:
    """The error about a file of which `size` bytes could be written."""
    text = f"{path}: cannot be written: {error.strerror or error}"
    if error.errno == errno.EFBIG:
        text += f", after {size:,} bytes; see 'ulimit -f' and the file system"
    elif error.errno in NO_ROOM:
        there = next(place for place in path.absolute().parents if place.is_dir())
        free = shutil.disk_usage(there).free
        text += f", after {size:,} bytes, and {free:,} are free; make room or choose another folder"
    return WriteError(text, error)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class RecordFile:
    """A file to which records are added, and which is whole after each, also after `kill -9`.

    Args:
        path: the file; an older one is replaced.
        start, end: text before and after all records.
        separator: text between two.

    Raises:
        WriteError: it cannot be written. What was added before is still there, and whole.
    """

    def __init__(self, path: Path, start: str = "", end: str = "", separator: str = ""):
        self.path = path
        self._separator, self._end = separator.encode(), end.encode()
        with atomic_write(path) as partial:
            partial.write_bytes(start.encode() + self._end)
        self._file = path.open("r+b", buffering=0)
        self._size = len(start.encode())  # without the end
        self._records = 0

    def add(self, record: str) -> None:
        """Adds a record."""
        data = (self._separator if self._records else b"") + record.encode()
        try:
            self._write(data + self._end)
        except OSError as error:
            size = self._file.tell()
            self._write(self._end)  # into the room that it had
            self._file.truncate()
            raise write_error(self.path, error, size) from error
        self._size += len(data)
        self._records += 1

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        self._file.seek(self._size)
        while data:
            data = data[self._file.write(data) :]


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
