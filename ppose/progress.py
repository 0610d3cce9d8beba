"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys

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


def progress(total: int | None, label: str, unit: str, quiet: bool = False) -> tqdm:
    """A bar to `update` and `close`, or to use as a context."""
    if sys.stderr.isatty():
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
