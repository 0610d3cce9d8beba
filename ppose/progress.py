"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 15.0


class _Lines(tqdm):
    """One line each time, instead of one that is drawn over; none at the very start."""

    def display(  # type: ignore[override]
        self, msg: str | None = None, pos: int | None = None
    ) -> bool:
        if self.n:
            print(msg or str(self), file=sys.stderr, flush=True)
        return True


def on_terminal() -> bool:
    """Whether bars are drawn: on a terminal, unless it says that it has no width."""
    if not sys.stderr.isatty():
        return False
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        return True


def progress(total: int | None, label: str, unit: str, quiet: bool = False) -> tqdm:
    """A bar to `update` and `close`, or to use as a context."""
    if on_terminal():
        return tqdm(total=total, desc=label, unit=unit, disable=quiet, dynamic_ncols=True)
    return _Lines(
        total=total,
        desc=label,
        unit=unit,
        disable=quiet,
        mininterval=_SECONDS_BETWEEN_LINES,
        bar_format="{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed}",
        leave=False,
    )


class FiguresBar(tqdm):
    """A bar for a terminal with a text behind it, which goes when closed.

    Args:
        total: of all steps.
        label: stands before the bar.
        done: steps before this process.

    Attributes:
        figures: the text; shown with the next `update`.
    """

    figures = ""

    def __init__(self, total: int, label: str, done: int = 0):
        super().__init__(
            total=total,
            desc=label,
            initial=done,
            leave=False,
            miniters=1,
            dynamic_ncols=True,
            bar_format="{desc} {n_fmt}/{total_fmt} |{bar:10}| {figures}",
        )

    @property
    def format_dict(self) -> Any:
        return {**super().format_dict, "figures": self.figures}


def print_line(text: str) -> None:
    """Prints to the stdout of the moment, above the bar where one is drawn."""
    if on_terminal():
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
    else:
        print(text, flush=True)
