"""Settings of the CPU that have to be made before Paddle is imported: import ppose first."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path


def prepare(environment: MutableMapping[str, str] = os.environ, vendor: str | None = None) -> None:
    """Lets Paddle's matrix products use AVX2 on AMD processors.

    The MKL inside Paddle's CPU build takes its slowest path on processors that are not Intel's,
    unless it is told the kind of the CPU: matrix products and convolutions then are two to
    three times as fast (benchmarks/cpu.py). A value that the user has set stays.

    Args:
        environment: where the variable is set.
        vendor: of the processor; None reads it from the system.
    """
    if (vendor or _vendor()) == "AuthenticAMD":
        environment.setdefault("MKL_DEBUG_CPU_TYPE", "5")


def _vendor() -> str:
    """`vendor_id` of Linux, empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")
