"""Random appearance of a person: colours and clothes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

Colour = tuple[float, float, float]


def _palette(codes: str) -> np.ndarray:
    return np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in codes.split()])


SKIN = _palette("f6d3bd eebf9f e3ac88 d39b73 bd8159 a06a45 845336 673f29 4e3022")
HAIR = _palette("1d1a1c 2f2320 4a3226 6b4529 8e5a32 b98a4e d9b877 9a4327 8f8d8c d8d5d0")
CLOTH = _palette(
    "e4572e f2a541 f3d35c 8fb339 3f8f5f 2a9d8f 4fb3bf 3d7ea6 2b4c7e 5b5f97 8d6a9f c8553d b23a48"
    " e08d9f f1c6c3 efe6d8 f7f4ee c9cdd2 8a939b 4a5058 2a2d34 7b4b3a b08968 a3b18a"
)
DENIM = _palette("2c3e57 3b5377 587aa3 7d9cbf 2a2d34 3d4047 6b6f76 8b7355 b9a48a 4c5b45 5a3e36")
SHOES = _palette("f4f2ee 2a2a2e 6b4730 c8553d 3d7ea6 e8e2d6 4a5058 f2a541")

_T = TypeVar("_T")

Top = Literal["t-shirt", "long sleeves", "sleeveless", "jacket", "dress"]
Bottom = Literal["trousers", "shorts", "skirt"]
Hair = Literal["bald", "short", "bob", "long", "ponytail", "bun", "afro", "cap", "beanie"]
Pattern = Literal["plain", "stripes", "two-tone", "print"]

_HAIR_SHARES: dict[Hair, float] = {
    "bald": 0.05,
    "short": 0.36,
    "bob": 0.12,
    "long": 0.14,
    "ponytail": 0.09,
    "bun": 0.06,
    "afro": 0.05,
    "cap": 0.08,
    "beanie": 0.05,
}
_PATTERN_SHARES: dict[Pattern, float] = {
    "plain": 0.5,
    "stripes": 0.2,
    "two-tone": 0.13,
    "print": 0.17,
}


def shaded(colour: Colour, factor: float) -> Colour:
    """The colour, darker (factor < 1) or lighter, within 0..255."""
    r, g, b = colour
    return (min(255.0, r * factor), min(255.0, g * factor), min(255.0, b * factor))


def mixed(a: Colour, b: Colour, share: float) -> Colour:
    """Mix of two colours: `share` of `b`, the rest of `a`."""
    keep = 1 - share
    return (
        a[0] * keep + b[0] * share,
        a[1] * keep + b[1] * share,
        a[2] * keep + b[2] * share,
    )


@dataclass(frozen=True)
class Look:
    """Colours (RGB 0..255) and garments of one person.

    Attributes:
        skin, hair: colours.
        hair_style: haircut, or a hat.
        hat: colour of cap or beanie.
        beard, glasses, backpack: whether the person has one.
        top: garment of the trunk, with `top_colour`, `top_second` and `pattern`.
        inner: colour of the shirt under a jacket.
        bottom: garment of the legs, with `bottom_colour`; not used with a dress.
        bottom_length: fraction of the leg covered by shorts or skirt; 0.5 ends at the knee.
        shoes: colour.
        loose: metres that clothes add to the radius of limbs.
    """

    skin: Colour
    hair: Colour
    hair_style: Hair
    hat: Colour
    beard: bool
    glasses: bool
    backpack: bool
    top: Top
    top_colour: Colour
    top_second: Colour
    pattern: Pattern
    inner: Colour
    bottom: Bottom
    bottom_colour: Colour
    bottom_length: float
    shoes: Colour
    loose: float

    @classmethod
    def random(cls, rng: np.random.Generator, child: bool = False) -> Look:
        """A random combination; children have no beard."""

        def pick(palette: np.ndarray) -> Colour:
            r, g, b = np.clip(palette[rng.integers(len(palette))] + rng.normal(0, 5, 3), 0, 255)
            return (float(r), float(g), float(b))

        def choose(shares: Mapping[_T, float]) -> _T:
            return list(shares)[rng.choice(len(shares), p=list(shares.values()))]

        dress_style = rng.random() < 0.45
        tops: dict[Top, float] = {"t-shirt": 0.42, "long sleeves": 0.32, "jacket": 0.18}
        tops |= {"sleeveless": 0.08, "dress": 0.0}
        if dress_style:
            tops = {"t-shirt": 0.32, "long sleeves": 0.26, "jacket": 0.12}
            tops |= {"sleeveless": 0.1, "dress": 0.2}
        bottoms: dict[Bottom, float] = {"trousers": 0.76, "shorts": 0.24, "skirt": 0.0}
        if dress_style:
            bottoms = {"trousers": 0.6, "shorts": 0.16, "skirt": 0.24}
        skin = SKIN[rng.integers(len(SKIN))]
        red, green, blue = (float(c) for c in skin * rng.uniform(0.95, 1.04))
        # Very fair hair on dark skin is rare, so only dark colours are used.
        hair = HAIR[: 5 if skin.sum() < 330 else len(HAIR)]
        top_colour, bottom = pick(CLOTH), choose(bottoms)
        lengths = {"trousers": (1.0, 1.0), "shorts": (0.25, 0.48), "skirt": (0.3, 0.55)}
        return cls(
            skin=(red, green, blue),
            hair=pick(hair),
            hair_style=choose(_HAIR_SHARES),
            hat=pick(CLOTH),
            beard=rng.random() < 0.3 and not (dress_style or child),
            glasses=rng.random() < 0.15,
            backpack=rng.random() < 0.1,
            top=choose(tops),
            top_colour=top_colour,
            top_second=pick(CLOTH),
            pattern=choose(_PATTERN_SHARES),
            inner=pick(CLOTH),
            bottom=bottom,
            bottom_colour=pick(DENIM if bottom != "skirt" else CLOTH),
            bottom_length=rng.uniform(*lengths[bottom]),
            shoes=pick(SHOES),
            loose=rng.uniform(0.004, 0.018),
        )
