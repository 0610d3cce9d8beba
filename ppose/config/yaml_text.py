"""YAML from anywhere: plain values, within limits of size that hold while it is parsed.

A few hundred bytes of YAML can stand for gigabytes, by aliases, and the recursion of
parsers ends in a crash; whatever reads YAML in ppose reads it here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.resolver import BaseResolver, Resolver

try:
    from yaml.cyaml import CParser as _Parser  # type: ignore[attr-defined]  # ten times as fast
except ImportError:  # PyYAML was built without libyaml

    class _Parser(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):  # type: ignore[no-redef]
        """The parser in Python."""

        def __init__(self, stream: str):
            yaml.reader.Reader.__init__(self, stream)
            yaml.scanner.Scanner.__init__(self)
            yaml.parser.Parser.__init__(self)


from ppose.config.registry import ConfigError

MAX_BYTES = 1_000_000
MAX_VALUES = 50_000
MAX_DEPTH = 50
_MAX_DIGITS = 50
_TAG = "tag:yaml.org,2002:"
_KINDS = ("null", "bool", "int", "float", "merge")


class _Resolver(BaseResolver):
    """Kinds of plain scalars: as in YAML 1.2 `off` is text, `5e-4` a number, and dates are text."""


for _tag, _rule, _first in (
    (_TAG + "bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    (
        _TAG + "float",
        re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+0123456789."),
    ),
):
    _Resolver.add_implicit_resolver(_tag, _rule, _first)
for _start, _rules in Resolver.yaml_implicit_resolvers.items():
    for _tag, _rule in _rules:
        if _tag.removeprefix(_TAG) in _KINDS and _tag != _TAG + "bool":
            _Resolver.add_implicit_resolver(_tag, _rule, [_start])


class _Loader(Composer, _Parser, SafeConstructor, _Resolver):  # type: ignore[misc]
    """Safe YAML (no tags, so that nothing but plain values is built) without duplicate keys."""

    def __init__(self, text: str):
        _Parser.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        _Resolver.__init__(self)
        self._values = self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise ConstructorError(
                None, None, f"the tag {event.tag} is not allowed; write the value alone",
                event.start_mark,
            )  # fmt: skip
        self._values += 1
        self._depth += 1
        if self._values > MAX_VALUES:
            raise _too_many()
        if self._depth > MAX_DEPTH:
            raise _too_deep()
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        self.deep_construct = True  # refuses an anchor that contains itself
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key is a list or dict", key.start_mark)
            if key.tag == _TAG + "merge":
                raise ConstructorError(None, None, "merge keys are not allowed", key.start_mark)
            name = self.construct_object(key)
            if name in seen:
                raise ConstructorError(None, None, f"duplicate key '{name}'", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise ConstructorError(None, None, "a character that no text has", node.start_mark)
        if node.tag in (_TAG + "int", _TAG + "float") and len(value) > _MAX_DIGITS:
            raise ConstructorError(None, None, f"a number of {len(value)} digits", node.start_mark)
        return value


class _Dumper(yaml.SafeDumper):
    """Writes lists of plain values on one line, and quotes what `_Loader` takes for a number."""

    yaml_implicit_resolvers = _Resolver.yaml_implicit_resolvers

    def represent_sequence(
        self, tag: str, sequence: Any, flow_style: Any = None
    ) -> yaml.SequenceNode:
        flat = not any(isinstance(v, dict | list) for v in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flat)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: not YAML.
        ConfigError: beyond `MAX_BYTES`, `MAX_VALUES` or `MAX_DEPTH`.
    """
    _check_size(len(text))
    loader = _Loader(text)
    try:
        value = loader.get_single_data()
    except RecursionError:
        raise _too_deep() from None
    except (ValueError, ArithmeticError) as error:
        if isinstance(error, ConfigError):
            raise
        raise yaml.YAMLError(f"{error}") from None
    finally:
        loader.dispose()
    check_amount(value)
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a mapping from an untrusted YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: not YAML, not a mapping, or beyond the limits of `parse_yaml`.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        _check_size(len(data))
        node = parse_yaml(data.decode("utf-8-sig"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; take the original file") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = ": ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{path}: not valid YAML: {place}{problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if node is None:
        return {}
    if not isinstance(node, dict):
        raise ConfigError(f"{path}: expected keys and values, found a {type(node).__name__}")
    return node


def check_amount(data: Any) -> None:
    """Raises ConfigError for data of too many values, or too deep, as aliases can make it."""
    pending, count = [(data, 1)], 0
    while pending:
        node, depth = pending.pop()
        count += 1
        if count > MAX_VALUES:
            raise _too_many()
        if depth > MAX_DEPTH:
            raise _too_deep()
        inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        pending += ((each, depth + 1) for each in inner)


def dump_config(config: dict[str, Any]) -> str:
    """The config as YAML, from which `load_config` reads the same dict."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=100)


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ConfigError(f"more than {MAX_BYTES // 1000} kB")


def _too_many() -> ConfigError:
    return ConfigError(f"more than {MAX_VALUES} values")


def _too_deep() -> ConfigError:
    return ConfigError(f"more than {MAX_DEPTH} lists and dicts inside each other")
