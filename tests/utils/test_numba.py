"""`compiled` with and without Numba."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from ppose.utils import numba as module
from ppose.utils.numba import compiled


def triangle(n):
    total = 0
    for i in range(n):
        total += i
    return total


def test_without_numba_the_function_is_returned(monkeypatch):
    monkeypatch.setattr(module, "numba", None)

    def plain(n):
        return triangle(n)

    assert compiled(plain) is plain
    assert plain.py_func is plain


def test_with_numba_the_function_is_compiled():
    pytest.importorskip("numba")
    fast = compiled(triangle)
    assert fast.py_func is triangle
    assert fast(100) == triangle(100)
    assert fast.signatures


def test_a_function_is_compiled_without_cache_if_none_is_writable(monkeypatch):
    numba = pytest.importorskip("numba")
    njit = numba.njit

    def without_cache(*args, **options):
        if options.get("cache"):
            raise RuntimeError("no locator available")
        return njit(*args, **options)

    monkeypatch.setattr(numba, "njit", without_cache)
    assert compiled(triangle)(100) == triangle(100)


def test_a_full_disk_costs_the_cache_alone(tmp_path):
    pytest.importorskip("numba")
    (tmp_path / "sums.py").write_text(
        "from ppose.utils.numba import compiled\n\n@compiled\ndef double(n):\n    return 2 * n\n"
    )
    code = (
        "import resource\nfrom sums import double\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))\nprint(double(4))"
    )
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert done.stdout == "8\n", done.stderr
