"""Atomic replacement of a folder: at any time it is the old one or the new one, whole."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ppose.utils.errors import PposeError
from ppose.utils.files import is_abandoned, sync_folder

# renameat2(2) of Linux.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# Errors by which a kernel or file system refuses to exchange two folders, or to link a file.
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV, errno.EPERM}


class FolderError(PposeError, OSError):
    """A folder cannot be written; the message has the file and what is wrong."""


_building: set[Path] = set()


@contextmanager
def atomic_folder(folder: str | Path, replaced: Collection[str]) -> Iterator[Path]:
    """A context with an empty folder, which takes the place of `folder` on success.

    It is built next to `folder`, synced to disk, and exchanged with it in one step, so that a
    process or machine that stops at any time leaves the old folder or the new one. What such
    processes leave next to it is removed the next time. Where the system cannot exchange two
    folders (other than Linux, some network disks), the old one is renamed before the new one: in
    the moment between them there is neither, and the next call puts the old one back.

    Args:
        folder: created if it does not exist; in place of a link, its target is replaced.
        replaced: names of the files that the old folder may lose. All others are kept.

    Raises:
        FolderError: a file cannot be written.
    """
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clean_up(folder)
    made = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    _building.add(made)
    try:
        made.mkdir()
        yield made
        if folder.is_dir():
            _keep_others(folder, made, replaced)
        _sync(made)
        if folder.is_dir():
            _exchange(made, folder)
        else:
            made.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        text = str(error)
        if os.fspath(made) not in text:
            raise
        text = text.replace(os.fspath(made), os.fspath(folder))
        raise FolderError(f"{text}; nothing in this folder was changed") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
        _building.discard(made)


def _clean_up(folder: Path) -> None:
    retired = _retired(folder)
    if retired.is_dir() and not folder.exists():
        retired.rename(folder)
    shutil.rmtree(retired, ignore_errors=True)
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.part"):
        process = left.name.split(".")[-2]
        if not left.is_dir() or left in _building or not process.isdecimal():
            continue
        if is_abandoned(left, int(process)):
            shutil.rmtree(left, ignore_errors=True)


def _retired(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _keep_others(folder: Path, made: Path, replaced: Collection[str]) -> None:
    top, new = os.fspath(folder), {path.name for path in made.iterdir()}

    def ignored(place: str, names: list[str]) -> set[str]:
        return {name for name in names if place == top and (name in replaced or name in new)}

    shutil.copytree(
        folder, made, symlinks=True, ignore=ignored, copy_function=_linked, dirs_exist_ok=True
    )


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE | {errno.EMLINK}:
            raise
        shutil.copy2(source, target, follow_symlinks=False)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def _exchange(made: Path, folder: Path) -> None:
    if _exchanged(made, folder):
        return
    retired = _retired(folder)
    folder.rename(retired)
    made.rename(folder)
    shutil.rmtree(retired, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchanges two folders in one step; False if the system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    first, second = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), os.fspath(other))
