"""Outdoor backgrounds: sky, skyline and open ground."""

from __future__ import annotations

import numpy as np

from ppose.synthetic.background import SKIES, Background, Painter, tint
from ppose.synthetic.look import CLOTH, Colour, mixed, shaded

_GROUNDS: dict[str, tuple[Colour, float]] = {
    "meadow": ((128, 164, 88), 7),
    "lawn": ((104, 152, 84), 5),
    "sand": ((222, 200, 158), 5),
    "road": ((128, 130, 134), 4),
    "plaza": ((190, 184, 174), 4),
    "snow": ((226, 232, 238), 3),
    "earth": ((162, 132, 100), 7),
}


def outdoors(rng: np.random.Generator, size_wh: tuple[int, int]) -> Background:
    """Sky, skyline and open ground."""
    u = rng.uniform
    paint = Painter(rng, size_wh)
    horizon = u(0.3, 0.52)
    zenith, haze, sunny = SKIES[rng.integers(len(SKIES))]
    paint.gradient(0, horizon + 0.01, tint(rng, zenith), haze)
    _sky(paint, horizon, haze, sunny)
    kind = list(_GROUNDS)[rng.integers(len(_GROUNDS))]
    ground, rough = _GROUNDS[kind]
    ground = tint(rng, ground)
    skyline = rng.random()
    if skyline < 0.5 or kind == "meadow":
        _hills(paint, horizon, haze)
    elif skyline < 0.85:
        _buildings(paint, horizon, haze)
    elif kind == "sand":
        sea = tint(rng, (86, 148, 178))
        paint.gradient(horizon - 0.06, horizon + 0.01, sea, shaded(sea, 1.15))
    paint.gradient(horizon, 1.0, mixed(ground, haze, 0.3), shaded(ground, 0.92))
    paint.texture(horizon, 1.0, rough, 20)
    paint.texture(horizon, 1.0, rough, 110)
    _ground_marks(paint, kind, horizon, ground)
    _trees(paint, horizon, kind, haze)
    if rng.random() < 0.25:
        _fence(paint, horizon)
    return Background(paint.image, horizon * size_wh[1], horizon * size_wh[1], sunny)


def _sky(paint: Painter, horizon: float, haze: Colour, sunny: float) -> None:
    rng, u = paint.rng, paint.rng.uniform
    if sunny > 0.5 and rng.random() < 0.3:
        paint.disc(u(0, paint.aspect), u(0.05, 0.2), u(0.03, 0.05), (255, 246, 214))
    for _ in range(rng.integers(0, 4)):
        x, y, size = u(0, paint.aspect), u(0.04, horizon * 0.75), u(0.02, 0.05)
        cloud = mixed(haze, (255, 255, 255), 0.75)
        for step in np.linspace(-1, 1, 5):
            lift = size * 0.4 * (1 - step**2)
            paint.disc(x + step * size * 2.2, y - lift, size * (1.1 - 0.6 * abs(step)), cloud, 0.7)


def _hills(paint: Painter, horizon: float, haze: Colour) -> None:
    rng, u = paint.rng, paint.rng.uniform
    hill = tint(rng, (96, 132, 116), 14)
    count = int(rng.integers(1, 4))
    for i in range(count):
        near = (i + 1) / count
        colour = mixed(haze, hill, 0.35 + 0.5 * near)
        base = horizon - 0.1 * (1 - near) - 0.02
        paint.ridge(base, u(0.01, 0.05), 3, colour, horizon + 0.01)


def _buildings(paint: Painter, horizon: float, haze: Colour) -> None:
    rng, u = paint.rng, paint.rng.uniform
    left = -u(0, 0.15)
    while left < paint.aspect:
        width, height = u(0.12, 0.34), u(0.12, 0.9) * horizon
        wall = CLOTH[rng.integers(len(CLOTH))]
        wall = mixed(mixed(tuple(wall), (190, 184, 176), 0.62), haze, 0.3)
        top = horizon - height
        paint.box(left, top, left + width, horizon + 0.01, wall)
        paint.box(left, top, left + width, top + 0.012, shaded(wall, 0.82))
        pane = mixed(wall, (70, 88, 110), u(0.35, 0.7))
        step = u(0.045, 0.07)
        for y in np.arange(top + 0.035, horizon - 0.03, step * 1.2):
            for x in np.arange(left + 0.02, left + width - 0.03, step):
                paint.box(x, y, x + step * 0.55, y + step * 0.65, pane)
        left += width + (u(0, 0.12) if rng.random() < 0.4 else 0)


