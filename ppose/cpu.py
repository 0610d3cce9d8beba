"""Settings of the CPU that have to be made before Paddle is imported: import ppose first."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

# Instructions that MKL's path for AVX-512 takes.
_AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}

# Paddle sets it to 1 where the user has not, when it is imported.
_OMP_IS_THE_USERS = "OMP_NUM_THREADS" in os.environ or "paddle" in sys.modules

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def prepare(environment: MutableMapping[str, str] = os.environ, cpuinfo: str | None = None) -> None:
    """Makes Paddle fast on a CPU (benchmarks/cpu.py). What the user has set stays.

    - The MKL inside Paddle's CPU build takes its slowest path on processors that are not Intel's,
      unless it is told the kind of the CPU.
    - Paddle computes with one thread unless it is told otherwise.
    - Memory that operators free is kept for the next ones. Otherwise each large result is new
      pages from the system, which take longer than many an operator. The peak stays as it is;
      after it, up to 2 GiB stay with the process.

    Args:
        environment: where variables are looked up and set.
        cpuinfo: text of /proc/cpuinfo; None reads it.
    """
    environment.update(_missing(environment, _cpuinfo() if cpuinfo is None else cpuinfo))
    keep_memory(environment)


def _missing(environment: Mapping[str, str], cpuinfo: str) -> dict[str, str]:
    """The variables that the user has not set."""
    wanted = {}
    if (kind := _mkl_cpu_type(cpuinfo)) is not None:
        wanted["MKL_DEBUG_CPU_TYPE"] = kind
    threads = environment.get("OMP_NUM_THREADS")
    if threads is None:
        # Not OMP_NUM_THREADS itself: Paddle warns of it. `paddle.distributed.launch` sets that
        # to 1, so that processes do not take each other's cores.
        threads = wanted["MKL_NUM_THREADS"] = str(usable_cores())
    if threads.isdigit() and "numba" not in sys.modules:
        wanted["NUMBA_NUM_THREADS"] = threads
    return {name: value for name, value in wanted.items() if name not in environment}


def _mkl_cpu_type(cpuinfo: str) -> str | None:
    """`MKL_DEBUG_CPU_TYPE` for an AMD processor: 5 is AVX2, 7 AVX-512; None for others."""
    fields: dict[str, list[str]] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.split())
    if fields.get("vendor_id") != ["AuthenticAMD"]:
        return None
    return "7" if _AVX512.issubset(fields.get("flags", ())) else "5"


def _cpuinfo() -> str:
    """Empty elsewhere than on Linux."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """OMP_NUM_THREADS, or all cores that this process may use.

    A 1 that came with Paddle, after ppose was imported, is not counted.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads == "1" and not _OMP_IS_THE_USERS and "paddle" in sys.modules:
        return usable_cores()
    return int(threads) if threads.isdecimal() and int(threads) else usable_cores()


def keep_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Tells glibc's malloc to keep what is freed.

    Returns:
        whether it does; not where the C library is another or the user has set its thresholds.
    """
    variables = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"}
    if variables & set(environment) or "glibc.malloc" in environment.get("GLIBC_TUNABLES", ""):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  glibc alone has it
    except (AttributeError, OSError, TypeError):
        return False
    mallopt = library.mallopt
    # Before 2.35 glibc refuses a threshold above 32 MiB, but can do without mmap.
    own_pages = mallopt(_M_MMAP_THRESHOLD, 2**30) or mallopt(_M_MMAP_MAX, 0)
    return bool(own_pages and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
