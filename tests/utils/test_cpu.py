"""CPU settings: made before Paddle is imported; values set by the user are kept."""

import os
import subprocess
import sys

import pytest

from ppose.utils.cpu import keep_memory, prepare, usable_cores

ZEN3 = "processor : 0\nvendor_id : AuthenticAMD\nflags : fpu avx avx2 fma\n"
ZEN4 = ZEN3.replace("fma", "fma avx512f avx512dq avx512cd avx512bw avx512vl")
INTEL = ZEN4.replace("AuthenticAMD", "GenuineIntel")


@pytest.mark.parametrize(
    ("cpuinfo", "before", "kind"),
    [
        (ZEN3, {}, "5"),
        (ZEN4, {}, "7"),
        (ZEN4.replace(" avx512vl", ""), {}, "5"),
        (ZEN4, {"MKL_DEBUG_CPU_TYPE": "4"}, "4"),
        (INTEL, {}, None),
        ("", {}, None),
    ],
)
def test_the_cpu_type_of_mkl_is_set_on_amd_only(cpuinfo, before, kind):
    environment = dict(before)
    prepare(environment, cpuinfo)
    assert environment.get("MKL_DEBUG_CPU_TYPE") == kind


@pytest.mark.parametrize(
    ("before", "mkl"),
    [({}, str(usable_cores())), ({"MKL_NUM_THREADS": "3"}, "3"), ({"OMP_NUM_THREADS": "1"}, None)],
)
def test_all_cores_are_used_unless_the_user_sets_the_threads(before, mkl):
    environment = dict(before)
    prepare(environment, INTEL)
    assert environment.get("MKL_NUM_THREADS") == mkl
    assert environment.get("OMP_NUM_THREADS") == before.get("OMP_NUM_THREADS")


IMPORT = """
import os, sys
from unittest.mock import patch
with patch("pathlib.Path.read_text", lambda *a, **k: "vendor_id : AuthenticAMD"):
    import ppose
names = "MKL_DEBUG_CPU_TYPE", "NUMBA_NUM_THREADS"
print(*map(os.environ.get, names), "paddle" in sys.modules, "numba" in sys.modules)
"""


@pytest.mark.parametrize(("omp", "numba"), [("3", "3"), ("4,2", "None")])
def test_importing_ppose_sets_variables_before_paddle_is_imported(omp, numba):
    assert run(IMPORT, OMP_NUM_THREADS=omp) == ["5", numba, "False", "False"]


THREADS = """
import sys
import ppose
if "paddle" in sys.argv:
    import paddle
from ppose.utils.cpu import default_threads
print(default_threads())
"""


@pytest.mark.parametrize(
    ("given", "expected"), [({}, usable_cores()), ({"OMP_NUM_THREADS": "1"}, 1)]
)
def test_the_number_of_threads_that_paddle_sets_is_ignored(given, expected):
    """Paddle sets OMP_NUM_THREADS to 1 on import."""
    code = THREADS.replace("sys.argv", '["paddle"]')
    assert run(code, **given) == [str(expected)] == run(THREADS, **given)


# Page faults while a large buffer is allocated for the second time.
FAULTS = """
import resource
import ppose

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

bytearray(b"x") * 2**26
before = faults()
bytearray(b"x") * 2**26
print(faults() - before)
"""


@pytest.mark.skipif(not keep_memory({}), reason="the C library is not glibc")
@pytest.mark.parametrize(
    ("environment", "kept"),
    [
        ({}, True),
        ({"MALLOC_MMAP_THRESHOLD_": "131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}, False),
    ],
)
def test_freed_memory_is_kept_unless_the_user_configures_malloc(environment, kept):
    pages = 2**26 // os.sysconf("SC_PAGESIZE")
    assert (int(run(FAULTS, **environment)[0]) < pages / 2) == kept


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_other_c_libraries_are_left_unchanged(monkeypatch, error):
    def load(name):
        raise error

    monkeypatch.setattr("ctypes.CDLL", load)
    assert not keep_memory({})


def run(code: str, **environment: str) -> list[str]:
    command = [sys.executable, "-c", code]
    environment = {"PATH": "/usr/bin", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return done.stdout.split()
