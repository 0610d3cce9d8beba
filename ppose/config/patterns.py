"""Selection of names by regular expressions of a config."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from ppose.config import ConfigError, nearest


def match_names(pattern: str, names: Iterable[str], key: str) -> list[str]:
    """The names whose beginning matches a regular expression.

    Args:
        pattern: regular expression.
        names: names to select from.
        key: key of the config that holds the pattern, for messages.

    Raises:
        ConfigError: the pattern is not a regular expression, or nothing matches.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{key}: '{pattern}' is not a regular expression: {error}") from None
    names = list(names)
    found = [name for name in names if expression.match(name)]
    if not found:
        tops = sorted({name.partition(".")[0] for name in names})
        modules = {name[: dot.start()] for name in names for dot in re.finditer(r"\.", name)}
        close = get_close_matches(pattern, sorted(modules), 1)
        raise ConfigError(
            f"{key}: no name begins with '{pattern}'{nearest(pattern, close or tops)}"
        )
    return found
