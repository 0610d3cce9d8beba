"""Registry of classes by name, and `build`, which turns config nodes into objects.

A node is a dict with a `type:`. The type hints of the constructor are its schema. `check` validates
a node without creating objects; `build` validates it, then creates the objects, inner ones first.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ppose.utils.errors import PposeError

T = TypeVar("T")

_CLASSES: dict[str, type] = {}
# Former name → name of classes, and by class of their arguments.
_RENAMED: dict[str, str] = {}
_RENAMED_ARGUMENTS: dict[str, dict[str, str]] = {}


class ConfigError(PposeError, ValueError):
    """An invalid config; the message starts with the place of the error."""


def register(cls: type[T]) -> type[T]:
    """Class decorator: makes a class available to configs as `type: <its name>`."""
    if _CLASSES.get(cls.__name__, cls) is not cls:
        raise ValueError(f"two registered classes are named '{cls.__name__}'")
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(cls).parameters.values()):
        raise TypeError(f"{cls.__name__} takes **kwargs: its arguments cannot be checked")
    _CLASSES[cls.__name__] = cls
    return cls


def renamed(former: str | None = None, **arguments: str) -> Callable[[type[T]], type[T]]:
    """Class decorator, below `register`: deprecated names that older configs use.

    Args:
        former: former name of the class.
        arguments: former name → name of its arguments.
    """

    def decorate(cls: type[T]) -> type[T]:
        if former:
            _RENAMED[former] = cls.__name__
        _RENAMED_ARGUMENTS[cls.__name__] = arguments
        return cls

    return decorate


def current_names(node: Any, found: set[str] | None = None) -> Any:
    """A copy of a config, or of a part of it, with current names in place of former ones.

    Args:
        node: config; not changed.
        found: gets a line for each former name.
    """
    if isinstance(node, list | tuple):
        return [current_names(child, found) for child in node]
    if not isinstance(node, dict):
        return node
    made = {key: current_names(child, found) for key, child in node.items()}
    kind = node.get("type")
    if isinstance(kind, str) and kind in _RENAMED:
        made["type"] = _RENAMED[kind]
        if found is not None:
            found.add(f"'type: {kind}' is now 'type: {made['type']}'")
    return current_arguments(made.get("type"), made, found)


def current_arguments(kind: Any, node: dict, found: set[str] | None = None) -> dict:
    """The keys of a node of class `kind` with current names in place of former ones."""
    renames = _RENAMED_ARGUMENTS.get(kind, {}) if isinstance(kind, str) else {}
    for former, name in renames.items():
        if former in node and name not in node:
            node = {name if key == former else key: value for key, value in node.items()}
            if found is not None:
                found.add(f"'{former}' of {kind} is now '{name}'")
    return node


def registered(base: type = object) -> dict[str, type]:
    """All registered subclasses of `base`, by name."""
    return {name: cls for name, cls in sorted(_CLASSES.items()) if issubclass(cls, base)}


def nearest(word: str, known: Sequence[str]) -> str:
    """End of an error message about an unknown word: the closest known one, or all of them."""
    close = get_close_matches(word, known, 1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def build(node: Any, expected: Any = object, path: str = "") -> Any:
    """Builds the object that a config node describes.

    Args:
        node: a dict with `type:`, a list of nodes, or a plain value.
        expected: type hint of the result, e.g. `Backbone` or `list[Transform]`.
        path: dotted path of the node, for messages.

    Raises:
        ConfigError: `check` fails, or a constructor raises; the message has the path.
    """
    check(node, expected, path)
    return _make(node, expected, path)


def check(node: Any, expected: Any = object, path: str = "") -> None:
    """Validates a node against a type hint without creating objects; raises ConfigError."""
    expected = _without_none(expected) if node is not None else expected
    if isinstance(node, dict) and _makes_object(node, expected):
        _check_class(node, expected, path)
    elif _is_schema(expected):
        _check_name(node, expected, path)
    elif get_origin(expected) in (list, tuple, Sequence):
        _check_items(node, expected, path)
    elif not _accepts(node, expected):
        raise ConfigError(f"{path}: expected {_describe(expected)}, found {_found(node)}")
    elif isinstance(node, dict | list):
        _check_children(node, expected, path)


def with_defaults(node: Any, expected: Any = object) -> Any:
    """A checked node with all defaults and with shipped names replaced by their content.

    It describes the same object to a program that knows neither the defaults nor the names, nor
    what an object finds out by itself (its `node()`).
    """
    expected = _without_none(expected) if node is not None else expected
    if isinstance(node, dict) and _makes_object(node, expected):
        cls = _class_of(node, expected, "")
        if hasattr(cls, "node"):
            node = build(node, expected).node()
        hints = {name: hint for name, (hint, _) in _parameters(cls).items()}
        full = _defaults(cls) | {k: v for k, v in node.items() if k != "type"}
        kind = {"type": cls.__name__} if cls.__name__ in _CLASSES else {}
        return kind | {name: with_defaults(value, hints[name]) for name, value in full.items()}
    if _is_schema(expected) and isinstance(node, str):
        return with_defaults(expected.named(node).node(), expected)
    if isinstance(node, dict):
        return {key: with_defaults(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        hints_of = get_args(expected)
        fixed = get_origin(expected) is tuple and Ellipsis not in hints_of
        return [
            with_defaults(v, hints_of[i] if fixed else hints_of[0] if hints_of else object)
            for i, v in enumerate(node)
        ]
    return float(node) if expected is float else node


def _defaults(cls: type) -> dict[str, Any]:
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _check_children(node: dict | list, expected: Any, path: str) -> None:
    """Validates the nodes in a dict or list whose own schema is open."""
    hint = get_args(expected)[1] if get_origin(expected) is dict else object
    for key, child in node.items() if isinstance(node, dict) else enumerate(node):
        check(child, hint, _join(path, key))


def _check_items(node: Any, expected: Any, path: str) -> None:
    if not isinstance(node, list | tuple):
        raise ConfigError(f"{path}: expected {_describe(expected)}, found {_found(node)}")
    hints = get_args(expected)
    fixed = get_origin(expected) is tuple and Ellipsis not in hints
    if fixed and len(hints) != len(node):
        raise ConfigError(f"{path}: expected {len(hints)} values, found {len(node)}: {node}")
    for i, child in enumerate(node):
        check(child, hints[i] if fixed else hints[0], _join(path, i))


def _check_class(node: dict, expected: Any, path: str) -> None:
    cls = _class_of(node, expected, path)
    parameters = _parameters(cls)
    for key, value in node.items():
        if key == "type":
            continue
        if key not in parameters:
            raise ConfigError(
                f"{_join(path, key)}: {cls.__name__} has no argument '{key}'"
                + nearest(str(key), list(parameters))
            )
        check(value, parameters[key][0], _join(path, key))
    missing = [k for k, (_, required) in parameters.items() if required and k not in node]
    if missing:
        raise ConfigError(f"{path or cls.__name__}: {cls.__name__} needs '{missing[0]}'")


def _check_name(node: Any, expected: type, path: str) -> None:
    """Validates a string in place of an object: the name of a shipped one."""
    if not (isinstance(node, str) and hasattr(expected, "named")):
        form = f"; {expected.form}" if hasattr(expected, "form") else ""
        raise ConfigError(f"{path}: expected {_describe(expected)}, found {_found(node)}{form}")
    try:
        expected.named(node)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _make(node: Any, expected: Any, path: str) -> Any:
    expected = _without_none(expected) if node is not None else expected
    if isinstance(node, dict) and _makes_object(node, expected):
        cls = _class_of(node, expected, path)
        parameters = _parameters(cls)
        arguments = {
            k: _make(v, parameters[k][0], _join(path, k)) for k, v in node.items() if k != "type"
        }
        try:
            return cls(**arguments)
        except ConfigError:
            raise
        except (ValueError, TypeError, ArithmeticError) as error:
            raise ConfigError(f"{path or cls.__name__}: {error}") from error
    if _is_schema(expected):
        return expected.named(node)
    if isinstance(node, dict):
        return {k: _make(v, object, _join(path, k)) for k, v in node.items()}
    if isinstance(node, list | tuple):
        hints = get_args(expected)
        fixed = get_origin(expected) is tuple and Ellipsis not in hints
        made = [
            _make(v, hints[i] if fixed else hints[0] if hints else object, _join(path, i))
            for i, v in enumerate(node)
        ]
        return tuple(made) if get_origin(expected) is tuple else made
    return float(node) if expected is float else node


def _class_of(node: dict, expected: Any, path: str) -> type:
    base = expected if _is_schema(expected) else object
    name = node.get("type")
    if name is None:
        choices = registered(base)
        if choices and choices.keys() != {base.__name__}:
            raise ConfigError(
                f"{path or base.__name__}: needs a 'type': one of {', '.join(choices)}"
            )
        return base
    if not isinstance(name, str) or name not in _CLASSES:
        raise ConfigError(
            f"{_join(path, 'type')}: nothing is registered as '{name}'"
            + nearest(str(name), list(registered(base)))
        )
    if not issubclass(_CLASSES[name], base):
        raise ConfigError(
            f"{_join(path, 'type')}: '{name}' is not a subclass of {base.__name__}"
            + nearest(name, list(registered(base)))
        )
    return _CLASSES[name]


@cache
def _parameters(cls: type) -> dict[str, tuple[Any, bool]]:
    """Argument → (type hint, whether it is required)."""
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    return {
        name: (hints.get(name, object), p.default is p.empty)
        for name, p in inspect.signature(cls).parameters.items()
    }


def _makes_object(node: dict, hint: Any) -> bool:
    """Whether a dict describes an object rather than being a plain value."""
    if get_origin(hint) in (Union, types.UnionType):
        return "type" in node and any(_makes_object(node, h) for h in get_args(hint))
    return _is_schema(hint) or ("type" in node and hint in (object, Any))


def _is_schema(hint: Any) -> bool:
    """Whether a hint is a class whose constructor arguments a dict may hold."""
    # On Python 3.10 generic aliases such as list[int] count as classes.
    is_plain_class = inspect.isclass(hint) and get_origin(hint) is None
    return is_plain_class and hint.__module__ not in ("builtins", "typing")


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        rest = [h for h in get_args(hint) if h is not type(None)]
        return rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007
    return hint


def _accepts(value: Any, hint: Any) -> bool:
    if hint in (object, Any):
        return True
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_accepts(value, h) for h in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple)
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and abs(value) <= sys.float_info.max  # false for NaN
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(v) for v in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(h) for h in get_args(hint))
    if get_origin(hint):
        return str(hint).replace("typing.", "")
    if hint is float:
        return "float (finite)"
    return getattr(hint, "__name__", str(hint)).replace("NoneType", "null")


def _found(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {value!r}"


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
