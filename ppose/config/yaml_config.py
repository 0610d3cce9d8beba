"""YAML configs: `_base_`, `-o key=value` overrides and `${a.b.c}` references.

Bases are merged first, then overrides are set, then references are resolved, so that references
see overridden values. The result is a plain dict and itself a valid config.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from ppose.config.registry import ConfigError, current_arguments, current_names, nearest
from ppose.config.yaml_text import MAX_BYTES, MAX_DEPTH, MAX_VALUES, parse_yaml, read_yaml
from ppose.utils.shipped import shipped

SHIPPED = shipped("configs")
_NO_CONFIGS = {"_base_", "weights"}  # folders of SHIPPED without configs that can be run
_MAX_FILES = 100  # of one config
_MAX_STEPS = 20  # references to references
_REFERENCE = re.compile(r"\$\{([^${}]+)\}")


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a config file with its bases and overrides.

    Args:
        path: YAML file, or the name of a shipped config, see `find_config`. Its `_base_` is a
            path or a list of paths, relative to the file. `${here}` is the folder of the file
            that contains it.
        overrides: "key=value" strings. Keys such as `a.b.0.c` address dicts and lists; values
            are YAML.

    Returns:
        Plain dict with all references resolved; `name` defaults to that of the file. Deprecated
        names are replaced, with a line on stderr for each.

    Raises:
        FileNotFoundError: the file or one of its bases is missing.
        ConfigError: not YAML, circular bases or references, or an override of a missing node.
    """
    deprecated: set[str] = set()
    file = find_config(path)
    config = {"name": file.stem} | _read(file, (), deprecated, [])
    for override in _ordered(config, overrides):
        _override(config, override, deprecated)
    found: set[str] = set()
    resolved = current_names(_References(config).resolve(config), found)
    deprecated |= _located(file.name, found)
    for line in sorted(deprecated):
        print(line, file=sys.stderr)
    return resolved


def find_config(name: str | Path) -> Path:
    """The file of a config, given by its path or by the name of a shipped one ("quickstart").

    Raises:
        FileNotFoundError: there is neither; the message suggests a name.
    """
    path = Path(name)
    if path.is_file() or path.is_absolute():
        return path
    known = shipped_configs()
    plain = path.as_posix().removesuffix(".yml")
    if plain in known:
        return SHIPPED / f"{plain}.yml"
    if path.suffix in (".yml", ".yaml") and path.parent != Path():
        return path  # reading it raises an error that names the files next to it
    here = sorted(file.name for file in Path().glob("*.y*ml"))
    raise FileNotFoundError(
        f"there is no config file '{path}' and no shipped config of that name"
        f"{nearest(str(path), [*known, *here])}"
    )


def shipped_configs() -> list[str]:
    """Names of the shipped configs that can be run, as `find_config` takes them."""
    names = (path.relative_to(SHIPPED).with_suffix("") for path in SHIPPED.rglob("*.yml"))
    return sorted(name.as_posix() for name in names if name.parts[0] not in _NO_CONFIGS)


