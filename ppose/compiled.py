"""Numba where it is installed, plain Python elsewhere: deployment needs NumPy and OpenCV only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]


def compiled(function: Callable) -> Any:
    """Compiles a function of Numba's subset and keeps the machine code on disk.

    Returns:
        the compiled function, or without Numba the function itself. `py_func` of the result is
        the plain function in both cases.
    """
    if numba is None:
        function.py_func = function  # type: ignore[attr-defined]
        return function
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # there is no directory that the cache can be written to
        return numba.njit(function)
