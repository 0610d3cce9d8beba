"""Lines for the user: `log` prints them as they are, and a run keeps them in a file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ppose.errors import PposeError
from ppose.progress import print_line


class _Screen(logging.Handler):
    """Plain lines on the stdout of the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print_line(self.format(record))


class _Dated(logging.Formatter):
    """Date and time before every line, also of a table or a trace."""

    def format(self, record: logging.LogRecord) -> str:
        when = self.formatTime(record, "%Y-%m-%d %H:%M:%S%z")
        lines = super().format(record).split("\n")
        return "\n".join(f"{when}  {line}".rstrip() for line in lines)


class _File(logging.FileHandler):
    """A file that appears, in a folder that appears, with the first line."""

    def __init__(self, path: Path):
        super().__init__(path, encoding="utf-8", delay=True)
        self.setFormatter(_Dated())

    def _open(self):
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


log = logging.getLogger("ppose")
log.setLevel(logging.DEBUG)
log.propagate = False  # what is printed is not for the handlers of whatever ppose runs in
log.addHandler(_Screen(logging.INFO))


@contextmanager
def kept_in(path: Path) -> Iterator[None]:
    """A context whose lines also go to the end of a file, with those of level DEBUG.

    The error that ends the context goes there too, unless nothing was begun in that folder; it
    is not printed. The file appears with its first line.
    """
    handler = _File(path)
    log.addHandler(handler)
    try:
        yield
    except BaseException as error:
        if path.parent.exists():
            _note_end(error)
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


def _note_end(error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt):
        log.debug("stopped")
    else:
        bug = not isinstance(error, PposeError | OSError)
        log.debug("error: %s", error, exc_info=error if bug else None)


@contextmanager
def native_silence() -> Iterator[None]:
    """What C++ reports in the context does not reach the standard error."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # the process has none
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
