"""Registry of classes by name, and `build`, which turns config nodes into objects.

A node is a dict with a `type:`. The type hints of the constructor are its schema. `check` validates
a node without creating objects; `build` validates it, then creates the objects, inner ones first.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from reprlib import Repr
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from ppose.config.ranges import bare, checked, describe, is_union, type_hints
from ppose.utils.errors import PposeError

T = TypeVar("T")

_CLASSES: dict[str, type] = {}
# Former name → name of classes, and by class of their arguments.
_RENAMED: dict[str, str] = {}
_RENAMED_ARGUMENTS: dict[str, dict[str, str]] = {}


_MAX_MESSAGE = 1000  # characters
_MAX_WORD = 100


class ConfigError(PposeError, ValueError):
    """An invalid config; the message starts with the place of the error.

    What a message quotes may come from a file that somebody else wrote: it is one line of printable
    characters, and its end is left out if it is long.
    """

    def __init__(self, message: str):
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message[:_MAX_MESSAGE])
        super().__init__(line + " …" * (len(message) > _MAX_MESSAGE))


def register(cls: type[T]) -> type[T]:
    """Class decorator: makes a class available to configs as `type: <its name>`.

    The ranges in its hints hold for every call of the constructor, see `checked`.
    """
    if _CLASSES.get(cls.__name__, cls) is not cls:
        raise ValueError(f"two registered classes are named '{cls.__name__}'")
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(cls).parameters.values()):
        raise TypeError(f"{cls.__name__} takes **kwargs: its arguments cannot be checked")
    _CLASSES[cls.__name__] = checked(cls)
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


def nearest(word: str, known: Sequence[str], node: Any = None, path: str = "") -> str:
    """End of an error message about an unknown word: the closest known one, or all of them.

    Args:
        word: what was given.
        known: what it could have been.
        node: where the words are keys, what they are keys of: the word may be a key deeper in it.
        path: dotted path of the node.
    """
    if deeper := places(word, node, path):
        return f"; did you mean {' or '.join(map(repr, deeper[:3]))}?"
    close = get_close_matches(word, known, 1) if len(word) <= _MAX_WORD else []
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def places(key: str, node: Any, path: str = "") -> list[str]:
    """Dotted paths of a key in dicts and lists below `path`, those of the least depth first."""
    found: list[str] = []
    level = [(path, node)]
    while level:
        named = [
            (_join(above, name), name, child)
            for above, inner in level
            if isinstance(inner, dict | list)
            for name, child in (inner.items() if isinstance(inner, dict) else enumerate(inner))
        ]
        found += [place for place, name, _ in named if name == key]
        level = [(place, child) for place, _, child in named]
    return found


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
    hint = _choice(node, expected)
    expected, ranges = bare(hint)
    if isinstance(node, dict) and _makes_object(node, expected):
        _check_class(node, expected, path)
    elif _is_schema(expected):
        _check_name(node, expected, path)
    elif get_origin(expected) in (list, tuple, Sequence):
        if not _accepts(node, expected):
            raise _unexpected(path, hint, node)
        _check_items(node, expected, path)
    elif not _accepts(node, expected):
        raise _unexpected(path, hint, node)
    elif isinstance(node, dict | list):
        _check_children(node, expected, path)
    for each in ranges:
        if node not in each:
            raise _unexpected(path, hint, node)


def with_defaults(node: Any, expected: Any = object) -> Any:
    """A checked node with all defaults and with shipped names replaced by their content.

    It describes the same object to a program that knows neither the defaults nor the names, nor
    what an object finds out by itself (its `node()`).
    """
    expected, _ = bare(_choice(node, expected))
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
    key_hint, hint = get_args(expected) if _is_mapping(expected) else (object, object)
    for key, child in node.items() if isinstance(node, dict) else enumerate(node):
        if not _accepts(key, key_hint):
            raise _unexpected(f"{path}: a key", key_hint, key)
        check(child, hint, _join(path, key))


def _check_items(node: Any, expected: Any, path: str) -> None:
    hints = get_args(expected)
    fixed = get_origin(expected) is tuple and Ellipsis not in hints
    if fixed and len(hints) != len(node):
        raise ConfigError(
            f"{path}: expected {len(hints)} values, found {len(node)}: {_short.repr(node)}"
        )
    for i, child in enumerate(node):
        check(child, hints[i] if fixed else hints[0], _join(path, i))


def _check_class(node: dict, expected: Any, path: str) -> None:
    cls = _class_of(node, expected, path)
    parameters = _parameters(cls)
    for key in node:
        if key not in parameters and key != "type":
            known = {k: v for k, v in node.items() if k in parameters}
            raise ConfigError(
                f"{_join(path, key)}: {cls.__name__} has no argument '{key}'"
                + nearest(str(key), list(parameters), known, path)
            )
    # In this order the error is about `input_size` before all that refers to it.
    for key, (hint, _) in parameters.items():
        if key in node:
            check(node[key], hint, _join(path, key))
    missing = [k for k, (_, required) in parameters.items() if required and k not in node]
    if missing:
        raise ConfigError(f"{path or cls.__name__}: {cls.__name__} needs '{missing[0]}'")


def _check_name(node: Any, expected: type, path: str) -> None:
    """Validates a string in place of an object: the name of a shipped one."""
    if not (isinstance(node, str) and hasattr(expected, "named")):
        raise _unexpected(path, expected, node, getattr(expected, "form", ""))
    try:
        expected.named(node)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _make(node: Any, expected: Any, path: str) -> Any:
    expected, _ = bare(_choice(node, expected))
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
        except MemoryError:
            raise ConfigError(
                f"{path or cls.__name__}: there is not enough memory for it"
            ) from None
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
    hints = type_hints(cls.__init__)  # type: ignore[misc]
    return {
        name: (hints.get(name, object), p.default is p.empty)
        for name, p in inspect.signature(cls).parameters.items()
    }


def _makes_object(node: dict, hint: Any) -> bool:
    """Whether a dict describes an object rather than being a plain value."""
    if is_union(hint):
        return "type" in node and any(_makes_object(node, h) for h in get_args(hint))
    return _is_schema(hint) or ("type" in node and hint in (object, Any))


def _is_schema(hint: Any) -> bool:
    """Whether a hint is a class whose constructor arguments a dict may hold."""
    # On Python 3.10 generic aliases such as list[int] count as classes.
    is_plain_class = inspect.isclass(hint) and get_origin(hint) is None
    return is_plain_class and hint.__module__ not in ("builtins", "typing")


def _choice(node: Any, hint: Any) -> Any:
    """The type of a union that a node is checked against; other hints as they are."""
    if not is_union(hint):
        return hint
    hints = [h for h in get_args(hint) if h is not type(None) or node is None]
    if len(hints) == 1:
        return hints[0]
    if isinstance(node, dict) and _makes_object(node, Union[tuple(hints)]):  # noqa: UP007
        return Union[tuple(hints)]  # noqa: UP007
    fitting = (h for h in hints if _accepts(node, bare(h)[0]))
    return next(fitting, Union[tuple(hints)])  # noqa: UP007


def _is_mapping(hint: Any) -> bool:
    return get_origin(hint) in (dict, Mapping)


def _accepts(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, apart from ranges and from what is in it."""
    hint, _ = bare(hint)
    if hint in (object, Any):
        return True
    origin = get_origin(hint)
    if is_union(hint):
        return any(_accepts(value, h) for h in get_args(hint))
    if origin is Literal:
        # True is not 1.
        return any(value == each and type(value) is type(each) for each in get_args(hint))
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple)
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and abs(value) <= sys.float_info.max  # false for NaN
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


# Of values in messages.
_short = Repr()
_short.maxstring = _short.maxother = _short.maxlong = 100


def _unexpected(path: str, hint: Any, value: Any, advice: str = "") -> ConfigError:
    found = "null" if value is None else f"{type(value).__name__} {_short.repr(value)}"
    advice = f"; {advice}" if advice else ""
    return ConfigError(f"{path}: expected {describe(hint)}, found {found}{advice}")


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
