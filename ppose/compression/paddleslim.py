"""Lazy import of PaddleSlim, which takes seconds and emits warnings."""

import importlib
import warnings
from functools import cache
from types import ModuleType


@cache
def paddleslim(module: str) -> ModuleType:
    """Imports `paddleslim.<module>`."""
    with warnings.catch_warnings():
        # setuptools warns about deprecated features that PaddleSlim uses.
        warnings.simplefilter("ignore")
        return importlib.import_module(f"paddleslim.{module}")
