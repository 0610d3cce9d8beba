"""Base classes of the errors that are reported to users without a traceback."""

_LONGEST = 2000  # characters of a message


class PposeError(Exception):
    """Invalid input from outside: a config, a file, an argument.

    The message says what is wrong, where, and what to do; commands print it without a traceback.
    What it repeats of the input can do no harm: control characters are shown as in Python's source,
    and the middle of a very long message is left out.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class DownloadError(PposeError, OSError):
    """A download that failed; the message says why and what to do."""


def printable(text: str) -> str:
    """Text from outside as a terminal may show it: no control characters, not endless."""
    if len(text) > _LONGEST:
        text = text[: _LONGEST * 3 // 4] + " […] " + text[-_LONGEST // 8 :]
    if not text.replace("\n", "").isprintable():
        text = "".join(c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
