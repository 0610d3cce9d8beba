"""Indoor backgrounds: a wall with furniture above a floor."""

from __future__ import annotations

import numpy as np

from ppose.synthetic.background import SKIES, Background, Painter, tint
from ppose.synthetic.look import CLOTH, Colour, mixed, shaded

_WALLS: list[Colour] = [
    (226, 218, 204),
    (204, 214, 214),
    (214, 196, 178),
    (186, 198, 188),
    (232, 226, 220),
    (176, 188, 204),
    (208, 184, 176),
    (150, 164, 160),
]
_FLOORS: list[Colour] = [
    (182, 146, 108),
    (150, 116, 86),
    (196, 188, 178),
    (140, 134, 130),
    (206, 176, 138),
]


def indoors(rng: np.random.Generator, size_wh: tuple[int, int]) -> Background:
    """A wall with furniture above a floor."""
    u = rng.uniform
    paint = Painter(rng, size_wh)
    floor = u(0.5, 0.68)
    wall = tint(rng, _WALLS[rng.integers(len(_WALLS))])
    boards = tint(rng, _FLOORS[rng.integers(len(_FLOORS))])
    paint.gradient(0, floor, shaded(wall, 0.95), shaded(wall, 1.04))
    _wall_pattern(paint, floor, wall)
    paint.gradient(floor, 1.0, shaded(boards, 0.88), shaded(boards, 1.06))
    horizon = floor - u(0.1, 0.22)
    _boards(paint, floor, horizon, boards)
    paint.texture(floor, 1.0, 4, 90)
    paint.texture(0, floor, 2, 30)
    paint.box(0, floor - 0.022, paint.aspect, floor, mixed(wall, (250, 250, 248), 0.55))
    view = SKIES[rng.integers(len(SKIES))][:2]
    free_from = 0.0
    for x in np.arange(u(0.0, 0.15), paint.aspect, 0.4):
        hung = rng.random()
        if hung < 0.35:
            _window(paint, x, floor, view)
        elif hung < 0.7:
            _painting(paint, x + u(0, 0.1), floor)
        if x > free_from and rng.random() < 0.6:
            furniture = (_sofa, _shelf, _plant, _lamp, _cabinet)[rng.integers(5)]
            free_from = furniture(paint, x, floor)
    if rng.random() < 0.4:
        rug = tuple(CLOTH[rng.integers(len(CLOTH))])
        x, y, size = u(0.3, paint.aspect - 0.3), u(floor + 0.15, 0.98), u(0.3, 0.6)
        paint.disc(x, y, size, mixed(rug, boards, 0.35), 0.22)
        paint.disc(x, y, size * 0.8, mixed(rug, boards, 0.55), 0.2)
    return Background(paint.image, horizon * size_wh[1], floor * size_wh[1], u(0, 0.4))


def _wall_pattern(paint: Painter, floor: float, wall: Colour) -> None:
    rng, u = paint.rng, paint.rng.uniform
    kind = rng.random()
    if kind < 0.25:
        width = u(0.05, 0.12)
        for x in np.arange(0, paint.aspect, 2 * width):
            paint.box(x, 0, x + width, floor, shaded(wall, 0.965))
    elif kind < 0.5:
        dado = mixed(wall, tuple(CLOTH[rng.integers(len(CLOTH))]), 0.25)
        rail = floor - u(0.16, 0.24)
        paint.box(0, rail, paint.aspect, floor, dado)
        paint.box(0, rail, paint.aspect, rail + 0.012, shaded(dado, 0.9))


def _boards(paint: Painter, floor: float, horizon: float, colour: Colour) -> None:
    rng, u = paint.rng, paint.rng.uniform
    joint = shaded(colour, 0.86)
    vanish = np.array([u(0.2, paint.aspect - 0.2), horizon])
    for x in np.arange(-2 * paint.aspect, 3 * paint.aspect, u(0.16, 0.3)):
        start = vanish + (np.array([x, 1.2]) - vanish) * (floor - horizon) / (1.2 - horizon)
        paint.stroke((start, (x, 1.2)), 0.003, joint)
    if rng.random() < 0.4:
        for row in floor + (1.05 - floor) * np.linspace(0.0, 1, 6)[1:] ** 1.6:
            paint.stroke(((0, row), (paint.aspect, row)), 0.003, joint)


def _window(paint: Painter, x: float, floor: float, view: tuple[Colour, Colour]) -> None:
    rng, u = paint.rng, paint.rng.uniform
    top, width, height = u(0.04, 0.12), u(0.22, 0.32), u(0.24, 0.34)
    zenith, haze = view
    frame: Colour = (244, 242, 238)
    paint.box(x - 0.014, top - 0.014, x + width + 0.014, top + height + 0.014, frame)
    for i in range(6):
        y = top + height * i / 6
        paint.box(x, y, x + width, y + height / 6 + 0.002, mixed(zenith, haze, i / 5))
    paint.box(x + width / 2 - 0.006, top, x + width / 2 + 0.006, top + height, frame)
    paint.box(x, top + height * 0.45, x + width, top + height * 0.45 + 0.01, frame)
    if rng.random() < 0.5:
        cloth = mixed(tuple(CLOTH[rng.integers(len(CLOTH))]), (235, 230, 224), 0.4)
        low = min(floor - 0.03, top + height + u(0.02, 0.3))
        for left in (x - 0.06, x + width - 0.02):
            paint.box(left, top - 0.03, left + 0.08, low, cloth)
            for fold in (0.02, 0.045):
                paint.box(left + fold, top - 0.03, left + fold + 0.008, low, shaded(cloth, 0.92))


