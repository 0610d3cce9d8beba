"""Base classes of the errors that are reported to users without a traceback."""


class PposeError(Exception):
    """Invalid input from outside: a config, a file, an argument.

    The message says what is wrong, where, and what to do; commands print it without a traceback.
    """


class DownloadError(PposeError, OSError):
    """A download that failed; the message says why and what to do."""
