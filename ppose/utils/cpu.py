"""CPU settings. They have to be made before Paddle is imported: import ppose first."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

# Instruction sets that MKL's AVX-512 code path needs.
_AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}

# On import, Paddle sets it to 1 unless the user has set it.
_OMP_SET_BY_USER = "OMP_NUM_THREADS" in os.environ or "paddle" in sys.modules

# Constants of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def prepare(environment: MutableMapping[str, str] = os.environ, cpuinfo: str | None = None) -> None:
    """Makes Paddle fast on a CPU (benchmarks/cpu.py). Values set by the user are kept.

    - The MKL inside Paddle's CPU build takes its slowest code path on processors by other vendors
      than Intel, unless an environment variable names the kind of CPU.
    - Paddle uses one thread by default; here it gets all cores.
    - malloc keeps the memory that operators free. Otherwise the system maps new pages for each
      large result, which can take longer than the operator. The peak memory is the same; after
      the peak, the process keeps up to 2 GiB.

    Args:
        environment: variables to read and set.
        cpuinfo: text of /proc/cpuinfo; None reads the file.
    """
    environment.update(_missing(environment, _cpuinfo() if cpuinfo is None else cpuinfo))
    keep_memory(environment)


def _missing(environment: Mapping[str, str], cpuinfo: str) -> dict[str, str]:
    """The variables to set, without those that the user has set."""
    wanted = {}
    if (kind := _mkl_cpu_type(cpuinfo)) is not None:
        wanted["MKL_DEBUG_CPU_TYPE"] = kind
    threads = environment.get("OMP_NUM_THREADS")
    if threads is None:
        # Not OMP_NUM_THREADS itself, as Paddle warns about it. `paddle.distributed.launch` sets
        # it to 1, so that processes do not compete for cores.
        threads = wanted["MKL_NUM_THREADS"] = str(usable_cores())
    if threads.isdigit() and "numba" not in sys.modules:
        wanted["NUMBA_NUM_THREADS"] = threads
    return {name: value for name, value in wanted.items() if name not in environment}


def _mkl_cpu_type(cpuinfo: str) -> str | None:
    """`MKL_DEBUG_CPU_TYPE` of an AMD processor: 5 is AVX2, 7 AVX-512; None for others."""
    fields: dict[str, list[str]] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.split())
    if fields.get("vendor_id") != ["AuthenticAMD"]:
        return None
    return "7" if _AVX512.issubset(fields.get("flags", ())) else "5"


def _cpuinfo() -> str:
    """Text of /proc/cpuinfo; empty on systems other than Linux."""
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

    A value of 1 that Paddle itself has set is ignored.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads == "1" and not _OMP_SET_BY_USER and "paddle" in sys.modules:
        return usable_cores()
    return int(threads) if threads.isdecimal() and int(threads) else usable_cores()


def keep_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Makes glibc's malloc keep freed memory in the process.

    Returns:
        whether it does: False with another C library, or if the user has set its thresholds.
    """
    variables = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"}
    if variables & set(environment) or "glibc.malloc" in environment.get("GLIBC_TUNABLES", ""):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  only glibc has it
    except (AttributeError, OSError, TypeError):
        return False
    mallopt = library.mallopt
    # glibc before 2.35 refuses a threshold above 32 MiB, but can disable mmap.
    no_mmap = mallopt(_M_MMAP_THRESHOLD, 2**30) or mallopt(_M_MMAP_MAX, 0)
    return bool(no_mmap and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def cpu_name() -> str:
    """The processor's model name on Linux, else its name according to `platform`."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Vector instruction sets of the processor by their Linux names; empty on other systems."""
    flags = _cpu_info("flags").split()
    return sorted(flag for flag in flags if flag.startswith(("avx", "amx", "fma")))


def _cpu_info(key: str) -> str:
    """The first value of a key in /proc/cpuinfo, or ""."""
    values = (
        line.split(":", 1)[1].strip() for line in _cpuinfo().splitlines() if line.startswith(key)
    )
    return next(values, "")
