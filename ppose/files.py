"""Files appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder, moved to `path` when the block ends well.

    The content is on the disk before it takes the old file's place, so that a crash at any time
    leaves the old file or the new one. Makes the folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """OSError if `path` cannot be written: better before long work than after it."""
    with whole_file(Path(path).with_name(f"{Path(path).name}.try")) as trial:
        trial.touch()
    Path(path).with_name(f"{Path(path).name}.try").unlink()


def write_json(path: str | Path, data: Any) -> None:
    """Writes JSON; NaN and infinity become null, as JSON has neither."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(_finite(data)) + "\n", encoding="utf-8")


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
