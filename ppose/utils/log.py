"""Logging: `log` prints plain lines, and `log_to_file` also writes them to a file with times."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from threading import Lock

from ppose.utils.errors import PposeError
from ppose.utils.printable import printable
from ppose.utils.progress import print_line


def _escape(record: logging.LogRecord) -> bool:
    """A filter that lets everything pass, with names from outside made harmless."""
    record.msg, record.args = printable(record.getMessage()), ()
    return True


class _StdoutHandler(logging.Handler):
    """Prints plain lines to the current `sys.stdout`."""

    def emit(self, record: logging.LogRecord) -> None:
        print_line(self.format(record))


class _TimestampFormatter(logging.Formatter):
    """Puts date and time before every line, including those of a table or a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        when = self.formatTime(record, "%Y-%m-%d %H:%M:%S%z")
        lines = super().format(record).split("\n")
        return "\n".join(f"{when}  {line}".rstrip() for line in lines)


class _LazyFileHandler(logging.FileHandler):
    """Creates the file and its folder with the first line."""

    def __init__(self, path: Path):
        super().__init__(path, encoding="utf-8", delay=True)
        self.setFormatter(_TimestampFormatter())

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


log = logging.getLogger("ppose")
log.setLevel(logging.DEBUG)
log.propagate = False  # keeps the output out of the handlers of a host program
log.addFilter(_escape)
log.addHandler(_StdoutHandler(logging.INFO))


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """A context that also appends log lines to a file, including those of level DEBUG.

    An error that ends the context is written to the file, but not printed, and only if there is a
    file by then. It is created with the first line.
    """
    handler = _LazyFileHandler(path)
    log.addHandler(handler)
    try:
        yield
    except BaseException as error:
        if path.exists():
            _log_end(error)
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


def _log_end(error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt):
        log.debug("stopped")
    else:
        bug = not isinstance(error, PposeError | OSError)
        log.debug("error: %s", error, exc_info=error if bug else None)


class _StderrSilencer:
    """Redirects standard error to the null device while at least one context is active."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._original: int | None = None

    def begin(self) -> None:
        with self._lock:
            if self._users == 0:
                self._original = self._redirect()
            self._users += 1

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._original is not None:
                os.dup2(self._original, 2)
                os.close(self._original)

    @staticmethod
    def _redirect() -> int | None:
        """Returns a copy of the original descriptor; None if the process has no standard error."""
        if sys.stderr is not None:
            sys.stderr.flush()
        try:
            original = os.dup(2)
        except OSError:
            return None
        with Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), 2)
        return original


_SILENCER = _StderrSilencer()


@contextmanager
def silenced_native_stderr() -> Iterator[None]:
    """A context that discards what is written to standard error, in any thread; for C++ code."""
    _SILENCER.begin()
    try:
        yield
    finally:
        _SILENCER.end()
