"""YAML configs: `_base_`, `-o key=value` overrides, `${a.b.c}` references, a checked result.

Order: bases are merged, then overrides are set, then references are resolved, so that every use
of an overridden value follows. The result is a plain dict and itself a valid config.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from ppose.registry import ConfigError, nearest

_MOST_VALUES = 100_000
_MOST_BYTES = 10_000_000
_REFERENCE = re.compile(r"\$\{([^${}]+)\}")


class _Loader(yaml.SafeLoader):
    """Safe YAML (no tags that build objects) that reads 5e-4 as a float and refuses a key twice."""

    def construct_document(self, node: yaml.Node) -> Any:
        self.deep_construct = True  # refuses an anchor that holds itself
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for node_of_key, _ in node.value:
            key = self.construct_object(node_of_key, deep=deep)
            if not isinstance(key, Hashable):
                continue  # is refused below
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", node_of_key.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Short lists of plain values stay on one line."""

    def represent_sequence(
        self, tag: str, sequence: Any, flow_style: Any = None
    ) -> yaml.SequenceNode:
        flat = not any(isinstance(v, dict | list) for v in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flat)

    def ignore_aliases(self, data: Any) -> bool:
        return True


# YAML 1.2 knows no other booleans, so that `amp: off` is a text. Resolvers are shared by class.
for _handler in (_Loader, _Dumper):
    _handler.yaml_implicit_resolvers = {
        start: [(tag, rule) for tag, rule in rules if tag != "tag:yaml.org,2002:bool"]
        for start, rules in _handler.yaml_implicit_resolvers.items()
    }
    _handler.add_implicit_resolver(
        "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
    )