def _read(
    path: Path, parents: tuple[Path, ...], deprecated: set[str], sizes: list[int]
) -> dict[str, Any]:
    """A file merged over its bases.

    Args:
        path: of the file.
        parents: files that are being read, each a base of the one before.
        deprecated: gets a line for each former name in them.
        sizes: gets the bytes of each file that was read.
    """
    path = path.resolve()
    if path in parents:
        circle = " → ".join(p.name for p in (*parents, path))
        raise ConfigError(f"{path}: circular _base_: {circle}")
    if not path.is_file():
        raise FileNotFoundError(_missing(path, parents))
    found: set[str] = set()
    node = read_yaml(path)
    sizes.append(path.stat().st_size)
    if len(sizes) > _MAX_FILES or sum(sizes) > MAX_BYTES:
        raise ConfigError(
            f"{path}: with all its _base_ files, a config has at most {_MAX_FILES} files and "
            f"{MAX_BYTES // 1000} kB"
        )
    node = current_names(_localise(node, _short(path.parent)), found)
    bases = node.pop("_base_", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not (isinstance(bases, list) and all(isinstance(base, str) for base in bases)):
        raise ConfigError(f"{path}: _base_: expected a path or a list of paths, found {bases!r}")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = _merge(
            merged, _read(path.parent / base, (*parents, path), deprecated, sizes), found
        )
    merged = _merge(merged, node, found)
    deprecated |= _located(path.name, found)
    return merged


def _located(place: str, found: Iterable[str]) -> set[str]:
    return {f"{place}: deprecated: {line}" for line in found}


def _short(folder: Path) -> str:
    """A folder in the working directory as a relative path, so that both can be moved together."""
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


def _merge(base: Any, over: Any, found: set[str]) -> Any:
    """Merges dicts; lists, values and nodes of another `type` are replaced.

    `found` gets a line for each former name of an argument, which only the type tells.
    """
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    kind = over.get("type", base.get("type"))
    if kind != base.get("type", kind):
        return over
    base, over = (current_arguments(kind, node, found) for node in (base, over))
    return base | {k: _merge(base[k], v, found) if k in base else v for k, v in over.items()}


def _ordered(config: dict[str, Any], overrides: Iterable[str]) -> list[str]:
    """Overrides in an order in which none undoes another or copies a value too early.

    A new type drops the arguments of the old one, so it is set before the other keys of its node.
    An override that follows a reference copies the target, so it is set last.
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


def _override(config: dict[str, Any], text: str, deprecated: set[str]) -> None:
    key, equals, raw = text.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"-o {text}: expected key=value, e.g. epochs=1 or model.backbone.width=48"
        )
    try:
        value = parse_yaml(raw)
    except (ConfigError, yaml.constructor.ConstructorError) as error:
        raise ConfigError(f"-o {key}: {getattr(error, 'problem', error)}") from None
    except yaml.YAMLError:
        value = raw
    found: set[str] = set()
    value = current_names(value, found)
    node: Any = config
    *parts, last = key.split(".")
    for depth, part in enumerate(parts):
        part = _current_key(node, part, found)
        child = _child(node, part, text, parts[:depth])
        followed: tuple[str, ...] = ()
        while isinstance(child, str) and (whole := _REFERENCE.fullmatch(child)):
            child = deepcopy(_References(config).target(whole[1], followed))
            followed += (whole[1],)
        if child is None:
            child = {}
        _set(node, part, child)
        node = child
    last = _current_key(node, last, found)
    current = _child(node, last, text, parts, new=True)
    if last == "type":
        value = current_names({"type": value}, found)["type"]
        if value != current:
            node.clear()
    _set(node, last, _merge(current, value, found) if isinstance(value, dict) else value)
    deprecated |= _located(f"-o {text}", found)


def _current_key(node: Any, key: str, found: set[str]) -> str:
    """A key of a node, or what a former name of an argument is called now."""
    if not isinstance(node, dict):
        return key
    return next(iter(current_arguments(node.get("type"), {key: None}, found)))


def _has(node: Any, part: str) -> bool:
    if isinstance(node, list):
        return part.isdecimal() and int(part) < len(node)
    return isinstance(node, dict) and part in node


def _at(node: Any, part: str) -> Any:
    return node[int(part) if isinstance(node, list) else part]


def _set(node: Any, part: str, value: Any) -> None:
    node[int(part) if isinstance(node, list) else part] = value


def _child(node: Any, part: str, text: str, above: list[str], new: bool = False) -> Any:
    """The value of `part` in a dict or list; with `new`, None for an unknown key of a dict."""
    place = ".".join(above) or "the config"
    if _has(node, part):
        return _at(node, part)
    if isinstance(node, dict):
        if new:
            return None
        hint = nearest(part, list(node), node, ".".join(above))
        raise ConfigError(f"-o {text}: {place} has no key '{part}'{hint}")
    if isinstance(node, list):
        raise ConfigError(f"-o {text}: {place} is a list of {len(node)}, found the index '{part}'")
    raise ConfigError(f"-o {text}: {place} is the value {node!r} and has no keys")


class _References:
    """Resolves the references of a config, within limits: `[${b}, ${b}]` doubles b.

    Args:
        config: with references.
    """

    def __init__(self, config: dict[str, Any]):
        self._config = config
        self._values = self._characters = 0

    def resolve(self, node: Any, open_keys: tuple[str, ...] = (), depth: int = 1) -> Any:
        """A copy of a part of the config without references.

        Args:
            node: the part.
            open_keys: the references that lead to it.
            depth: lists and dicts that it is in.
        """
        self._values += 1
        if isinstance(node, dict):
            node = {k: self.resolve(v, open_keys, depth + 1) for k, v in node.items()}
        elif isinstance(node, list):
            node = [self.resolve(v, open_keys, depth + 1) for v in node]
        elif isinstance(node, str):
            if whole := _REFERENCE.fullmatch(node):
                return self._look_up(whole[1], open_keys, depth)
            node = _REFERENCE.sub(lambda m: str(self._look_up(m[1], open_keys, depth)), node)
            self._characters += len(node)
        if self._values > MAX_VALUES or self._characters > MAX_BYTES or depth > MAX_DEPTH:
            raise ConfigError(
                f"{_path(open_keys)}the config is too large with its references resolved: at most "
                f"{MAX_VALUES} values, {MAX_BYTES // 1000} kB, {MAX_DEPTH} lists and dicts inside "
                "each other"
            )
        return node

    def target(self, key: str, open_keys: tuple[str, ...], depth: int = 1) -> Any:
        """The value that a reference names, with the references in it unresolved."""
        if key in open_keys:
            raise ConfigError(f"${{{key}}}: circular reference: {' → '.join((*open_keys, key))}")
        if len(open_keys) >= _MAX_STEPS:
            raise ConfigError(f"{_path(open_keys)}more than {_MAX_STEPS} references in a row")
        value: Any = self._config
        for part in key.split("."):
            if isinstance(value, str):
                value = self.resolve(value, (*open_keys, key), depth)
            if not _has(value, part):
                hint = nearest(part, list(value)) if isinstance(value, dict) else ""
                raise ConfigError(f"${{{key}}}: the config has no '{part}' at this place{hint}")
            value = _at(value, part)
        return value

    def _look_up(self, key: str, open_keys: tuple[str, ...], depth: int) -> Any:
        return self.resolve(self.target(key, open_keys, depth), (*open_keys, key), depth)


def _path(open_keys: tuple[str, ...]) -> str:
    return f"${{{open_keys[0]}}}: " if open_keys else ""
