"""Ranges of arguments, as parts of their type hints: `sigma: Annotated[float, Range(above=0)]`.

The schema of a config has them (`ppose.config.registry`), and `checked` makes them hold for
constructors that Python code calls.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Range of a number.

    Args:
        least, most: bounds that the range contains.
        above, below: bounds that it does not contain.
        multiple: an integer has to be a multiple of it.
        odd: an integer has to be odd.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    multiple: int = 1
    odd: bool = False

    def __contains__(self, value: Any) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.multiple == 1 or value % self.multiple == 0)
            and (not self.odd or value % 2 == 1)
        )

    def __str__(self) -> str:
        """What the range is, after the name of a type: "in 0..1"."""
        if self.least is not None and self.most is not None:
            words = [f"in {self.least:g}..{self.most:.10g}"]
        else:
            words = [
                f"{name} {bound:.10g}"
                for name, bound in (
                    ("at least", self.least),
                    ("above", self.above),
                    ("at most", self.most),
                    ("below", self.below),
                )
                if bound is not None
            ]
        if self.multiple > 1:
            words.append(f"a multiple of {self.multiple}")
        return " and ".join([*words, "odd"] if self.odd else words)


@dataclass(frozen=True)
class Length:
    """Number of items in a list."""

    least: int = 0
    most: int = 1000

    def __contains__(self, items: Any) -> bool:
        return self.least <= len(items) <= self.most

    def __str__(self) -> str:
        return f"of {self.least}..{self.most} items"


Share = Annotated[float, Range(least=0, most=1)]
Grey = Annotated[int, Range(least=0, most=255)]
Index = Annotated[int, Range(least=0, most=2**53)]  # or an id
Side = Annotated[int, Range(least=1, most=8192)]  # pixels
Size = tuple[Side, Side]
Count = Annotated[int, Range(least=1, most=10**9)]
Stride = Annotated[int, Range(least=1, most=256)]  # pixels
Steps = Annotated[int, Range(least=0, most=10**9)]  # of training, or epochs
Rate = Annotated[float, Range(above=0, most=100)]  # learning rate
Factor = Annotated[float, Range(above=0, most=1e6)]
Weight = Annotated[float, Range(least=0, most=1e6)]
Sigma = Annotated[float, Range(above=0, most=1000)]  # cells or pixels
Padding = Annotated[float, Range(above=0, most=100)]
Colour = tuple[Share, Share, Share]
Deviation = tuple[
    Annotated[float, Range(above=0, most=1)],
    Annotated[float, Range(above=0, most=1)],
    Annotated[float, Range(above=0, most=1)],
]


def checked(cls: type[T]) -> type[T]:
    """Class decorator: calls of the constructor raise ValueError for arguments out of range."""
    init: Callable = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(init)

    @wraps(init)
    def checking(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        check_ranges(given, type_hints(init))
        init(self, *args, **kwargs)

    cls.__init__ = checking  # type: ignore[method-assign]
    return cls


@cache
def type_hints(of: Any) -> dict[str, Any]:
    """Type hints of a class or function, with their ranges."""
    return get_type_hints(of, include_extras=True)


def check_ranges(arguments: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raises ValueError for the first argument that is not in the range that its hint has."""
    for name, value in arguments.items():
        _check(name, value, hints.get(name))


def _check(name: str, value: Any, hint: Any) -> None:
    kind, ranges = bare(hint)
    for each in ranges:
        if value not in each:
            raise ValueError(f"{name}: expected {describe(hint)}, found {value}")
    inner = get_args(kind)
    if get_origin(kind) in (tuple, list, Sequence) and isinstance(value, list | tuple):
        fixed = get_origin(kind) is tuple and Ellipsis not in inner
        if fixed and len(inner) != len(value):
            raise ValueError(f"{name}: expected {len(inner)} values, found {value}")
        for i, item in enumerate(value):
            _check(f"{name}.{i}", item, inner[i] if fixed else inner[0])
    elif get_origin(kind) is dict and isinstance(value, dict):
        for key, item in value.items():
            _check(f"{name}.{key}", item, inner[1])
    elif is_union(kind) and value is not None:
        choices = [h for h in inner if h is not type(None)]
        if len(choices) == 1:
            _check(name, value, choices[0])


def bare(hint: Any) -> tuple[Any, tuple[Range | Length, ...]]:
    """A hint without its ranges, and the ranges."""
    if get_origin(hint) is not Annotated:
        return hint, ()
    kind, *extras = get_args(hint)
    return kind, tuple(each for each in extras if isinstance(each, Range | Length))


def is_union(hint: Any) -> bool:
    """Whether a hint is of several types."""
    return get_origin(hint) in (Union, types.UnionType)


def describe(hint: Any) -> str:
    """What a type hint accepts, in words."""
    kind, ranges = bare(hint)
    return " ".join(["float" if ranges and kind is float else _kind(kind), *map(str, ranges)])


def _kind(kind: Any) -> str:
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(v) for v in inner)
    if is_union(kind):
        return " or ".join(map(describe, inner))
    if get_origin(kind) is tuple and Ellipsis not in inner:
        return f"list of {len(inner)} values ({', '.join(map(describe, inner))})"
    if get_origin(kind) in (list, tuple, Sequence):
        return f"list ({describe(inner[0])})"
    if get_origin(kind) in (dict, Mapping):
        return f"dict ({describe(inner[0])}: {describe(inner[1])})"
    if kind is float:
        return "float (finite)"
    return getattr(kind, "__name__", str(kind)).replace("NoneType", "null")
