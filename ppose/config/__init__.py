"""YAML configs, and the registry that builds objects from them."""

from ppose.config.registry import (
    ConfigError,
    build,
    check,
    current_names,
    nearest,
    places,
    register,
    registered,
    renamed,
    with_defaults,
)
from ppose.config.yaml_config import find_config, load_config, shipped_configs
from ppose.config.yaml_text import dump_config, read_yaml

__all__ = [
    "ConfigError",
    "build",
    "check",
    "current_names",
    "dump_config",
    "find_config",
    "load_config",
    "nearest",
    "places",
    "read_yaml",
    "register",
    "registered",
    "renamed",
    "shipped_configs",
    "with_defaults",
]
