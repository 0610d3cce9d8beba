"""Progress bars: tqdm on a terminal, a line every 15 seconds elsewhere.

Without tqdm, which deployment does not require, lines are printed on a terminal too.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Protocol

from ppose.utils.printable import printable

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None  # type: ignore[assignment, misc]

_SECONDS_BETWEEN_LINES = 15.0


class ProgressBar(Protocol):
    """Interface of the result of `progress`.

    Attributes:
        n: steps done so far.
    """

    n: Any

    def update(self, n: float = 1) -> Any:
        """Adds `n` to the steps done."""

    def close(self) -> Any:
        """Prints the final state."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> Any: ...


class ProgressLines:
    """Progress as separate lines, at most one every 15 seconds.

    Args:
        total: number of steps; None if unknown.
        label: text before the numbers.
        unit: name of a step, in the singular; "B" is printed in MB.
        quiet: print nothing.
        done: steps that are already done.
    """

    def __init__(
        self, total: int | None, label: str, unit: str, quiet: bool = False, done: float = 0
    ):
        self.n: float = done
        self._total, self._label, self._unit, self._quiet = total, label, unit, quiet
        self._start = self._printed = time.monotonic()
        self._shown: float = done

    def update(self, n: float = 1) -> None:
        """Adds `n` to the steps done."""
        self.n += n
        if time.monotonic() - self._printed >= _SECONDS_BETWEEN_LINES:
            self._print()

    def close(self) -> None:
        """Prints the final state unless it has been printed."""
        if self.n != self._shown:
            self._print()

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _print(self) -> None:
        self._printed, self._shown = time.monotonic(), self.n
        if self._quiet:
            return
        minutes, seconds = divmod(int(self._printed - self._start), 60)
        numbers = [self.n] if self._total is None else [self.n, self._total]
        unit = self._unit
        if unit == "B":
            numbers, unit = [round(n / 1e6, 1) for n in numbers], "MB"
        elif numbers[-1] != 1:
            unit += "s"
        done = " of ".join(map(str, numbers))
        line = f"{self._label}: {done} {unit}, {minutes:02d}:{seconds:02d}"
        print(line, file=sys.stderr, flush=True)


def on_terminal() -> bool:
    """Whether bars are drawn: on a terminal that does not report a width of 0."""
    if tqdm is None or not sys.stderr.isatty():
        return False
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        return True


def progress(
    total: int | None, label: str, unit: str, quiet: bool = False, done: float = 0
) -> ProgressBar:
    """A progress bar, also usable as a context manager; see `ProgressLines` for its arguments.

    A single step, such as one image, has no progress to show.
    """
    quiet = quiet or (total == 1 and unit != "B")
    label = printable(label, keep="")
    if not on_terminal():
        return ProgressLines(total, label, unit, quiet, done)
    return tqdm(
        total=total,
        desc=label,
        unit=unit,
        disable=quiet,
        initial=done,
        dynamic_ncols=True,
        unit_scale=unit == "B",
        unit_divisor=1024 if unit == "B" else 1000,
    )


def print_line(text: str) -> None:
    """Prints to the current `sys.stdout`, above the progress bar if one is drawn."""
    if on_terminal():
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
    else:
        print(text, flush=True)
