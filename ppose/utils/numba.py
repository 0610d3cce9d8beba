"""Numba if it is installed, else plain Python: deployment requires only NumPy and OpenCV."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]

# The loop that `compiled(parallel=True)` runs on all cores.
prange = range if numba is None else numba.prange


def compiled(function: Callable | None = None, **options: Any) -> Any:
    """`numba.njit` with a cache on disk; without Numba, the function itself.

    Args:
        function: function to compile; None returns a decorator.
        options: options of `numba.njit`.

    Returns:
        the compiled function, or without Numba the function itself. Its attribute `py_func` is
        the Python function in both cases.
    """
    if function is None:
        return partial(compiled, **options)
    if numba is None:
        function.py_func = function  # type: ignore[attr-defined]
        return function
    try:
        fast = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no directory for the cache is writable
        return numba.njit(**options)(function)
    # On a full disk the function is compiled again next time.
    cache = fast._cache
    save = cache.save_overload

    def save_if_there_is_room(*arguments: Any) -> None:
        with suppress(OSError):
            save(*arguments)

    cache.save_overload = save_if_there_is_room
    return fast