# The dumper too, so that it quotes the text "1e3".
for _handler in (_Loader, _Dumper):
    _handler.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+0123456789."),
    )


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a config file with its bases and overrides.

    Args:
        path: YAML file. Its `_base_` is one path or a list of paths, relative to the file.
            `${here}` stands for the folder of the file in which it is written.
        overrides: "key=value" texts; `a.b.0.c` reaches into dicts and lists, values are YAML.

    Returns:
        Plain dict with every reference resolved; `name` is the file's unless it is given.

    Raises:
        FileNotFoundError: the file or one of its bases is missing.
        ConfigError: not YAML, a circle of bases or references, an override that reaches nothing.
    """
    config = _read(Path(path), ())
    config = {"name": Path(path).stem} | config
    for override in _ordered(config, overrides):
        _override(config, override)
    return _resolve(config, config, ())


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file that may come from anywhere; an empty file has none.

    Raises:
        ConfigError: not YAML, no keys and values, or far too much: above 10 MB, or 100,000 values,
            for which a few lines of aliases are enough.
    """
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{path}: more than {_MOST_BYTES // 10**6} MB; take the original file")
    try:
        node = yaml.load(data.decode("utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if node is None:
        return {}
    if not isinstance(node, dict):
        raise ConfigError(f"{path}: expected keys and values, found a {type(node).__name__}")
    _check_amount(path, node)
    return node


def _check_amount(path: Path, data: Any) -> None:
    """Refuses the few lines that YAML's aliases blow up to billions of values."""
    waiting, count = [data], 0
    while waiting:
        node = waiting.pop()
        count += 1
        if count > _MOST_VALUES:
            raise ConfigError(f"{path}: more than {_MOST_VALUES} values; take the original file")
        waiting += (
            node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        )


def dump_config(config: dict[str, Any]) -> str:
    """The config as YAML; `load_config` reads the same dict from it."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=100)


def _read(path: Path, parents: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in parents:
        circle = " → ".join(p.name for p in (*parents, path))
        raise ConfigError(f"{path}: _base_ goes in a circle: {circle}")
    if not path.is_file():
        raise FileNotFoundError(_missing(path, parents))
    node = read_yaml(path)
    node = _localise(node, _short(path.parent))
    bases = node.pop("_base_", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not (isinstance(bases, list) and all(isinstance(base, str) for base in bases)):
        raise ConfigError(f"{path}: _base_: expected a path or a list of paths, found {bases!r}")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = _merge(merged, _read(path.parent / base, (*parents, path)))
    return _merge(merged, node)


def _short(folder: Path) -> str:
    """Relative to the working directory below it, so that a saved config can move with it."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)


def _missing(path: Path, parents: tuple[Path, ...]) -> str:
    siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    named_by = f" (a _base_ of {parents[-1]})" if parents else ""
    hint = nearest(path.name, sorted(siblings)) if siblings else ""
    return f"there is no config file {path}{named_by}{hint}"


def _localise(node: Any, folder: str) -> Any:
    if isinstance(node, dict):
        return {k: _localise(v, folder) for k, v in node.items()}
    if isinstance(node, list):
        return [_localise(v, folder) for v in node]
    return node.replace("${here}", folder) if isinstance(node, str) else node


def _merge(base: Any, over: Any) -> Any:
    """Dicts merge, lists and values replace, another `type` replaces the whole node."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    if "type" in over and over["type"] != base.get("type", over["type"]):
        return over
    return base | {k: _merge(base[k], v) if k in base else v for k, v in over.items()}


def _ordered(config: dict[str, Any], overrides: Iterable[str]) -> list[str]:
    """The order in which no override undoes another or takes a copy too early.

    A type drops the arguments of the old one, so it goes before what is set below its node. What
    reaches through a reference copies the target, so it goes last.
    """
    ordered: list[str] = []
    for text in overrides:
        key = text.partition("=")[0]
        at = len(ordered)
        if key.endswith(".type"):
            below = (
                i
                for i, other in enumerate(ordered)
                if other.startswith(key.removesuffix("type")) and not other.startswith(f"{key}=")
            )
            at = next(below, at)
        ordered.insert(at, text)
    return sorted(ordered, key=lambda text: _crosses_reference(config, text))


def _crosses_reference(config: dict[str, Any], text: str) -> bool:
    node: Any = config
    for part in text.partition("=")[0].split(".")[:-1]:
        if not _has(node, part):
            return False
        node = _at(node, part)
        if isinstance(node, str):
            return _REFERENCE.fullmatch(node) is not None
    return False


def _override(config: dict[str, Any], text: str) -> None:
    key, equals, raw = text.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"-o {text}: expected key=value, e.g. epochs=1 or model.backbone.width=48"
        )
    try:
        value = yaml.load(raw, _Loader)
    except (yaml.YAMLError, ValueError):
        value = raw
    node: Any = config
    parts = key.split(".")
    for depth, part in enumerate(parts[:-1]):
        child = _child(node, part, text, parts[:depth])
        followed: tuple[str, ...] = ()
        while isinstance(child, str) and (whole := _REFERENCE.fullmatch(child)):
            child = deepcopy(_target(whole[1], config, followed))
            followed += (whole[1],)
        if child is None:
            child = {}
        _set(node, part, child)
        node = child
    current = _child(node, parts[-1], text, parts[:-1], new=True)
    if parts[-1] == "type" and current != value:
        node.clear()
    _set(node, parts[-1], _merge(current, value) if isinstance(value, dict) else value)


def _has(node: Any, part: str) -> bool:
    if isinstance(node, list):
        return part.isdecimal() and int(part) < len(node)
    return isinstance(node, dict) and part in node


def _at(node: Any, part: str) -> Any:
    return node[int(part) if isinstance(node, list) else part]


def _set(node: Any, part: str, value: Any) -> None:
    node[int(part) if isinstance(node, list) else part] = value


def _child(node: Any, part: str, text: str, above: list[str], new: bool = False) -> Any:
    """What `part` names in a dict or list; unknown last keys are left to the schema check."""
    place = ".".join(above) or "the config"
    if _has(node, part):
        return _at(node, part)
    if isinstance(node, dict):
        if new:
            return None
        raise ConfigError(f"-o {text}: {place} has no key '{part}'{nearest(part, list(node))}")
    if isinstance(node, list):
        raise ConfigError(f"-o {text}: {place} is a list of {len(node)}, found the place '{part}'")
    raise ConfigError(f"-o {text}: {place} is the value {node!r}, it has no keys")


def _resolve(node: Any, config: dict[str, Any], open_keys: tuple[str, ...]) -> Any:
    if isinstance(node, dict):
        return {k: _resolve(v, config, open_keys) for k, v in node.items()}
    if isinstance(node, list):
        return [_resolve(v, config, open_keys) for v in node]
    if not isinstance(node, str):
        return node
    whole = _REFERENCE.fullmatch(node)
    if whole:
        return _look_up(whole[1], config, open_keys)
    return _REFERENCE.sub(lambda m: str(_look_up(m[1], config, open_keys)), node)


def _look_up(key: str, config: dict[str, Any], open_keys: tuple[str, ...]) -> Any:
    return _resolve(_target(key, config, open_keys), config, (*open_keys, key))


def _target(key: str, config: dict[str, Any], open_keys: tuple[str, ...]) -> Any:
    """What a reference names, with the references inside it as they are."""
    if key in open_keys:
        raise ConfigError(f"${{{key}}}: goes in a circle: {' → '.join((*open_keys, key))}")
    value: Any = config
    for part in key.split("."):
        if isinstance(value, str):
            value = _resolve(value, config, (*open_keys, key))
        if not _has(value, part):
            hint = nearest(part, list(value)) if isinstance(value, dict) else ""
            raise ConfigError(f"${{{key}}}: the config has no '{part}' there{hint}")
        value = _at(value, part)
    return value
