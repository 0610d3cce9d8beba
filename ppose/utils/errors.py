"""Base classes of the errors that are reported to users without a traceback."""

from __future__ import annotations

from ppose.utils.printable import bounded


class PposeError(Exception):
    """Invalid input from outside: a config, a file, an argument.

    The message says what is wrong, where, and what to do; commands print it without a traceback.
    What it repeats of the input can do no harm: control characters are shown as in Python's source,
    and the middle of a very long message is left out.
    """

    def __str__(self) -> str:
        return bounded(super().__str__())


class DownloadError(PposeError, OSError):
    """A download that failed; the message says why and what to do."""


class WriteError(PposeError, OSError):
    """A file that cannot be written; the message has its name, the reason, and bytes.

    Attributes:
        errno, strerror: of the error of the system.
    """

    def __init__(self, message: str, cause: OSError):
        super().__init__(message)
        self.message, self.errno, self.strerror = message, cause.errno, cause.strerror

    def __str__(self) -> str:
        return bounded(self.message)
