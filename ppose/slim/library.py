"""PaddleSlim's modules, imported when they are first needed: that takes seconds, and warns."""

import importlib
import warnings
from functools import cache
from types import ModuleType


@cache
def paddleslim(module: str) -> ModuleType:
    """A module by its name below `paddleslim`."""
    with warnings.catch_warnings():
        # Of setuptools, about things that PaddleSlim still uses.
        warnings.simplefilter("ignore")
        return importlib.import_module(f"paddleslim.{module}")
