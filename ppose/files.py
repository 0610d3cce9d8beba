"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_writing: set[Path] = set()  # what this process writes at the moment
_STUCK = 3600.0  # seconds without a byte after which no writer is waited for
# File systems that cannot sync a folder say so in one of these ways.
_NO_FOLDER_SYNC = {errno.EBADF, errno.EINVAL, errno.ENOTSUP}


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder, moved to `path` when the block ends well.

    The content is on the disk before it takes the old file's place, and the new name when the
    block is left, so that a crash at any time leaves the old file or the new one. Makes the folder.
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
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)
        _writing.discard(partial)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # a folder cannot be opened there
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
    """Removes what killed processes of this machine left of files that they were writing.

    Args:
        folder: where to look; it need not exist.
        pattern: of the names of the files that were to be written, as for `Path.glob`.
    """
    for partial in Path(folder).absolute().glob(f".{pattern}.*.part"):
        process = partial.name.split(".")[-2]
        if partial not in _writing and process.isdecimal() and _is_left(partial, int(process)):
            partial.unlink(missing_ok=True)


def _is_left(partial: Path, process: int) -> bool:
    """Whether nobody writes it: a living process of that number may be another one by now."""
    if process == os.getpid():
        return True
    try:
        silent = time.time() - partial.stat().st_mtime
        if silent < _STUCK and os.name == "posix":  # elsewhere the signal 0 ends a process
            os.kill(process, 0)
    except (ProcessLookupError, FileNotFoundError, OverflowError):
        return True
    except PermissionError:  # of another user, but there
        return False
    return silent >= _STUCK


def check_writable(path: str | Path) -> None:
    """OSError if `path` cannot be written: better before long work than after it."""
    with whole_file(Path(path).with_name(f"{Path(path).name}.try")) as trial:
        trial.touch()
    Path(path).with_name(f"{Path(path).name}.try").unlink()


def write_json(path: str | Path, data: Any) -> None:
    """Writes JSON; NaN and infinity become null, as JSON has neither."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(finite(data)) + "\n", encoding="utf-8")


def finite(data: Any) -> Any:
    """The data with None for each float that is NaN or infinite."""
    if isinstance(data, dict):
        return {k: finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [finite(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
