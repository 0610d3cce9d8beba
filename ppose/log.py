"""Lines for the user: `log` prints them as they are, and a run keeps them in a file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

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


class _Silence:
    """The standard error of C++, which is nowhere as long as anybody wants that."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._wanted = 0
        self._kept: int | None = None

    def begin(self) -> None:
        with self._lock:
            if self._wanted == 0:
                self._kept = self._turn_away()
            self._wanted += 1

    def end(self) -> None:
        with self._lock:
            self._wanted -= 1
            if self._wanted == 0 and self._kept is not None:
                os.dup2(self._kept, 2)
                os.close(self._kept)

    @staticmethod
    def _turn_away() -> int | None:
        """What the standard error was; None if the process has none."""
        if sys.stderr is not None:
            sys.stderr.flush()
        try:
            kept = os.dup(2)
        except OSError:
            return None
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        return kept


_SILENCE = _Silence()


@contextmanager
def native_silence() -> Iterator[None]:
    """What C++ reports in the context, in any thread, does not reach the standard error."""
    _SILENCE.begin()
    try:
        yield
    finally:
        _SILENCE.end()