def _painting(paint: Painter, x: float, floor: float) -> None:
    rng, u = paint.rng, paint.rng.uniform
    y, width, height = u(0.06, 0.16), u(0.1, 0.2), u(0.1, 0.18)
    colours = [
        mixed(tuple(c), (220, 214, 206), 0.3) for c in CLOTH[rng.integers(len(CLOTH), size=3)]
    ]
    paint.box(x - 0.012, y - 0.012, x + width + 0.012, y + height + 0.012, (96, 78, 62))
    paint.box(x, y, x + width, y + height, colours[0])
    paint.box(x, y + height * u(0.4, 0.7), x + width, y + height, colours[1])
    paint.disc(x + width * u(0.3, 0.7), y + height * 0.4, height * 0.18, colours[2])


# Furniture starts at `x` and extends to the right; each function returns its right end.
def _sofa(paint: Painter, x: float, floor: float) -> float:
    rng, u = paint.rng, paint.rng.uniform
    cloth = mixed(tuple(CLOTH[rng.integers(len(CLOTH))]), (150, 146, 140), 0.35)
    width, foot, seat = u(0.45, 0.65), floor + u(0.02, 0.06), u(0.1, 0.13)
    paint.box(x, foot - 2.1 * seat, x + width, foot, shaded(cloth, 0.86))
    paint.box(x + 0.03, foot - 1.2 * seat, x + width / 2 - 0.004, foot - 0.015, cloth)
    paint.box(x + width / 2 + 0.004, foot - 1.2 * seat, x + width - 0.03, foot - 0.015, cloth)
    for left in (x - 0.03, x + width - 0.03):
        paint.box(left, foot - 1.5 * seat, left + 0.06, foot, shaded(cloth, 0.93))
    return x + width + 0.03


def _shelf(paint: Painter, x: float, floor: float) -> float:
    rng, u = paint.rng, paint.rng.uniform
    wood = tint(rng, (158, 122, 88), 12)
    width, foot, height = u(0.2, 0.32), floor + 0.015, u(0.36, 0.5)
    paint.box(x, foot - height, x + width, foot, shaded(wood, 0.7))
    boards = 4
    for board in range(boards):
        y = foot - height * board / boards
        left = x + 0.012
        while left < x + width - 0.03:
            book = u(0.012, 0.03)
            high = height / boards * u(0.5, 0.85)
            colour = mixed(tuple(CLOTH[rng.integers(len(CLOTH))]), (150, 140, 130), 0.3)
            paint.box(left, y - high, left + book, y, colour)
            left += book + (u(0, 0.05) if rng.random() < 0.25 else 0.002)
        paint.box(x, y - 0.008, x + width, y + 0.004, wood)
    paint.box(x, foot - height, x + width, foot - height + 0.012, wood)
    return x + width


def _plant(paint: Painter, x: float, floor: float) -> float:
    rng, u = paint.rng, paint.rng.uniform
    leaf, foot, size = tint(rng, (84, 134, 90), 10), floor + u(0.01, 0.05), u(0.14, 0.24)
    pot = tint(rng, (188, 112, 80), 12)
    for angle in np.linspace(-1.1, 1.1, 7):
        tip = np.array([x + size * np.sin(angle), foot - size * (0.6 + 0.9 * np.cos(angle))])
        root, side = np.array([x, foot - size * 0.4]), np.array([size * 0.1, size * 0.06])
        middle = (tip + root) / 2
        blade = np.array([root, middle - side, tip, middle + side])
        paint.polygon(blade, shaded(leaf, u(0.85, 1.12)))
    rim, base = size * 0.22, size * 0.15
    sides = [[x - rim, foot - size * 0.42], [x + rim, foot - size * 0.42]]
    paint.polygon(np.array([*sides, [x + base, foot], [x - base, foot]]), pot)
    return x + 0.1


def _lamp(paint: Painter, x: float, floor: float) -> float:
    u = paint.rng.uniform
    foot, height = floor + u(0.01, 0.04), u(0.35, 0.5)
    paint.stroke(((x, foot), (x, foot - height)), 0.01, (90, 86, 84))
    paint.disc(x, foot, 0.04, (90, 86, 84), 0.25)
    shade = [[x - 0.04, foot - height - 0.06], [x + 0.04, foot - height - 0.06]]
    shade += [[x + 0.07, foot - height + 0.04], [x - 0.07, foot - height + 0.04]]
    paint.polygon(np.array(shade), tint(paint.rng, (240, 222, 182), 6))
    return x + 0.07


def _cabinet(paint: Painter, x: float, floor: float) -> float:
    u = paint.rng.uniform
    wood = tint(paint.rng, (184, 150, 112), 16)
    width, height, foot = u(0.25, 0.45), u(0.14, 0.24), floor + u(0.01, 0.04)
    paint.box(x, foot - height, x + width, foot, wood)
    paint.box(x - 0.01, foot - height - 0.012, x + width + 0.01, foot - height, shaded(wood, 0.85))
    for left in (x + 0.012, x + width / 2 + 0.006):
        right = left + width / 2 - 0.018
        paint.box(left, foot - height + 0.014, right, foot - 0.016, shaded(wood, 1.07))
        paint.disc((left + right) / 2, foot - height * 0.75, 0.007, shaded(wood, 0.6))
    return x + width
