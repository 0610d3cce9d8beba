"""Numba where it is installed, plain Python elsewhere: deployment needs NumPy and OpenCV only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable)

try:
    import numba
except ImportError:
    numba = None


def compiled(function: F) -> F:
    """Compiles a function of Numba's subset and keeps the machine code on disk.

    Without Numba it returns the function itself. `py_func` of the result is the plain function
    in both cases.
    """
    if numba is None:
        function.py_func = function  # type: ignore[attr-defined]
        return function
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # no directory for the cache can be written
        return numba.njit(function)
