"""Text from outside, such as a file name, made harmless for a terminal."""

from __future__ import annotations

_LONGEST = 2000  # characters of a message


def printable(text: str, keep: str = "\n\t") -> str:
    r"""The text with escapes such as \x1b or \udce9 for characters that cannot be printed.

    Those are control characters, with which a file name could move the cursor or colour the
    terminal, and the surrogates for bytes of a name that is not UTF-8, which cannot be encoded.

    Args:
        text: anything.
        keep: control characters that stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def bounded(text: str) -> str:
    """A message, printable and not endless: of a very long one, the middle is left out."""
    if len(text) > _LONGEST:
        text = text[: _LONGEST * 3 // 4] + " […] " + text[-_LONGEST // 8 :]
    text = printable(text, keep="\n")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
