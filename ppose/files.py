"""Files appear whole or not at all."""

from __future__ import annotations

import json
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


def write_json(path: str | Path, data: Any) -> None:
    """Writes JSON; NaN becomes null, as JSON has no NaN."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(_without_nan(data)) + "\n", encoding="utf-8")


def _without_nan(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _without_nan(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_without_nan(v) for v in data]
    return None if isinstance(data, float) and data != data else data
