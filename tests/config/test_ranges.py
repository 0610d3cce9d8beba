"""Ranges of arguments: every number of everything that a config names has one."""

import inspect
from typing import Annotated, get_args, get_origin

import pytest

from ppose.config import ConfigError, build, registered
from ppose.config.ranges import Length, Range, bare, check_ranges, checked, describe, type_hints
from ppose.deploy.bundle import BundleNetwork
from ppose.deploy.detection.infer_cfg import OPERATORS, DetectorConfig
from ppose.experiment import Config

# Those of tests have no ranges.
CLASSES = [c for c in registered().values() if c.__module__.startswith("ppose.")]
CLASSES += [Config, BundleNetwork, DetectorConfig, *OPERATORS.values()]


def unbounded(hint):
    """The numbers in a type hint that could be as large as one likes."""
    kind, ranges = bare(hint)
    if kind in (int, float):
        bounded = any({r.least, r.above} != {None} and {r.most, r.below} != {None} for r in ranges)
        return [] if bounded else [kind]
    return [found for inner in get_args(kind) for found in unbounded(inner)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_number_has_a_range_that_contains_its_default(cls):
    hints = type_hints(cls.__init__)
    for name, parameter in inspect.signature(cls).parameters.items():
        assert not unbounded(hints.get(name)), name
        if parameter.default is not parameter.empty:
            check_ranges({name: parameter.default}, hints)


def test_every_registered_class_is_looked_at():
    assert len(CLASSES) > 40


@pytest.mark.parametrize(
    ("range_", "inside", "outside", "text"),
    [
        (Range(least=0, most=1), [0, 0.5, 1, True], [-1e-9, 1.1, float("nan")], "in 0..1"),
        (Range(above=0, below=1), [0.5], [0, 1, float("nan")], "above 0 and below 1"),
        (Range(least=2), [2, 10**400], [1], "at least 2"),
        (Range(least=1, most=99, odd=True), [1, 99], [2, 101], "in 1..99 and odd"),
        (Range(least=0, most=64, multiple=16), [0, 16], [8], "in 0..64 and a multiple of 16"),
        (Length(1, 2), [[1], "ab"], [[], [1, 2, 3]], "of 1..2 items"),
    ],
)
def test_what_a_range_contains(range_, inside, outside, text):
    assert all(value in range_ for value in inside)
    assert not any(value in range_ for value in outside)
    assert str(range_) == text


Share = Annotated[float, Range(least=0, most=1)]


@checked
class Pan:
    def __init__(
        self,
        share: Share = 0.5,
        pair: tuple[Share, Share] = (0, 0),
        maybe: Share | None = None,
        each: Annotated[list[Share], Length(1, 3)] | None = None,
        named: dict[str, Share] | None = None,
        either: Share | Annotated[list[Share], Length(2, 2)] = 0.5,
    ):
        self.share = share


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 2}, "share: expected float in 0..1, found {}2"),
        ({"share": float("nan")}, "share: expected float .*, found {}nan"),
        ({"pair": [0, -1]}, "pair.1: expected float in 0..1, found {}-1"),
        ({"pair": [0]}, "pair: expected 2 values, found .*"),
        ({"maybe": 3}, "maybe: expected float in 0..1, found {}3"),
        ({"each": []}, r"each: expected list \(float in 0..1\) of 1..3 items, found {}\[\]"),
        ({"each": [0, 5]}, "each.1: expected float in 0..1, found {}5"),
        ({"named": {"x": 5}}, "named.x: expected float in 0..1, found {}5"),
    ],
)
def test_ranges_hold_in_configs_and_in_python(arguments, message):
    with pytest.raises(ValueError, match=f"^{message.format('')}$"):
        Pan(**arguments)
    with pytest.raises(ConfigError, match=f"^{message.format('[a-z]* ?')}$"):
        build(arguments, Pan)


@pytest.mark.parametrize("either", [2, [0, 3], [0], [0, True], "x"])
def test_each_choice_of_a_union_has_its_own_range(either):
    with pytest.raises(ConfigError, match="either"):
        build({"either": either}, Pan)
    assert build({"either": [0, 1]}, Pan).share == 0.5


def test_a_hint_in_words():
    hint = Annotated[list[tuple[str, Share]], Length(0, 2)] | None
    assert describe(hint) == "list (list of 2 values (str, float in 0..1)) of 0..2 items or null"
    assert get_origin(hint) is not None
