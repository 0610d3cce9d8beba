"""Numba where it is installed, plain Python elsewhere: deployment needs NumPy and OpenCV only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]

# The loop that `compiled(parallel=True)` shares out to the cores.
prange = range if numba is None else numba.prange


def compiled(function: Callable | None = None, **options: Any) -> Any:
    """Compiles a function of Numba's subset and keeps the machine code on disk.

    Args:
        function: what to compile; None gives a decorator.
        options: of `numba.njit`.

    Returns:
        the compiled function, or without Numba the function itself. `py_func` of the result is
        the plain function in both cases.
    """
    if function is None:
        return partial(compiled, **options)
    if numba is None:
        function.py_func = function  # type: ignore[attr-defined]
        return function
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # there is no directory that the cache can be written to
        return numba.njit(**options)(function)