def _ground_marks(paint: Painter, kind: str, horizon: float, ground: Colour) -> None:
    rng, u = paint.rng, paint.rng.uniform
    vanish = np.array([u(0, paint.aspect), horizon])
    if kind == "plaza":
        joint = shaded(ground, 0.88)
        for x in np.arange(-2 * paint.aspect, 3 * paint.aspect, u(0.25, 0.5)):
            paint.stroke((vanish, np.array([x, 1.2])), 0.003, joint)
        for row in horizon + (1.05 - horizon) * np.linspace(0.12, 1, 8) ** 2:
            paint.stroke(((0, row), (paint.aspect, row)), 0.003, joint)
    elif kind == "road":
        verge = tint(rng, (124, 150, 92))
        for out in (-1, 1):
            outside = [vanish[0] + out * 3 * paint.aspect, horizon]
            edge = [vanish[0] + out * u(0.9, 1.5), 1.05]
            paint.polygon(np.array([vanish, edge, [outside[0], 1.05], outside]), verge)
        for near in np.linspace(0.1, 1, 5) ** 1.6:
            start = vanish + (0, near * 0.7 * (1 - horizon))
            end = vanish + (0, near * (1 - horizon))
            paint.stroke((start, end), 0.004 + 0.02 * near, (236, 232, 220))
    elif kind in ("meadow", "lawn"):
        tuft, count = shaded(ground, 0.82), 26
        near = rng.random(count)
        roots = np.stack([u(0, paint.aspect, count), horizon + (1 - horizon) * near], axis=1)
        for (x, y), size in zip(roots, 0.006 + 0.02 * near, strict=True):
            blades = [[x - size, y - size], [x, y], [x + size * 0.2, y - 1.5 * size]]
            blades += [[x, y], [x + size, y - size]]
            paint.stroke(blades, 0.0, tuft)


def _trees(paint: Painter, horizon: float, kind: str, haze: Colour) -> None:
    rng, u = paint.rng, paint.rng.uniform
    leaf = tint(rng, (88, 132, 82) if kind != "snow" else (70, 104, 92), 12)
    firs = rng.random() < 0.4
    for _ in range(rng.integers(0, 6)):
        x, far = u(-0.05, paint.aspect + 0.05), rng.random()
        size = 0.1 + 0.3 * (1 - far) ** 2
        foot = horizon + 0.09 * (1 - far) ** 2
        colour = mixed(tint(rng, leaf, 6), haze, 0.15 + 0.3 * far)
        trunk = mixed((104, 82, 64), haze, 0.15 + 0.3 * far)
        if firs:
            paint.box(x - size * 0.03, foot - size * 0.2, x + size * 0.03, foot, trunk)
            for level in range(3):
                low, half = foot - size * (0.15 + 0.25 * level), size * (0.28 - 0.06 * level)
                fir = [[x - half, low], [x + half, low], [x, low - size * 0.4]]
                paint.polygon(np.array(fir), shaded(colour, 0.92 + 0.06 * level))
        else:
            paint.box(x - size * 0.035, foot - size * 0.5, x + size * 0.035, foot, trunk)
            for dx, dy, r in ((-0.17, 0.55, 0.2), (0.17, 0.55, 0.2), (0, 0.75, 0.25)):
                tone = shaded(colour, 0.94 if dy < 0.6 else 1.03)
                paint.disc(x + dx * size, foot - dy * size, r * size, tone)


def _fence(paint: Painter, horizon: float) -> None:
    u = paint.rng.uniform
    wood = tint(paint.rng, (196, 178, 150), 14)
    foot, high = horizon + u(0.01, 0.05), u(0.06, 0.1)
    for y in (0.35, 0.75):
        paint.stroke(
            ((0, foot - y * high), (paint.aspect, foot - y * high)), 0.009, shaded(wood, 0.9)
        )
    for x in np.arange(u(0, 0.1), paint.aspect, u(0.06, 0.14)):
        paint.box(x, foot - high, x + 0.014, foot, wood)
