"""Timing and reports of the benchmarks: a table, and a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with `--json`."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", metavar="FILE", help="also write the table to this file")
    return made


def seconds(work: Callable[[], Any], repeats: int = 30, warmup: int = 3) -> np.ndarray:
    """(repeats,) wall-clock seconds of each call."""
    for _ in range(warmup):
        work()
    times = np.empty(repeats)
    for i in range(repeats):
        started = time.perf_counter()
        work()
        times[i] = time.perf_counter() - started
    return times


def report(rows: list[dict[str, Any]], path: str | None) -> None:
    """Prints rows as a table, and writes them with facts about the machine to a JSON file."""
    names = list(rows[0])
    cells = [names, *([_text(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    if path:
        facts = {"machine": platform.machine(), "cores": os.cpu_count(), "rows": rows}
        Path(path).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
