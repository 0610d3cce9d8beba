"""The registry: building objects from nodes, and errors that say where and what is wrong."""

from collections.abc import Sequence
from typing import Any, Literal, get_origin

import pytest

from ppose.config import ConfigError, build, check, register, registered


class Animal:
    pass


@register
class Mouse(Animal):
    def __init__(self, width: int = 3, mode: Literal["slow", "fast"] = "slow", lr: float = 1.0):
        if width > 99:
            raise ValueError("too wide")
        self.width, self.mode, self.lr = width, mode, lr


@register
class Cage:
    def __init__(
        self, animal: Animal, size_wh: tuple[int, int], others: list[Animal] | None = None
    ):
        self.animal, self.size_wh, self.others = animal, size_wh, others


class Label:
    def __init__(self, text: str):
        self.text = text


MOUSE = {"type": "Mouse"}


def test_inner_objects_are_built_first():
    cage = build(
        {"type": "Cage", "animal": MOUSE | {"lr": 1}, "size_wh": [1, 2], "others": [MOUSE, MOUSE]}
    )
    assert isinstance(cage.animal, Mouse)
    assert isinstance(cage.animal.lr, float)
    assert cage.size_wh == (1, 2)
    assert [type(other) for other in cage.others] == [Mouse, Mouse]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            MOUSE | {"widht": 1},
            "x.animal.widht: Mouse has no argument 'widht'; did you mean 'width'?",
        ),
        (MOUSE | {"width": "a"}, "x.animal.width: expected int, found str 'a'"),
        (MOUSE | {"width": True}, "x.animal.width: expected int, found bool True"),
        (MOUSE | {"width": None}, "x.animal.width: expected int, found null"),
        (
            MOUSE | {"mode": "fats"},
            "x.animal.mode: expected one of 'slow', 'fast', found str 'fats'",
        ),
        (MOUSE | {"width": 3.0}, "x.animal.width: expected int, found float 3.0"),
        (MOUSE | {"lr": float("inf")}, "x.animal.lr: expected float \\(finite\\), found float inf"),
        (MOUSE | {"lr": 10**400}, "x.animal.lr: expected float \\(finite\\), found int 1000"),
        (MOUSE | {"width": MOUSE}, "x.animal.width: expected int, found dict {"),
        (MOUSE | {"width": 100}, "x.animal: too wide"),
        ({"type": None}, "x.animal: needs a 'type': one of Mouse"),
        ({"type": ["Mouse"]}, "x.animal.type: nothing is registered as '\\['Mouse'\\]'"),
        ({"type": "Mous"}, "x.animal.type: nothing is registered as 'Mous'; did you mean 'Mouse'?"),
        ({"type": "Cage"}, "x.animal.type: 'Cage' is not a subclass of Animal"),
        (5, "x.animal: expected Animal, found int 5"),
        (None, "x.animal: expected Animal, found null"),
    ],
)
def test_invalid_nodes_are_errors_with_their_path(node, message):
    with pytest.raises(ConfigError, match="^" + message.replace("?", r"\?")):
        build({"type": "Cage", "animal": node, "size_wh": [1, 2]}, path="x")


@register
class Zoo:
    def __init__(
        self,
        animals: Sequence[Animal] = (),
        weights: list[float] | None = None,
        mode: Literal["a", "b"] = "a",
    ):
        self.ratio = 1 / (len(animals) - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"animals": [{"width": 1}]}, "animals.0: needs a 'type': one of Mouse"),
        ({"animals": MOUSE}, "animals: expected .*, found dict"),
        ({"mode": MOUSE}, "mode: expected one of 'a', 'b', found dict"),
        ({"weights": MOUSE}, "weights: expected .*, found dict"),
        ({"weights": [float("nan")]}, "weights.0: expected float \\(finite\\), found float nan"),
        ({"animals": [MOUSE]}, "Zoo: .*division by zero"),
    ],
)
def test_nodes_inside_sequences_are_checked(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build({"type": "Zoo", **arguments})


@pytest.mark.parametrize("hint", [Sequence[float], list[int], tuple[int, ...], dict[str, int]])
def test_generic_hints_are_not_classes(hint):
    """On Python 3.10, inspect.isclass is true for them."""
    value = {"a": 1} if get_origin(hint) is dict else [1, 2]
    check(value, hint)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ([1], "size_wh: expected 2 values, found 1"),
        (7, "size_wh: expected .*, found int 7"),
        ([1, "b"], "size_wh.1: expected int, found str 'b'"),
    ],
)
def test_items_of_sequences_are_checked(size, message):
    with pytest.raises(ConfigError, match=message):
        check({"type": "Cage", "animal": MOUSE, "size_wh": size})


@pytest.mark.parametrize("hint", [list, list[Animal], tuple[int, int], Sequence[Animal], str])
def test_a_node_is_not_a_plain_value(hint):
    with pytest.raises(ConfigError, match=r"steps: expected .*, found dict \{'type': 'Mouse'\}"):
        build(MOUSE, hint, "steps")


@pytest.mark.parametrize("hint", [Any, object, Animal, Animal | None, Animal | int])
def test_a_node_is_an_object(hint):
    assert isinstance(build(MOUSE, hint), Mouse)


def test_a_class_without_subclasses_needs_no_type():
    assert [label.text for label in build([{"text": "a"}, {"text": "b"}], list[Label])] == [
        "a",
        "b",
    ]


def test_a_missing_required_argument_is_named():
    with pytest.raises(ConfigError, match="model: Cage needs 'animal'"):
        check({"type": "Cage", "size_wh": [1, 2]}, path="model")


def test_check_calls_no_constructor():
    """A value that only the constructor refuses passes."""
    check({"type": "Mouse", "width": 100})


def test_two_classes_of_the_same_name_are_an_error():
    with pytest.raises(ValueError, match="named 'Mouse'"):
        register(type("Mouse", (), {}))


def test_variable_keyword_arguments_are_an_error():
    class Open:
        def __init__(self, **rest): ...

    with pytest.raises(TypeError, match="cannot be checked"):
        register(Open)


def test_registered_lists_subclasses():
    assert set(registered(Animal)) == {"Mouse"}
