"""The sides of the body in the names of joints: `left_eye`, `L_Eye`, `eyeL`, `lhip`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

_WORDS = {"left": "right", "lft": "rgt", "lt": "rt"}
_LETTERS = {"l": "r"}
_OTHER = {**_WORDS, **_LETTERS, **{b: a for pair in (_WORDS, _LETTERS) for a, b in pair.items()}}
_LEFT = {*_WORDS, *_LETTERS}
# A word of the letters of a side is that side, misspelt.
_SPELLED = {"".join(sorted(word)): word for word in ("left", "right")}
# Words in any case, also joined as in "REye" and "eyeL"; numbers; what is between them.
_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^A-Za-z]+")
# Joined without a capital: "lefteye", "eyeleft", "lhip", "hipl".
_JOINED = re.compile(r"^(?:left|right|l|r)(?=[a-z]{2})|(?<=[a-z]{2})(?:left|right|l|r)$")


@dataclass(frozen=True)
class _Reading:
    """A way to read a side in a name.

    Attributes:
        side: "left" or "right".
        other: name of the joint on the other side, in lower case.
        tells: whether it is a side even where there is no such joint.
    """

    side: str
    other: str
    tells: bool


def other_side(names: Sequence[str], joined: bool = True) -> dict[str, str]:
    """Joint → joint on the other side, for each pair of names that differ in their side only.

    Args:
        names: of all joints.
        joined: also read `lhip` and `hipl`, which may be part of a word: `lock`, `rock`.
    """
    lower = {name.lower(): name for name in names}
    pairs: dict[str, str] = {}
    for name in names:
        for reading in _readings(name, joined):
            other = lower.get(reading.other)
            if other not in (None, name) and other not in pairs.values():
                pairs[name] = other
                break
    return {name: other for name, other in pairs.items() if pairs.get(other) == name}


def side_of(name: str, other: str | None = None) -> str | None:
    """ "left" or "right" in a name, that of a joint with the partner `other` if it is known."""
    readings = list(_readings(name))
    fits = [r for r in readings if (r.other == other.lower() if other else r.tells)]
    chosen = fits or ([r for r in readings if r.tells] if other else [])
    return chosen[0].side if chosen else None


def missing_side(names: Sequence[str]) -> dict[str, str]:
    """Joint whose name tells of a side → name on the other side that no joint has.

    One letter tells of a side where it does so in another pair of these names.
    """
    pairs = other_side(names)
    letters = any(set(_tokens(a)) & {*_LETTERS, *_LETTERS.values()} for a in pairs)
    found = {}
    for name in names:
        readings = [] if name in pairs else list(_readings(name))
        tells = [r for r in readings if r.tells or (letters and _is_separate(name))]
        if tells:
            found[name] = _cased(name, tells[0].other)
    return found


def misspelt_sides(names: Sequence[str]) -> dict[str, str]:
    """Joint → name that it probably means, of those where that makes a pair."""
    meant = {name: "".join(_spelled(token) for token in _TOKEN.findall(name)) for name in names}
    pairs = other_side(list(meant.values()))
    return {name: right for name, right in meant.items() if name != right and right in pairs}


def closest(name: str, names: Sequence[str]) -> str | None:
    """The most similar of some names, if one is."""
    return next(iter(get_close_matches(name, names, 1)), None)


def _readings(name: str, joined: bool = True) -> Iterator[_Reading]:
    """All readings of a name, the surest first: words, words and letters, letters, joined ones."""
    lower, tokens = name.lower(), _tokens(name)
    for known in ((_WORDS, _LETTERS), (_WORDS,), (_LETTERS,)):
        swaps = {side for pairs in known for pair in pairs.items() for side in pair}
        found = [token for token in tokens if token in swaps]
        if found:
            other = "".join(_OTHER[token] if token in swaps else token for token in tokens)
            tells = known != (_LETTERS,) and any(len(token) > 1 for token in found)
            yield _Reading(_side(found[0]), other, tells)
    for match in _JOINED.finditer(lower) if joined else ():
        side = match.group()
        other = lower[: match.start()] + _OTHER[side] + lower[match.end() :]
        yield _Reading(_side(side), other, len(side) > 1 and match.start() == 0)


def _tokens(name: str) -> list[str]:
    return [token.lower() for token in _TOKEN.findall(name)]


def _is_separate(name: str) -> bool:
    return bool({*_LETTERS, *_LETTERS.values()} & set(_tokens(name)))


def _side(token: str) -> str:
    return "left" if token in _LEFT else "right"


def _spelled(token: str) -> str:
    lower = token.lower()
    return _SPELLED.get("".join(sorted(lower)), token) if lower not in _OTHER else token


def _cased(name: str, other: str) -> str:
    """`other`, a name in lower case, with capitals where `name` has them."""
    if name.isupper():
        return other.upper()
    made, at = "", 0
    for token in _TOKEN.findall(name):
        part = other[at:][: len(_OTHER.get(token.lower(), token))]
        at += len(part)
        made += part.upper() if token.isupper() else part.title() if token.istitle() else part
    return made + other[at:]
